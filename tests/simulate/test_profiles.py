"""Profiles hold the light they say: against closed forms and quadrature."""

from __future__ import annotations

import math

import pytest
import torch

from galaxysd.simulate import profiles


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def lattice(half: int, step: float) -> tuple[torch.Tensor, torch.Tensor]:
    axis = (torch.arange(2 * half) - half + 0.5) * step
    return axis[None, None, :].expand(1, 2 * half, -1), axis[None, :, None].expand(1, -1, 2 * half)


@pytest.mark.parametrize("index", [0.6, 1.0, 2.0, 4.0])
def test_half_of_sersic_light_lies_within_the_half_light_radius(index):
    half_light, ratio = row(3.0).double(), row(0.5).double()
    r = torch.exp(torch.linspace(-12, math.log(3.0), 20_001, dtype=torch.float64))
    b, peak = profiles.sersic_constants(row(index).double(), half_light, ratio)
    ring = 2 * math.pi * float(ratio) * r**2 * peak * torch.exp(-b * (r / half_light) ** (1 / index))
    assert float(torch.trapezoid(ring, torch.log(r))) == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize("exponent", [None, 4.0])
@pytest.mark.parametrize("index", [1.0, 2.0, 3.0, 4.0])
def test_samples_and_cusp_hold_all_the_light(index, exponent):
    """A steep profile sampled coarsely, its centre between the points: without the correction up to a quarter is missing or too much."""
    step, offset = 0.4, row(0.3, 0.85)[None]
    u, v = lattice(600, step)
    base = (offset - 0.5) * step  # the lattice has points at half steps
    u, v = profiles.rotated(u - base[0, 0], v - base[0, 1], row(0.4))
    shape = row(index), row(1.2), row(0.6)
    power = None if exponent is None else row(exponent)
    area = math.pi if power is None else profiles.superellipse_area(power)
    image = profiles.sersic(profiles.radius(u, v, shape[2], power), *shape, step, area)
    lacks = profiles.missing_light(offset, row(0.4), *shape, step, power)
    beyond = {1.0: 0.0, 2.0: 0.0, 3.0: 0.0, 4.0: 1e-4}[index]
    assert float(image.double().sum()) * step**2 + float(lacks.sum()) * step**2 == pytest.approx(1 - beyond, abs=2e-3)


def test_what_has_a_norm_integrates_to_one():
    step = 0.1
    u, v = lattice(600, step)
    ratio = row(0.5)
    disc = profiles.inclined_disc(torch.sqrt(u**2 + (v / ratio) ** 2), row(3.0), ratio)
    edge = profiles.edge_on_disc(*profiles.rotated(u, v, row(0.0)), row(0.0), row(3.0), row(0.02), step)  # a fifth of a step thin
    tail = profiles.tail(torch.atan2(v, u), torch.sqrt(u**2 + v**2), row(0.3), row(0.5), row(4.0, 9.0)[None], row(0.5))
    arc = profiles.arc(torch.atan2(v, u), torch.sqrt(u**2 + v**2), row(6.0), row(3.0), row(0.6), row(0.3))
    trail = profiles.gaussian(u, v, row(2.0), row(0.5))
    for name, plane, worst in (
        ("disc", disc, 3e-3),
        ("edge-on", edge, 3e-3),
        ("tail", tail, 0.03),
        ("arc", arc, 3e-3),
        ("gaussian", trail, 1e-4),
    ):
        assert float(plane.double().sum()) * step**2 == pytest.approx(1, abs=worst), name


def test_edge_on_disc_keeps_its_light_at_any_angle():
    step = 0.8
    u, v = lattice(80, step)
    for angle in (0.0, 0.02, 0.3, math.atan(0.5), math.pi / 4, 1.2):
        plane = profiles.edge_on_disc(*profiles.rotated(u, v, row(angle)), row(angle), row(4.0), row(0.1), step)
        assert float(plane.sum()) * step**2 == pytest.approx(1, abs=0.01), angle


def test_an_arm_is_a_log_spiral():
    """Along ln r = tan(pitch) (theta - phase) the section is at its crest, and half a turn away it is dark."""
    pitch, phase, scale = 0.3, 0.5, 3.0
    theta = torch.linspace(0.2, 4.0, 40)
    r = scale * torch.exp(math.tan(pitch) * (theta - phase))
    one = torch.ones(1, 1)

    def brightness(turn: torch.Tensor) -> torch.Tensor:
        log_r = torch.log(r / scale)[None, None]
        found = profiles.arms(
            turn[None, None], log_r, r[None, None], row(scale), row(1.0), one * pitch, one * phase, one, row(0.5), row(0.01), one * 1000.0
        )  # fmt: skip
        return found[0, 0]

    crest = brightness(theta)
    for turn in (-0.2, 0.2):
        assert bool((brightness(theta + turn) < crest).all())
    assert bool((brightness(theta + math.pi) < 0.4 * crest).all())


def test_clumps_hold_their_weights():
    axis = (torch.arange(200) - 99.5)[None] * 0.2
    place = torch.tensor([[[2.0, -3.0], [-5.0, 1.0]]])
    image = profiles.clumps(axis, axis, place, torch.tensor([[0.5, 1.0]]), torch.tensor([[0.3, 0.7]]), 0.2)[0]
    assert float(image.sum()) * 0.04 == pytest.approx(1, abs=1e-3)
    middle = float((image.sum(0) * axis[0]).sum() * 0.04), float((image.sum(1) * axis[0]).sum() * 0.04)
    assert middle == pytest.approx((0.3 * 2 - 0.7 * 5, -0.3 * 3 + 0.7 * 1), abs=0.01)


def test_light_ends_at_a_hundredth_of_its_peak():
    light = torch.tensor([[[1.0, 0.0101, 0.0099]], [[50.0, 0.51, 0.49]]])
    assert profiles.cut(light).flatten().tolist() == pytest.approx([1.0, 0.0101, 0.0, 50.0, 0.51, 0.0])
    across = torch.tensor([[[0.0, 3.0], [3.04, 9.0]]])
    depth = profiles.lane(torch.zeros_like(across), across, row(1.0), row(1.0), row(0.0, 0.0)[None])
    assert (depth > 0).flatten().tolist() == [True, True, False, False]
    assert pytest.approx(3.035, abs=2e-3) == profiles.LANE_REACH
