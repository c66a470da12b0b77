"""Surface brightness of the components of a galaxy, on a grid of points: light per square arcsec for a total of 1.

Coordinates are arcsec, [B, H, W] or broadcastable to it; parameters are [B]. Profiles are normalised analytically over the whole
plane, so a stamp holds the enclosed fraction and no more. Arms alone, which have no closed form, are normalised on the grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WINDOW = 2.0  # steps: the width of the window around a cusp


def wide(parameter: Tensor) -> Tensor:
    """[B] as [B, 1, 1]."""
    return parameter[:, None, None]


def rotated(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates along and across an axis at `angle` from +x."""
    cos, sin = wide(torch.cos(angle)), wide(torch.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def superellipse_area(exponent: Tensor) -> Tensor:
    """The area of |x|^c + |y|^c < 1; pi for c = 2."""
    return 4 * torch.exp(2 * torch.lgamma(1 + 1 / exponent) - torch.lgamma(1 + 2 / exponent))


def radius(u: Tensor, v: Tensor, ratio: Tensor, exponent: Tensor | None = None) -> Tensor:
    """The semi-major axis of the (super)ellipse through each point."""
    across = v / wide(ratio)
    if exponent is None:
        return torch.sqrt(u * u + across * across)
    power = wide(exponent)
    return (u.abs().pow(power) + across.abs().pow(power)).pow(1 / power)


def sersic_constants(index: Tensor, half_light: Tensor, ratio: Tensor, area: Tensor | float = math.pi) -> tuple[Tensor, Tensor]:
    """b_n (Ciotti & Bertin 1999) and the brightness at r = 0 for a total of 1."""
    b = 2 * index - 1 / 3 + 4 / (405 * index) + 46 / (25515 * index**2)
    total = 2 * area * index * ratio * half_light**2 * torch.exp(torch.lgamma(2 * index) - 2 * index * torch.log(b))
    return b, 1 / total


def sersic(r: Tensor, index: Tensor, half_light: Tensor, ratio: Tensor, step: float, area: Tensor | float = math.pi) -> Tensor:
    """A Sersic profile at semi-major axis `r`, flat within a third of a step, where a grid point may fall onto the cusp."""
    b, peak = sersic_constants(index, half_light, ratio, area)
    flat = r.clamp_min(step / 3)
    shape = (-1,) + (1,) * (r.dim() - 1)
    return peak.view(shape) * torch.exp(-b.view(shape) * (flat / half_light.view(shape)).pow((1 / index).view(shape)))


def missing_light(
    offset: Tensor, angle: Tensor, index: Tensor, half_light: Tensor, ratio: Tensor, step: float, exponent: Tensor | None = None
) -> Tensor:
    """The share of a Sersic profile's light that its samples on a grid lack, because of its cusp: [B].

    `offset` [B, 2] is the centre's place between grid points, in steps. With a window w(R) = exp(-R^2 / 2 s^2) the part I (1 - w)
    is smooth, so the grid's sum of it is right; the integral of I w is a quadrature in ln R, and the difference to the grid's sum
    of I w is what lacks.
    """
    area = math.pi if exponent is None else superellipse_area(exponent)
    window = WINDOW * step / ratio.clamp_min(0.25)  # standard deviation along the major axis: two steps across the minor one
    nodes = torch.linspace(-9, math.log(6), 80, device=ratio.device)
    b, peak = sersic_constants(index, half_light, ratio, area)
    r = window[:, None] * torch.exp(nodes)
    bright = peak[:, None] * torch.exp(-b[:, None] * (r / half_light[:, None]).pow(1 / index[:, None]))
    integral = (2 * area * ratio) * (bright * torch.exp(-0.5 * (r / window[:, None]) ** 2) * r**2).sum(1) * float(nodes[1] - nodes[0])

    reach = math.ceil(3.5 * WINDOW / 0.25)
    points = torch.arange(-reach, reach + 1, device=ratio.device, dtype=torch.float32)
    x, y = (points - offset[:, :1]) * step, (points - offset[:, 1:]) * step
    u, v = rotated(x[:, None, :], y[:, :, None], angle)
    r = radius(u, v, ratio, exponent)
    weight = torch.exp(-0.5 * (r / wide(window)) ** 2)
    return integral - (sersic(r, index, half_light, ratio, step, area) * weight).sum((1, 2)) * step**2


def inclined_disc(r: Tensor, scale: Tensor, ratio: Tensor) -> Tensor:
    """An exponential disc, from the radius in its own plane."""
    return torch.exp(-r / wide(scale)) / wide(2 * math.pi * scale**2 * ratio)


def edge_on_disc(u: Tensor, v: Tensor, angle: Tensor, scale: Tensor, height: Tensor, step: float) -> Tensor:
    """An exponential disc seen from its side, at `angle` to the grid: x K1(x) along, sech^2 across, averaged over a grid cell.

    Thin discs are thinner than a step. The average of sech^2 over a width is a difference of tanh, and over the longer projection
    of a step it vanishes at every frequency across the disc that the grid mistakes for zero: so no light is missed.
    """
    x = u.abs() / wide(scale)
    # x K1(x), after sqrt(1 + pi x / 2) exp(-x); its integral over the line is pi, the approximation's is computed.
    along = torch.sqrt(1 + (math.pi / 2) * x) * torch.exp(-x)
    cell = step * torch.maximum(torch.cos(angle).abs(), torch.sin(angle).abs())
    half = wide(cell / 2)
    across = torch.tanh((v + half) / wide(height)) - torch.tanh((v - half) / wide(height))
    return along * across / wide(EDGE_ON_LINE * scale * 2 * cell)


def _edge_on_line() -> float:
    x = torch.linspace(0, 60, 60001, dtype=torch.float64)
    return float(2 * torch.trapezoid(torch.sqrt(1 + (math.pi / 2) * x) * torch.exp(-x), x))


EDGE_ON_LINE = _edge_on_line()


def bar(u: Tensor, v: Tensor, length: Tensor, ratio: Tensor) -> Tensor:
    """A bar: flat inside a superellipse of exponent 3, falling as exp(-m^3) with the superellipse radius m."""
    across = v / wide(ratio)
    cube = (u.abs() ** 3 + across.abs() ** 3) / wide(length) ** 3
    exponent = torch.tensor(3.0, device=u.device)
    norm = float(superellipse_area(exponent)) * 2 / 3 * math.gamma(2 / 3)
    return torch.exp(-cube) / wide(norm * length**2 * ratio)


def arms(
    u: Tensor, v: Tensor, r: Tensor, scale: Tensor, sense: Tensor,
    pitch: Tensor, phase: Tensor, weight: Tensor, width: Tensor, reach: Tensor,
) -> Tensor:  # fmt: skip
    """Arms that are each a log spiral of its own pitch, [B, ARMS], with a von Mises section of the width given; not normalised."""
    turn = torch.atan2(v, u)
    log_r = torch.log(r.clamp_min(1e-3) / wide(scale))
    total = torch.zeros_like(r)
    for k in range(pitch.shape[1]):
        if not bool((weight[:, k] > 0).any()):
            continue
        sharp = (r * wide(torch.sin(pitch[:, k]) / width)) ** 2  # the section's concentration at radius r
        angle = turn - wide(sense / torch.tan(pitch[:, k])) * log_r - wide(phase[:, k])
        total += wide(weight[:, k]) * torch.exp(sharp.clamp(0.5, 60.0) * (torch.cos(angle) - 1))
    begin, end = wide(reach[:, 0]), wide(reach[:, 1])
    envelope = torch.sigmoid((r - begin) * (6 / begin)) * torch.sigmoid((end - r) * (8 / end))
    return total * envelope * torch.exp(-r / wide(1.6 * scale))


def clumps(x: Tensor, y: Tensor, place: Tensor, width: Tensor, weight: Tensor, step: float) -> Tensor:
    """Round gaussian clumps. x and y are the axes of the grid, [B, W] and [B, H]: a product of two lines is a matrix product."""
    spread = torch.sqrt(width**2 + (step / 2) ** 2)  # never narrower than the grid can carry
    along = torch.exp(-0.5 * ((x[:, None] - place[..., :1]) / spread[..., None]) ** 2)  # [B, K, W]
    across = torch.exp(-0.5 * ((y[:, None] - place[..., 1:]) / spread[..., None]) ** 2) * (weight / (2 * math.pi * spread**2))[..., None]
    return across.transpose(1, 2) @ along


def lane(u: Tensor, v: Tensor, width: Tensor, length: Tensor, offset: Tensor) -> Tensor:
    """The optical depth of a dust lane over its largest, in coordinates along and across it."""
    along = (u / wide(length)) ** 2
    across = (v - wide(offset[:, 0]) - wide(offset[:, 1]) * along) / wide(width)
    return torch.exp(-0.5 * (along + across * across))
