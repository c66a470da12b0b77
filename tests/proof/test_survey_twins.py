"""Nothing but the feature betrays it: a classifier cannot tell a galaxy robbed of its feature from one that never had it.

Drawn alike: hosts of one kind from one population, half of them with the feature, which is then taken away, half without; each galaxy
with its own sky. The same network must see the feature where it was left.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from galaxysd import seeds
from galaxysd.simulate import recipe, render
from galaxysd.simulate.latents import Latents, has, without
from galaxysd.simulate.recipe import Recipe, draw

pytestmark = pytest.mark.proof_survey

SIZE, PIXEL, SEED, BATCH = 64, 0.625, 21, 64
EPOCHS, MORE_EPOCHS = 10, 20  # a bar is small and faint: it takes longer to learn, and hosts with nothing else
ALONE = {"inclination": 20, **dict.fromkeys(("arms", "arm_count", "ring", "stars", "field", "merger", "disturbed", "lens", "other"), 0)}
CASES = {"dust-lane in spheroids": ("dust-lane", "spheroid"), "dust-lane in edge-on discs": ("dust-lane", "edge-on"),
         "bar": ("bar", "disc"), "ring": ("ring", "disc"), "arms": ("arms", "disc")}  # fmt: skip


def hosts(kind: str, feature: str, n: int) -> tuple[Latents, Latents]:
    """Galaxies with the feature and without it: n each, whatever else they have."""
    alone = ALONE if feature == "bar" else {}
    lat = draw(Recipe("atlas", fixed=recipe.fixed({"kind": kind, **alone})), SEED, range(16 * n))
    there = has(lat, feature)
    return lat.rows(torch.nonzero(there)[:n, 0]), lat.rows(torch.nonzero(~there)[:n, 0])


def imaged(lat: Latents) -> Tensor:
    """As a set holds them, stretched for the network."""
    optics = render.Optics.of(lat, PIXEL)
    flux = render.noisy(render.clean(lat, SIZE, PIXEL, SEED, optics), lat, optics, SEED)
    return torch.asinh(flux / 0.15)


class Network(nn.Sequential):
    """Four strided convolutions, started from counters."""

    def __init__(self) -> None:
        widths = (3, 16, 32, 48, 64)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(4, after), nn.SiLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 64, 1))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() > 1:
                    draws = seeds.uniform(SEED, name, 0, (parameter.numel(),)).view_as(parameter)
                    parameter.copy_((2 * draws - 1) * (3 / parameter[0].numel()) ** 0.5)


def area(one: Tensor, other: Tensor, epochs: int) -> tuple[float, float]:
    """Under the curve that tells `one` from `other` on held-out galaxies, and the half-width of its 95 % interval."""
    images = torch.cat([one, other])
    truth = torch.cat([torch.ones(len(one)), torch.zeros(len(other))])
    order = seeds.permutation(SEED, "split", len(images))
    train, held = order[: len(order) // 2], order[len(order) // 2 :]
    network = Network()
    optimiser = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=0.02)
    steps = epochs * (len(train) // BATCH)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        epoch, place = divmod(step, len(train) // BATCH)
        pick = train[seeds.permutation(SEED, "batches", len(train), epoch)[place * BATCH : (place + 1) * BATCH]]
        batch = images[pick]
        for axis in (2, 3):
            mirrored = seeds.bits(SEED, f"mirror {axis}", range(len(pick)), 1, step)[:, 0] % 2 == 1
            batch = torch.where(mirrored[:, None, None, None], batch.flip(axis), batch)
        loss = nn.functional.binary_cross_entropy_with_logits(network(batch)[:, 0], truth[pick])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()
    with torch.no_grad():
        score = torch.cat([network(part)[:, 0] for part in images[held].split(256)])
    positive, negative = score[truth[held] == 1], score[truth[held] == 0]
    found = float((positive[:, None] > negative).double().mean() + 0.5 * (positive[:, None] == negative).double().mean())
    m, n = len(positive), len(negative)
    return found, 1.96 * math.sqrt((m + n + 1) / (12 * m * n))


@pytest.mark.parametrize("case", CASES)
def test_a_twin_cannot_be_told_from_a_host(case, tier, report):
    feature, kind = CASES[case]
    n = tier("twins")
    featured, natural = hosts(kind, feature, n)
    assert len(featured) == len(natural) == n
    plain = imaged(natural)
    epochs = MORE_EPOCHS if feature == "bar" else EPOCHS
    found, half = area(imaged(without(featured, [feature])), plain, epochs)
    seen, _ = area(imaged(featured), plain, epochs)
    report(f"{case}: AUC of twins without it against natural hosts", found, n=n, bound=(found - half, found + half))
    report(f"{case}: AUC of galaxies with it against natural hosts", seen, n=n)
    assert 0.45 <= found <= 0.55
    assert seen > 0.8
