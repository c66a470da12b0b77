"""Surface brightness of the components of a galaxy, on a grid of points: light per square arcsec for a total of 1.

Coordinates are arcsec, [B, H, W] or broadcastable to it; parameters are [B]. Profiles are normalised analytically over the whole
plane, so a stamp holds the enclosed fraction and no more. Bars, arms and rings have no closed form: `components` sums them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

FAINTEST = 0.01  # of a feature's peak, where it ends
LANE_LEAST = 0.01  # of a lane's depth, where it ends
LANE_REACH = math.sqrt(-2 * math.log(LANE_LEAST)) + 1e-3  # where that is, in standard deviations
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
    """What to add to the grid points around a Sersic profile's cusp so that its samples have the profile's moments: [B, 4, 4].

    `offset` [B, 2] is the centre's place between grid points, in steps: the second row and column are those before it. With a window
    w(R) = exp(-R^2 / 2 s^2) the part I (1 - w) is smooth, so the grid's sums over it are right; the moments of I w are quadratures in
    ln R, and their difference to the grid's sums of I w is what lacks: of light, of its centre (the samples lie unevenly about it) and
    of its spread.
    """
    patch = offset.new_empty(len(offset), 4, 4)
    # The window is longer the flatter the profile, down to a quarter: two sizes of it, so that a round one does not pay for a flat one.
    for pick, least in ((ratio < 0.5, 0.25), (ratio >= 0.5, 0.5)):
        if bool(pick.any()):
            bent = None if exponent is None else exponent[pick]
            patch[pick] = _missing_light(offset[pick], angle[pick], index[pick], half_light[pick], ratio[pick], step, bent, least)
    return patch


def _missing_light(
    offset: Tensor, angle: Tensor, index: Tensor, half_light: Tensor, ratio: Tensor, step: float, exponent: Tensor | None, least: float
) -> Tensor:
    """`missing_light` for axis ratios of `least` and more."""
    area = math.pi if exponent is None else superellipse_area(exponent)
    window = WINDOW * step / ratio.clamp_min(0.25)  # standard deviation along the major axis: two steps across the minor one
    nodes = torch.linspace(-9, math.log(6), 80, device=ratio.device)
    b, peak = sersic_constants(index, half_light, ratio, area)
    r = window[:, None] * torch.exp(nodes)
    bright = peak[:, None] * torch.exp(-b[:, None] * (r / half_light[:, None]).pow(1 / index[:, None]) - 0.5 * (r / window[:, None]) ** 2)
    width = float(nodes[1] - nodes[0])
    light = (2 * area * ratio) * (bright * r**2).sum(1) * width
    second = math.pi if exponent is None else superellipse_spread(exponent)
    along = second * ratio * (bright * r**4).sum(1) * width  # of u^2; of v^2 ratio^2 as much
    cos, sin, round_off = torch.cos(angle), torch.sin(angle), ratio**2

    reach = math.ceil(3.5 * WINDOW / least)
    points = torch.arange(-reach, reach + 1, device=ratio.device, dtype=torch.float32)
    x, y = points - offset[:, :1], points - offset[:, 1:]  # steps
    u, v = rotated(x[:, None, :] * step, y[:, :, None] * step, angle)
    r = radius(u, v, ratio, exponent)
    samples = sersic(r, index, half_light, ratio, step, area) * torch.exp(-0.5 * (r / wide(window)) ** 2) * step**2
    lines = [torch.stack([torch.ones_like(each), each, each**2], 1) for each in (x, y)]  # [B, 3, W]
    sums = lines[1] @ samples @ lines[0].transpose(1, 2)  # [B, 3, 3]: rows 1, y, y^2 and columns 1, x, x^2
    spread = along / step**2
    moments = (
        light - sums[:, 0, 0],
        -sums[:, 0, 1],
        -sums[:, 1, 0],
        spread * (cos**2 + round_off * sin**2) - sums[:, 0, 2],
        spread * (sin**2 + round_off * cos**2) - sums[:, 2, 0],
        spread * (1 - round_off) * cos * sin - sums[:, 1, 1],
    )
    return around_a_place(offset, *moments) / step**2


def around_a_place(offset: Tensor, m: Tensor, mx: Tensor, my: Tensor, mxx: Tensor, myy: Tensor, mxy: Tensor) -> Tensor:
    """Sixteen numbers on the grid, from the point before `offset` [B, 2] to two behind it, with these moments about it: [B, 4, 4].

    Nine points have the moments exactly; those about each corner of the place's cell get a bilinear weight, so that nothing jumps
    where a place crosses a grid point.
    """
    patch = m.new_zeros(len(m), 4, 4)
    for right in (0, 1):
        for up in (0, 1):
            dx, dy = offset[:, 0] - right, offset[:, 1] - up
            weight = (1 - dx.abs()) * (1 - dy.abs())
            ax, ay = mx + m * dx, my + m * dy
            axx, ayy = mxx + 2 * mx * dx + m * dx**2, myy + 2 * my * dy + m * dy**2
            axy = mxy + mx * dy + my * dx + m * dx * dy
            rows = (
                (axy / 4, (ayy - ay) / 2, -axy / 4),
                ((axx - ax) / 2, m - axx - ayy, (axx + ax) / 2),
                (-axy / 4, (ayy + ay) / 2, axy / 4),
            )
            patch[:, up : up + 3, right : right + 3] += wide(weight) * torch.stack([torch.stack(row, 1) for row in rows], 1)
    return patch


def superellipse_spread(exponent: Tensor) -> Tensor:
    """Four times the integral of x^2 over |x|^c + |y|^c < 1; pi for c = 2."""
    one, three, four = (torch.lgamma(k / exponent) for k in (1, 3, 4))
    return 16 / exponent**2 * torch.exp(three + one - four) / (4 / exponent)


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
    """A bar: flat inside a superellipse of exponent 3, falling as exp(-m^3) with the superellipse radius m; 1 at its middle."""
    return torch.exp(-(u.abs() ** 3 + (v / wide(ratio)).abs() ** 3) / wide(length) ** 3)


def arms(
    turn: Tensor, log_r: Tensor, r: Tensor, scale: Tensor, sense: Tensor,
    pitch: Tensor, phase: Tensor, weight: Tensor, width: Tensor, begin: Tensor, end: Tensor,
) -> Tensor:  # fmt: skip
    """Arms that are each a log spiral of its own pitch and end, [B, ARMS], with a von Mises section of the width given; not normalised.

    `turn` is the angle in the disc and `log_r` the logarithm of the radius over the scale length.
    """
    total = torch.zeros_like(r)
    for k in range(pitch.shape[1]):
        if not bool((weight[:, k] > 0).any()):
            continue
        sharp = (r * wide(torch.sin(pitch[:, k]) / width)).square_().clamp_(0.5, 60.0)  # the section's concentration at radius r
        angle = turn - wide(sense / torch.tan(pitch[:, k])) * log_r - wide(phase[:, k])
        fade = torch.sigmoid((wide(end[:, k]) - r) * wide(8 / end[:, k]))
        total += wide(weight[:, k]) * torch.exp(sharp * (torch.cos(angle) - 1)) * fade
    return total * inner_edge(r, begin) * torch.exp(-r / wide(1.6 * scale))


def inner_edge(r: Tensor, begin: Tensor) -> Tensor:
    """0 well inside the radius `begin`, 1 well outside."""
    return torch.sigmoid((r - wide(begin)) * wide(6 / begin))


def patches(turn: Tensor, log_r: Tensor, r: Tensor, scale: Tensor, waves: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """Young light in patches sheared by rotation, which follow no arm; `waves` [B, K, 3] are whole waves around, waves inwards, phase."""
    total = torch.zeros_like(r)
    for around, inwards, phase in (each.unbind(1) for each in waves.unbind(1)):
        total += torch.cos(wide(around) * turn - wide(inwards) * log_r + wide(phase))
    bright = torch.exp(1.1 * total / math.sqrt(waves.shape[1] / 2)) * inner_edge(r, begin)
    return bright * torch.sigmoid((wide(end) - r) * wide(8 / end)) * torch.exp(-r / wide(1.2 * scale))


def ring(r: Tensor, radius: Tensor, width: Tensor) -> Tensor:
    """A gaussian ring in the plane of the disc; 1 at its crest."""
    return torch.exp(-0.5 * ((r - wide(radius)) / wide(width)) ** 2)


def tail(turn: Tensor, r: Tensor, angle: Tensor, pitch: Tensor, reach: Tensor, width: Tensor) -> Tensor:
    """A tidal tail: a log spiral on the sky between two radii, wider and fainter outwards; parameters [B]."""
    begin, end = reach.unbind(1)
    path = turn - wide(angle) - torch.log(r / wide(begin)) / wide(torch.tan(pitch))
    across = 2 * torch.sin(0.5 * path) * r * wide(torch.sin(pitch).abs())
    nodes = torch.linspace(-0.6, 2.5, 96, device=r.device)
    along = begin[:, None] * torch.exp(torch.log(end / begin)[:, None] * nodes)  # radii at which the norm is summed
    area = (_fade(along, begin[:, None], end[:, None]) * torch.sqrt(along / begin[:, None]) * along).sum(1) * (
        float(nodes[1] - nodes[0]) * torch.log(end / begin)
    )
    norm = math.sqrt(2 * math.pi) * width / torch.sin(pitch).abs() * area
    thick = wide(width) * torch.sqrt(r / wide(begin))
    return torch.exp(-0.5 * (across / thick) ** 2) * _fade(r, wide(begin), wide(end)) / wide(norm)


def _fade(r: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    return torch.sigmoid((r - begin) * (12 / begin)) * torch.sigmoid((end - r) * (10 / end)) * torch.exp(-(r - begin) / end)


def arc(turn: Tensor, r: Tensor, radius: Tensor, angle: Tensor, extent: Tensor, width: Tensor) -> Tensor:
    """A thin arc around the centre, of half-angle `extent`; parameters [B]."""
    off = torch.remainder(turn - wide(angle) + math.pi, 2 * math.pi) - math.pi
    shape = torch.exp(-0.5 * ((r - wide(radius)) / wide(width)) ** 2 - (off / wide(extent)) ** 4)
    return shape / wide(math.sqrt(2 * math.pi) * width * radius * 2 * extent * math.gamma(1.25))


def gaussian(u: Tensor, v: Tensor, along: Tensor, across: Tensor) -> Tensor:
    """An elliptical gaussian of these standard deviations."""
    return torch.exp(-0.5 * ((u / wide(along)) ** 2 + (v / wide(across)) ** 2)) / wide(2 * math.pi * along * across)


def line(v: Tensor, width: Tensor) -> Tensor:
    """A straight line of light, over its length: gaussian across."""
    return torch.exp(-0.5 * (v / wide(width)) ** 2) / wide(math.sqrt(2 * math.pi) * width)


def spikes(u: Tensor, v: Tensor, length: Tensor, width: Tensor) -> Tensor:
    """Four diffraction spikes along two axes, falling as the square of the distance beyond `length`."""
    total = torch.zeros_like(u)
    for along, across in ((u, v), (v, u)):
        total += line(across, width) / (1 + along.abs() / wide(length)) ** 2
    return total / wide(4 * length)


def cut(light: Tensor) -> Tensor:
    """Light that ends where it falls below a hundredth of its peak: what has no end has no mask."""
    return torch.where(light >= FAINTEST * light.amax((1, 2), keepdim=True), light, 0.0)


def clumps(x: Tensor, y: Tensor, place: Tensor, width: Tensor, weight: Tensor, step: float) -> Tensor:
    """Round gaussian clumps. x and y are the axes of the grid, [B, W] and [B, H]: a product of two lines is a matrix product."""
    spread = torch.sqrt(width**2 + (step / 2) ** 2)  # never narrower than the grid can carry
    along = torch.exp(-0.5 * ((x[:, None] - place[..., :1]) / spread[..., None]) ** 2)  # [B, K, W]
    across = torch.exp(-0.5 * ((y[:, None] - place[..., 1:]) / spread[..., None]) ** 2) * (weight / (2 * math.pi * spread**2))[..., None]
    return across.transpose(1, 2) @ along


def lane(u: Tensor, v: Tensor, width: Tensor, length: Tensor, offset: Tensor) -> Tensor:
    """The optical depth of a dust lane over its largest, in coordinates along and across it; none where it is below a hundredth."""
    along = (u / wide(length)) ** 2
    across = (v - wide(offset[:, 0]) - wide(offset[:, 1]) * along) / wide(width)
    depth = torch.exp(-0.5 * (along + across * across))
    return torch.where(depth >= LANE_LEAST, depth, 0.0)
