"""The populations of the simulated survey: which galaxies there are, how bright, how large, of what shape and colour.

`survey` is a magnitude-limited sample of the SDSS kind: Euclidean counts, luminosities, a size-luminosity relation, random
position angles and inclinations. `tutorial` is nearby, bright and large galaxies in equal parts of a few kinds, with their major
axes along +x: what a small network can learn in minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.errors import GalaxySDError, nearest
from galaxysd.simulate.latents import (
    ARMS,
    BLOCK,
    CLUMPS,
    DISC,
    DUST_LANE,
    EDGE_ON,
    IRREGULAR,
    SPHEROID,
    STARS,
    Draws,
    Latents,
    blocks,
)  # fmt: skip

MAGNITUDE_LIMIT, R90_RANGE = 17.0, (5.5, 20.0)
HALF_LIGHT = 1 / 2.35  # half-light radius over Petrosian R90, within 4 % for Sersic indices 1 to 5 (Graham et al. 2005)


def tutorial(d: Draws) -> Latents:
    """Nearby galaxies: 16 % round, 8 % in between, 18 % cigars, 15 % spirals, 20 % edge-on, 20 % irregular, 3 % dust lanes."""
    case = d.pick("kind", (16, 8, 18, 15, 20, 20, 3))
    kind = torch.tensor([SPHEROID, SPHEROID, SPHEROID, DISC, EDGE_ON, IRREGULAR, DUST_LANE])[case]
    low = torch.tensor([0.86, 0.52, 0.24, 0.7, 0.1, 0.45, 0.6])[case].double()
    high = torch.tensor([0.99, 0.68, 0.33, 0.95, 0.2, 0.7, 0.85])[case].double()
    ratio = low + (high - low) * d.uniform("axis-ratio")[:, 0]
    r90 = d.uniform("size", 9.0, 13.0)[:, 0]
    # r magnitudes per square arcsec within the half-light ellipse, in the order of KINDS
    surface = torch.tensor([20.5, 20.9, 20.5, 21.2, 20.3], dtype=torch.float64)[kind]
    surface = surface + 0.25 * d.normal("apparent")[:, 0]
    magnitude = surface - 2.5 * torch.log10(2 * math.pi * (r90 * HALF_LIGHT) ** 2 * ratio.clamp_min(0.25))
    redshift = 0.012 + 0.02 * d.uniform("absolute")[:, 0]
    cos = torch.where(kind == EDGE_ON, d.uniform("inclination", 0.0, 0.08)[:, 0], ratio)
    angle = torch.where(d.uniform("angle")[:, 0] < 0.5, 0.0, math.pi) + 0.03 * d.normal("bulge-shape")[:, 3]
    return compose(d, kind, ratio, cos, magnitude, r90, redshift, angle, arm_chance=0.95, star_rate=0.15)


def survey(d: Draws) -> Latents:
    """A magnitude-limited sample: 41 % spheroids, 52 % discs at random inclinations, 6 % irregulars, 1 % dust-lane early types."""
    kind = torch.tensor([SPHEROID, DISC, IRREGULAR, DUST_LANE])[d.pick("kind", (41, 52, 6, 1))]
    cos = d.uniform("inclination")[:, 0]
    kind = torch.where((kind == DISC) & (cos < 0.2), EDGE_ON, kind)
    early = (kind == SPHEROID) | (kind == DUST_LANE)
    u = d.uniform("axis-ratio")[:, 0]
    ratio = torch.where(early, 1 - 0.75 * u**1.4, torch.where(kind == IRREGULAR, 0.4 + 0.5 * u, cos.clamp_min(0.1)))

    # Sixteen candidates each; the first that passes the survey's cuts is the galaxy.
    apparent = MAGNITUDE_LIMIT + torch.log10(d.uniform("apparent")) / 0.6  # counts grow as 10^(0.6 m)
    mean = torch.where(early, -21.6, torch.where(kind == IRREGULAR, -19.2, -20.9))[:, None]
    absolute = mean + 0.8 * d.normal("absolute")
    distance = 10 ** ((apparent - absolute - 25) / 5)  # Mpc of luminosity distance
    hubble = distance * (70 / 299792.458)
    redshift = hubble * (1 - 0.75 * hubble / (1 + hubble))  # good to 1 % below z = 0.3
    late = 10 ** (0.52 + 0.055 * (-20.0 - absolute) * 2.4)  # kpc, after Shen et al. 2003
    compact = 10 ** (0.43 + 0.26 * (-20.5 - absolute) * 0.92)
    kpc = torch.where(early[:, None], compact, late) * 10 ** (0.12 * d.normal("size"))
    r90 = kpc / HALF_LIGHT / (distance * 1000 / (1 + redshift) ** 2) * 206265
    good = (r90 > R90_RANGE[0]) & (r90 < R90_RANGE[1]) & (redshift > 0.004) & (redshift < 0.25)
    first = torch.argmax(good.to(torch.int64), 1, keepdim=True)  # the first of all when none passes: then clamped
    magnitude, redshift, r90 = (each.gather(1, first)[:, 0] for each in (apparent, redshift, r90))
    angle = d.uniform("angle", 0.0, 2 * math.pi)[:, 0]
    return compose(
        d, kind, ratio, cos, magnitude, r90.clamp(*R90_RANGE), redshift.clamp(0.004, 0.25), angle, arm_chance=0.75, star_rate=0.4
    )


def compose(
    d: Draws, kind: Tensor, ratio: Tensor, cos: Tensor, magnitude: Tensor, r90: Tensor, redshift: Tensor, angle: Tensor,
    arm_chance: float, star_rate: float,
) -> Latents:  # fmt: skip
    """The rest of a galaxy of given kind, axis ratio, brightness, size and distance."""
    early, disc, edge, irregular = (kind == SPHEROID) | (kind == DUST_LANE), kind == DISC, kind == EDGE_ON, kind == IRREGULAR
    rows = len(kind)
    zero = torch.zeros(rows, dtype=torch.float64)

    # Shares of the light. A bar or arms take theirs from the disc.
    bulge = torch.exp(math.log(0.14) + 0.8 * d.normal("bulge")[:, 0]).clamp(0.01, 0.6)
    bar_light, bar_long, bar_thin, bar_turn = d.uniform("bar").unbind(1)
    bar = torch.where(disc & (bar_light < 0.35), 0.08 + 0.14 * bar_light / 0.35, zero)
    armed = disc & (d.uniform("arms")[:, 0] < arm_chance)
    arm_light, arm_reach, arm_count, arm_width = d.uniform("arm-light").unbind(1)
    arm = torch.where(armed, 0.3 + 0.3 * arm_light, zero)
    knots = d.uniform("clump-light")[:, 0]
    clump = torch.where(irregular, 0.3 + 0.3 * knots, torch.where(armed, 0.06 * knots, zero))
    core = torch.where(early, 1.0, torch.where(irregular, 1 - clump, bulge * (1 - bar - clump)))
    smooth = torch.where(early | irregular, zero, (1 - core - bar - clump) * (1 - arm))
    arm = torch.where(armed, 1 - core - bar - clump - smooth, zero)

    # The core: spheroids of every index alike, with or without a lane, so that a lane is no sign of its host.
    steep = d.normal("sersic")[:, 0]
    pinch, swell, box, _ = d.uniform("bulge-shape").unbind(1)
    flat = ((0.5 - ratio) / 0.25).clamp(0, 1)  # the flattest spheroids are discy: cigars have shallow profiles
    index = torch.where(irregular, 0.9 + 0.15 * steep, 2.0 + 0.6 * steep)
    index = torch.where(early, 3.4 - 1.8 * flat + 0.6 * steep, index).clamp(0.6, 5.0)
    scale = torch.where(edge, r90 / 3.4, r90 / 3.9)
    core_radius = torch.where(early | irregular, r90 * HALF_LIGHT, scale * (0.25 + 0.3 * swell) * (bulge / 0.14) ** 0.3)
    core_ratio = torch.where(early | irregular, ratio, torch.where(edge, 0.6 + 0.3 * pinch, 1 - (1 - cos) * (0.3 + 0.2 * pinch)))
    boxy = torch.where(edge & (box < 0.3), 3.0 + 2 * box, 2.0)

    number = torch.tensor([2, 2, 2, 2, 3, 4, 5, 1])[(arm_count * 8).long().clamp_max(7)]
    number = torch.where(armed, number, 0)
    winding = d.pick("pitch", (25, 45, 30))
    # degrees, for tight, medium and loose arms
    middle, reach = torch.tensor([[10.0, 17.5, 30.0], [2.5, 3.5, 5.0]], dtype=torch.float64)[:, winding]
    pitch = ((middle + reach * d.uniform("pitch", -1.0, 1.0)[:, 1])[:, None] * (1 + 0.08 * d.normal("arm-pitch"))).clamp(6, 40) * (
        math.pi / 180
    )
    slots = torch.arange(ARMS)
    spread = 2 * math.pi * slots / number.clamp_min(1)[:, None]
    phase = spread + 2 * math.pi * bar_turn[:, None] + 0.5 * (d.uniform("arm-phase") - 0.5)
    weight = torch.where(slots < number[:, None], 0.7 + 0.6 * d.uniform("arm-weight"), 0.0)
    begin = torch.where(bar > 0, (0.28 + 0.15 * bar_long) * r90, 0.16 * r90)

    place, width, share = clump_field(d, armed, r90, ratio, cos, pitch, phase, number, scale, angle)
    warp = d.uniform("warp")
    warp = torch.stack([torch.where(irregular, 0.25 * r90 * warp[:, 0], zero), r90 * (1 + warp[:, 1]), 2 * math.pi * warp[:, 2]], 1)

    depth, wide, long, turn, shift, bend = d.uniform("lane").unbind(1)
    lane_edge, lane_early = edge & (depth < 0.6), kind == DUST_LANE
    lane_depth = torch.where(lane_edge, 1.2 + 4.0 * depth, torch.where(lane_early, 2.5 + 2.5 * depth, zero))
    height = 0.16 + 0.12 * d.uniform("height")[:, 0] + 0.3 * torch.where(edge, cos, zero)
    lane_width = torch.where(edge, (0.35 + 0.25 * wide) * height * scale, (0.05 + 0.04 * wide) * r90)
    lane_length = torch.where(edge, (0.6 + 0.25 * long) * r90, (0.45 + 0.3 * long) * r90)
    lane_turn = torch.where(lane_early, 0.2 * (2 * turn - 1), zero)
    lane_offset = torch.stack([lane_width * (shift - 0.5), lane_width * torch.where(lane_early, 2 * bend - 1, 0 * bend)], 1)

    stars = torch.arange(STARS) < (torch.log(d.uniform("stars")) / math.log(star_rate / (1 + star_rate)))  # geometric in number
    star = d.uniform("star-light")
    star_r = 10 ** (0.4 * (22.5 - (21.5 + torch.log10(star[:, :STARS]) / 0.35).clamp_min(15.5))) * stars
    star_colours = flux_ratios(0.3 + 1.1 * star[:, STARS:], 0.05 + 0.6 * star[:, STARS:] ** 2)

    tint, blue, _, _ = d.normal("colour").unbind(1)
    red = 0.74 + 1.6 * redshift + 0.035 * tint  # g - r of an old population
    young = 0.36 + 0.8 * redshift + 0.07 * blue
    mixed = torch.where(irregular, 0.42 + 0.06 * blue, torch.where(edge, 0.55 * red + 0.45 * young, 0.45 * red + 0.55 * young))
    gr = torch.stack([torch.where(irregular, mixed, red), mixed, torch.where(irregular, 0.18 + 0.06 * blue, young - 0.08)], 1)
    values: dict[str, Tensor] = {
        "index": d.index, "kind": kind, "redshift": redshift, "magnitude": magnitude, "r90": r90,
        "seeing": (1.3 + 0.14 * d.normal("seeing")[:, 0]).clamp(0.9, 1.8), "sky": torch.exp(0.06 * d.normal("sky")[:, 0]),
        "centre": d.uniform("centre", -0.4, 0.4), "angle": angle,
        "core_share": core, "core_radius": core_radius, "core_sersic": index, "core_ratio": core_ratio, "core_boxy": boxy,
        "disc_share": smooth, "disc_scale": scale, "disc_height": height, "cos_inclination": cos,
        "bar_share": bar, "bar_length": (0.28 + 0.15 * bar_long) * r90, "bar_ratio": 0.22 + 0.16 * bar_thin,
        "bar_angle": math.pi * bar_turn,
        "arm_share": arm, "arm_count": number, "arm_sense": torch.where(d.uniform("sense")[:, 0] < 0.5, -1.0, 1.0), "arm_pitch": pitch,
        "arm_phase": phase, "arm_weight": weight, "arm_width": (0.045 + 0.03 * arm_width) * r90,
        "arm_reach": torch.stack([begin, (0.85 + 0.35 * arm_reach) * r90], 1),
        "clump_share": clump, "clump_place": place, "clump_width": width, "clump_weight": share, "warp": warp,
        "texture": torch.where(irregular, 0.5, torch.where(armed, 0.2, 0.0)) * (0.6 + 0.8 * d.uniform("texture")[:, 0]),
        "lane_depth": lane_depth, "lane_width": lane_width, "lane_length": lane_length, "lane_angle": lane_turn, "lane_offset": lane_offset,
        "colours": flux_ratios(gr, 0.42 * gr + 0.06),
        "star_place": d.uniform("star-place", -1.0, 1.0).reshape(rows, STARS, 2) * 26, "star_flux": star_r[..., None] * star_colours,
    }  # fmt: skip
    return Latents(**{name: value if value.dtype == torch.int64 else value.float() for name, value in values.items()})


def clump_field(
    d: Draws, armed: Tensor, r90: Tensor, ratio: Tensor, cos: Tensor,
    pitch: Tensor, phase: Tensor, number: Tensor, scale: Tensor, angle: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Star-forming knots: along the arms of a spiral, about the body of an irregular. Places on the sky, widths, weights."""
    first, second, third = d.uniform("clump-place").reshape(len(r90), 3, CLUMPS).unbind(1)
    which = (third * number.clamp_min(1)[:, None]).long().clamp_max(ARMS - 1)
    sense = torch.where(d.uniform("sense")[:, 0] < 0.5, -1.0, 1.0)[:, None]
    spiral, size = armed[:, None], r90[:, None]
    r = torch.where(spiral, (0.25 + 0.7 * first) * size, 0.7 * size * first.sqrt())
    along = phase.gather(1, which) + sense / torch.tan(pitch.gather(1, which)) * torch.log(r / scale[:, None]) + 0.25 * (second - 0.5)
    turn = torch.where(spiral, along, 2 * math.pi * second)
    shift = torch.where(spiral, 0.0, 0.3 * size * (d.uniform("lopsided") - 0.5))
    x = r * torch.cos(turn) + shift[:, :1]
    y = r * torch.sin(turn) * torch.where(armed, cos, ratio)[:, None] + 0.6 * shift[:, 1:]
    cosine, sine = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    place = torch.stack([x * cosine - y * sine, x * sine + y * cosine], -1)
    u = d.uniform("clump-width")
    width = torch.where(armed[:, None], 0.02 + 0.03 * u, 0.03 + 0.12 * u**2) * r90[:, None]
    weight = (d.uniform("clump-weight") ** 3 + 0.03) * (width / r90[:, None]) ** 1.5
    return place, width, weight / weight.sum(1, keepdim=True)


def flux_ratios(gr: Tensor, ri: Tensor) -> Tensor:
    """Flux in g, r, i over that in r, for colours in magnitudes: [..., 3]."""
    return torch.stack([10 ** (-0.4 * gr), torch.ones_like(gr), 10 ** (0.4 * ri)], -1)


POPULATIONS: dict[str, Callable[[Draws], Latents]] = {"survey": survey, "tutorial": tutorial}
FIELD_OF_VIEW = {"survey": 51.2, "tutorial": 40.0}  # arcsec on a side, whatever the number of pixels


def known(preset: str) -> str:
    """The preset's name, if it is one."""
    if preset not in POPULATIONS:
        raise GalaxySDError(f"population {preset}: no such preset{nearest(preset, POPULATIONS)}")
    return preset


def block(preset: str, seed: int, number: int) -> Latents:
    """The galaxies of one whole block."""
    index = torch.arange(number * BLOCK, (number + 1) * BLOCK)
    return POPULATIONS[known(preset)](Draws(seed, index))


def draw(preset: str, seed: int, index: seeds.Index) -> Latents:
    """The latents of any galaxies of a population, on the CPU."""
    numbers, rows = blocks(seeds.as_index(index))
    return Latents.joined([block(preset, seed, number) for number in numbers]).rows(rows)
