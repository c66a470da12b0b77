"""What volunteers would say: ideal fractions from the latents, blurred by how well the galaxy is seen, and a walk down the tree.

Each volunteer starts at the first question and goes where their answers lead, so a child question has exactly the voters its
parent answers sent. The fractions are invented, not fitted to Galaxy Zoo 2: they are monotone in the latents and ambiguous where
a parameter lies near the line between two answers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.schema import GZ2
from galaxysd.simulate.latents import DISC, DUST_LANE, EDGE_ON, IRREGULAR, Latents

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


def ideal(latents: Latents) -> Tensor:
    """Conditional fractions that an endless crowd would give: [B, answers]."""
    kind, seen = latents.kind, visibility(latents)
    disc, edge, irregular, laned = kind == DISC, kind == EDGE_ON, kind == IRREGULAR, kind == DUST_LANE

    def by_kind(spheroid: Tensor | float, on_disc: Tensor | float, on_edge: Tensor | float, odd: Tensor | float) -> Tensor:
        value = torch.where(disc, on_disc, torch.where(edge, on_edge, torch.where(irregular, odd, spheroid)))
        return value.to(seen.dtype)

    arms = torch.where(latents.arm_count > 0, (latents.arm_share / 0.35).clamp(0, 1), torch.zeros_like(seen)) * seen
    tight = (torch.sin(latents.arm_pitch[:, 0]) / math.sin(0.2)).clamp(0.4, 1)
    slant = below(latents.cos_inclination, 0.3, 0.08)  # arms of a steep disc hide
    spiral = arms * tight * (1 - 0.7 * slant)
    bar = (latents.bar_share / 0.12).clamp(0, 1) * seen * (1 - 0.6 * slant)
    lane = torch.where(laned, (latents.lane_depth / 2.0).clamp(0, 1) * seen, torch.zeros_like(seen))
    thin = below(latents.core_ratio, 0.3, 0.05)

    featured = by_kind(0.05 + 0.12 * thin + 0.45 * lane, 0.12 + 0.8 * torch.maximum(spiral, bar), 0.3 + 0.62 * seen, 0.3 + 0.5 * seen)
    artifact = torch.full_like(featured, 0.015)
    answers = [torch.stack([1 - featured - artifact, featured, artifact], 1)]

    apparent = by_kind(latents.core_ratio, latents.cos_inclination, latents.disc_height * 0.6, 0.75 * latents.core_ratio + 0.3)
    side_on = by_kind(0.75 * thin, below(latents.cos_inclination, 0.24, 0.06), 0.95, 0.08)
    answers.append(torch.stack([side_on, 1 - side_on], 1))
    bar = by_kind(0.06, 0.04 + 0.9 * bar, 0.1, 0.06)
    answers.append(torch.stack([bar, 1 - bar], 1))
    spiral = by_kind(0.06, 0.05 + 0.92 * spiral, 0.15, 0.12)
    answers.append(torch.stack([spiral, 1 - spiral], 1))

    prominence = by_kind(0.6, latents.core_share.clamp_min(0.005), latents.core_share.clamp_min(0.005), 0.03)
    answers.append(spread(graded(torch.log(prominence), tuple(math.log(line) for line in (0.025, 0.13, 0.42)), 0.45), 0.02))

    odd = by_kind(0.05 + 0.85 * lane, 0.07, 0.07 + 0.1 * (latents.lane_depth > 0) * seen, 0.55 + 0.4 * seen)
    answers.append(torch.stack([odd, 1 - odd], 1))
    answers.append(graded(-apparent, (-0.77, -0.42), 0.065))

    # ring, lens or arc, disturbed, irregular, other, merger, dust lane
    plain = torch.tensor([0.15, 0.06, 0.15, 0.14, 0.35, 0.12, 0.03], device=seen.device).expand(len(seen), 7)
    ragged = torch.tensor([0.01, 0.01, 0.11, 0.75, 0.07, 0.05, 0.0], device=seen.device)
    dusty = torch.tensor([0.01, 0.01, 0.03, 0.02, 0.05, 0.02, 0.86], device=seen.device)
    ragged_share = torch.where(irregular, 1.0, 0.0)[:, None]
    dusty_share = torch.where(edge & (latents.lane_depth > 0), 0.6 * seen, lane)[:, None]
    answers.append(spread((1 - ragged_share - dusty_share) * plain + ragged_share * ragged + dusty_share * dusty, 0.01))

    bulge = below(-torch.log(latents.core_share.clamp_min(1e-3)), -math.log(0.06), 0.5) * (0.4 + 0.6 * seen)
    bulge = torch.where(irregular, 0.1 * bulge, bulge)
    boxy = torch.where(latents.core_boxy > 2, 0.7, 0.08)
    answers.append(spread(torch.stack([bulge * (1 - boxy), bulge * boxy, 1 - bulge], 1), 0.03))

    # The few who see arms where there are none agree on nothing about them.
    armed = (latents.arm_count > 0)[:, None]
    winding = graded(torch.log(latents.arm_pitch[:, 0] * (180 / math.pi)), (math.log(13.0), math.log(23.0)), 0.2)
    answers.append(spread(torch.where(armed, winding, torch.full_like(winding, 1 / 3)), 0.02))
    number = torch.nn.functional.one_hot((latents.arm_count - 1).clamp(0, 4), 5).to(seen.dtype)
    number = torch.where(armed, number, torch.full_like(number, 0.2))
    lost = (torch.where(latents.arm_count > 0, 0.12, 0.5) + 0.45 * (1 - seen) + 0.06 * (latents.arm_count - 2).clamp_min(0))[:, None]
    near = torch.nn.functional.avg_pool1d(number[:, None], 3, 1, 1)[:, 0]  # one more or one fewer
    counted = spread(0.75 * number + 0.25 * near, 0.04)
    answers.append(torch.cat([(1 - lost) * counted, lost], 1))
    return torch.cat(answers, 1)


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
