"""What volunteers would say: ideal fractions from the latents, blurred by how well the galaxy is seen, and a walk down the tree.

Each volunteer starts at the first question and goes where their answers lead, so a child question has exactly the voters its
parent answers sent. The fractions are invented, not fitted to Galaxy Zoo 2: they are monotone in the latents and ambiguous where
a parameter lies near the line between two answers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.schema import GZ2
from galaxysd.simulate.latents import DISC, EDGE_ON, IRREGULAR, STAR, Latents

MOST_VOLUNTEERS = 60


def below(value: Tensor, line: float, scatter: float) -> Tensor:
    """The share of people who put `value` below `line`, when their eyes scatter by a normal law."""
    return 0.5 * torch.erfc((value - line) / (scatter * math.sqrt(2)))


def graded(value: Tensor, lines: tuple[float, ...], scatter: float) -> Tensor:
    """The shares of the classes that ascending `lines` cut a parameter into: [B, lines + 1]."""
    edges = torch.stack([torch.zeros_like(value), *(1 - below(value, line, scatter) for line in lines)], 1)
    passed = 1 - edges  # share below each line, the first of which is at minus infinity
    passed[:, 0] = 1
    shares = [passed[:, 0] - edges[:, 1]] + [edges[:, k] - edges[:, k + 1] for k in range(1, len(lines))] + [edges[:, len(lines)]]
    return torch.stack(shares, 1).clamp_min(0)


def spread(shares: Tensor, floor: float) -> Tensor:
    """The shares with a few stray votes everywhere, summing to 1."""
    shares = shares / shares.sum(1, keepdim=True)
    return (1 - floor) * shares + floor / shares.shape[1]


def visibility(latents: Latents) -> Tensor:
    """How much of the structure can be seen, 0 to 1: from size over seeing, and from brightness over sky noise."""
    resolved = torch.sigmoid(2.2 * (torch.log2(latents.r90 / latents.seeing) - 2.0))
    surface = latents.magnitude + 2.5 * torch.log10(2 * math.pi * (latents.r90 / 2.35) ** 2)
    return resolved * torch.sigmoid(1.6 * (24.0 - surface - 2.5 * torch.log10(latents.sky)))


@dataclass(frozen=True)
class Noticed:
    """How much of each feature is noticed, 0 to 1: its strength, by how well it can be seen."""

    bar: Tensor
    arms: Tensor
    ring: Tensor
    lane: Tensor
    lens: Tensor
    disturbed: Tensor
    irregular: Tensor
    other: Tensor
    merger: Tensor

    @classmethod
    def of(cls, lat: Latents, seen: Tensor) -> Noticed:
        def strength(share: Tensor, enough: float, visible: Tensor = seen) -> Tensor:
            return (share / enough).clamp(0, 1) * visible

        slant = below(lat.cos_inclination, 0.3, 0.08)  # what lies in a steep disc hides
        tight = (torch.sin(lat.arm_pitch[:, 0]) / math.sin(0.2)).clamp(0.4, 1)
        # Large and apart from the galaxy: a companion is seen where arms are not.
        coarse = 0.35 + 0.65 * seen
        merging = lat.mate_share > 0
        torn = lat.tail_share.sum(1) + lat.arc_share.sum(1)
        return cls(
            bar=strength(lat.bar_share, 0.13) * (1 - 0.6 * slant),
            arms=strength(lat.arm_share, 0.4) * tight * (1 - 0.7 * slant),
            ring=strength(lat.ring_share, 0.2) * (1 - 0.8 * slant),
            lane=strength(lat.lane_depth, 2.0),
            lens=torch.where(lat.lens == 1, strength(lat.arc_share.sum(1), 0.06), 0.0),
            disturbed=torch.where(~merging & (lat.lens == 0), strength(torn, 0.18, coarse), 0.0),
            irregular=(lat.kind == IRREGULAR) * (0.3 + 0.7 * seen),
            other=strength(lat.cloud_share, 0.1),
            merger=strength(lat.mate_share, 0.3, coarse),
        )


# What few see in a galaxy without anything odd, in the order of the question's answers.
NOTHING_ODD = (0.24, 0.07, 0.11, 0.06, 0.34, 0.14, 0.04)


def ideal(latents: Latents) -> Tensor:
    """Conditional fractions that an endless crowd would give: [B, answers]."""
    kind, seen = latents.kind, visibility(latents)
    disc, edge, irregular, star = kind == DISC, kind == EDGE_ON, kind == IRREGULAR, kind == STAR
    noticed = Noticed.of(latents, seen)

    def by_kind(spheroid: Tensor | float, on_disc: Tensor | float, on_edge: Tensor | float, odd: Tensor | float) -> Tensor:
        value = torch.where(disc, on_disc, torch.where(edge, on_edge, torch.where(irregular, odd, spheroid)))
        return value.to(seen.dtype)

    thin = below(latents.core_ratio, 0.3, 0.05)
    inside = torch.stack([noticed.arms, noticed.bar, 0.85 * noticed.ring]).amax(0)
    outside = torch.stack([0.55 * noticed.merger, 0.5 * noticed.disturbed, 0.35 * noticed.lens, 0.35 * noticed.other]).amax(0)
    featured = by_kind(0.05 + 0.12 * thin + 0.45 * noticed.lane, 0.1 + 0.8 * inside, 0.2 + 0.72 * seen, 0.25 + 0.55 * seen)
    featured = featured + (0.95 - featured) * outside
    trail = (latents.trail_flux.amax(1) / 8).clamp(0, 1)
    artifact = torch.where(star, 0.85, 0.05 - 0.03 * seen + 0.3 * trail)
    featured = torch.where(star, 0.05, featured * (1 - artifact))
    answers = [torch.stack([1 - featured - artifact, featured, artifact], 1)]

    apparent = by_kind(latents.core_ratio, latents.cos_inclination, latents.disc_height * 0.6, 0.75 * latents.core_ratio + 0.3)
    side_on = by_kind(0.75 * thin, below(latents.cos_inclination, 0.24, 0.06), 0.95, 0.08)
    answers.append(torch.stack([side_on, 1 - side_on], 1))
    bar = by_kind(0.1, 0.08 + 0.86 * noticed.bar, 0.12, 0.1)
    answers.append(torch.stack([bar, 1 - bar], 1))
    spiral = by_kind(0.12, 0.12 + 0.86 * noticed.arms, 0.2, 0.15)
    # Tails and rings are taken for arms now and then.
    spiral = spiral + (1 - spiral) * torch.maximum(0.25 * noticed.disturbed, torch.maximum(0.2 * noticed.merger, 0.1 * noticed.ring))
    answers.append(torch.stack([spiral, 1 - spiral], 1))

    prominence = by_kind(0.6, latents.core_share.clamp_min(0.005), latents.core_share.clamp_min(0.005), 0.03)
    answers.append(spread(graded(torch.log(prominence.clamp_min(1e-3)), tuple(math.log(line) for line in (0.025, 0.15, 0.5)), 0.4), 0.02))

    # ring, lens or arc, disturbed, irregular, other, merger, dust lane
    named = torch.stack(
        [
            0.85 * noticed.ring, 0.8 * noticed.lens, 0.8 * noticed.disturbed, 0.95 * noticed.irregular, 0.7 * noticed.other,
            0.95 * noticed.merger, torch.where(edge, 0.08, 0.9) * noticed.lane,
        ],
        1,
    )  # fmt: skip
    nothing = (1 - named).prod(1)
    odd = 1 - by_kind(0.95, 0.93, 0.93, 0.95) * nothing
    answers.append(torch.stack([odd, 1 - odd], 1))
    answers.append(graded(-apparent, (-0.8, -0.38), 0.065))
    plain = torch.tensor(NOTHING_ODD, device=seen.device).expand(len(seen), len(NOTHING_ODD))
    # Whoever looks for a name for what is odd takes the most conspicuous: a merger is disturbed as well.
    confused = named @ torch.tensor(CONFUSED, device=seen.device)
    # A lane in an edge-on disc is ordinary, until someone asks what is odd.
    confused[:, 6] += torch.where(edge, 0.3, 0.0) * noticed.lane
    answers.append(spread((confused**2 / confused.sum(1, keepdim=True).clamp_min(0.05)) + 0.1 * plain, 0.01))

    bulge = below(-torch.log(latents.core_share.clamp_min(1e-3)), -math.log(0.06), 0.5) * (0.4 + 0.6 * seen)
    bulge = torch.where(irregular | star, 0.1 * bulge, bulge)
    boxy = torch.where(latents.core_boxy > 2.4, 0.7, 0.08)
    answers.append(spread(torch.stack([bulge * (1 - boxy), bulge * boxy, 1 - bulge], 1), 0.03))

    # The few who see arms where there are none agree on nothing about them.
    armed = (latents.arm_count > 0)[:, None]
    winding = graded(torch.log(latents.arm_pitch[:, 0] * (180 / math.pi)), (math.log(13.0), math.log(23.0)), 0.2)
    answers.append(spread(torch.where(armed, winding, torch.full_like(winding, 1 / 3)), 0.02))
    number = torch.nn.functional.one_hot((latents.arm_count - 1).clamp(0, 4), 5).to(seen.dtype)
    number = torch.where(armed, number, torch.full_like(number, 0.2))
    near = torch.nn.functional.avg_pool1d(number[:, None], 3, 1, 1)[:, 0]  # one more or one fewer
    # Patches that follow no arm can hardly be counted.
    lost = torch.where(latents.arm_count > 0, 0.08 + 0.45 * latents.flocculence, 0.5)
    lost = (lost + 0.35 * (1 - seen) + 0.06 * (latents.arm_count - 2).clamp_min(0)).clamp_max(0.95)[:, None]
    counted = spread(0.8 * number + 0.2 * near, 0.04)
    answers.append(torch.cat([(1 - lost) * counted, lost], 1))
    return torch.cat(answers, 1)


# What each oddity is called: rows are what there is, columns what is said, both in the order of the answers.
CONFUSED = (
    (0.93, 0.03, 0.01, 0.0, 0.03, 0.0, 0.0),
    (0.10, 0.80, 0.03, 0.01, 0.04, 0.02, 0.0),
    (0.01, 0.01, 0.72, 0.10, 0.05, 0.11, 0.0),
    (0.01, 0.01, 0.11, 0.75, 0.07, 0.05, 0.0),
    (0.01, 0.03, 0.10, 0.08, 0.72, 0.06, 0.0),
    (0.0, 0.01, 0.10, 0.04, 0.02, 0.83, 0.0),
    (0.01, 0.01, 0.03, 0.02, 0.05, 0.02, 0.86),
)


def cast(latents: Latents, seed: int) -> Tensor:
    """Conditional counts of 5 to 60 volunteers for each galaxy: float32 [B, answers]."""
    shares = ideal(latents).double()
    # Crowds differ in what they see in one galaxy: odds shift by a normal amount, alike for all who are asked.
    shift = torch.exp(0.25 * seeds.normal(seed, "votes-mood", latents.index, (shares.shape[1],), device=shares.device).double())
    shares = shares * shift
    u = seeds.uniform(seed, "votes-number", latents.index, (2,), device=shares.device)
    few, usual = 5 + 20 * u[:, 1], 44 + 8 * torch.special.ndtri(u[:, 1])
    number = torch.where(u[:, 0] < 0.08, few, usual).round().clamp(5, MOST_VOLUNTEERS)

    volunteers = torch.arange(MOST_VOLUNTEERS, device=shares.device) < number[:, None]  # [B, V]
    luck = seeds.uniform(seed, "votes", latents.index, (len(GZ2.questions), MOST_VOLUNTEERS), device=shares.device)
    said = torch.zeros(len(shares), MOST_VOLUNTEERS, shares.shape[1], dtype=torch.bool, device=shares.device)
    for q, (question, columns) in enumerate(zip(GZ2.questions, GZ2.slices, strict=True)):
        asked = volunteers
        if question.parents:
            asked = torch.stack([said[..., GZ2.index(parent)] for parent in question.parents]).any(0)
        edges = shares[:, columns].cumsum(1)
        answer = torch.searchsorted((edges / edges[:, -1:])[:, :-1].contiguous(), luck[:, q].contiguous())  # [B, V]
        said[..., columns] = torch.nn.functional.one_hot(answer, len(question.answers)).bool() & asked[..., None]
    return said.sum(1).float()
