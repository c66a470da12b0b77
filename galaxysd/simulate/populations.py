"""The populations of the simulated survey: which galaxies there are, how bright, how large, of what shape, with which features.

`survey` is a magnitude-limited sample of the SDSS kind: Euclidean counts, luminosities, a size-luminosity relation, random
position angles and inclinations. `tutorial` is nearby, bright and large galaxies in equal parts of a few kinds, with their major
axes along +x: what a small network can learn in minutes. `atlas` is as near and as bright, and has every answer of the tree.

A host is drawn before its features, and whether it has one is a draw of its own: so nothing but the feature tells who has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from galaxysd.errors import GalaxySDError, nearest
from galaxysd.simulate.latents import DISC, EDGE_ON, IRREGULAR, SPHEROID, STAR, Draws
from galaxysd.simulate.traits import ODDITIES, Given, Traits, possible

MAGNITUDE_LIMIT, R90_RANGE = 17.0, (5.5, 20.0)
HALF_LIGHT = 1 / 2.35  # half-light radius over Petrosian R90, within 4 % for Sersic indices 1 to 5 (Graham et al. 2005)
NO_TRAIL = 99.0


@dataclass(frozen=True)
class Rates:
    """How often hosts that can have a feature do."""

    bar: float
    arms: float
    ring: float
    lane_edge_on: float
    lane_spheroid: float
    merger: float = 0.0
    disturbed: float = 0.0
    lens: float = 0.0
    other: float = 0.0
    trail: float = 0.0
    red: float = 0.3
    stars: float = 0.4
    field: float = 0.6
    patchy: float = 0.22  # of galaxies with arms, whose young light follows none
    counts: tuple[float, ...] = (1, 4, 1, 1, 1)  # weights of 1 to 5 arms
    windings: tuple[float, ...] = (25, 45, 30)  # weights of tight, medium and loose arms


@dataclass(frozen=True)
class Host:
    """What a population says of a galaxy before its features."""

    kind: Tensor
    redshift: Tensor
    magnitude: Tensor
    r90: Tensor
    axis_ratio: Tensor
    inclination: Tensor
    angle: Tensor


def nearby(d: Draws, has: Given, weights: tuple[float, ...], rates: Rates) -> Traits:
    """Near, bright and large galaxies along +x: round, in-between, cigar, disc, edge-on, irregular and star by these weights."""
    case = d.pick("kind", weights)
    kind = has("kind", torch.tensor([SPHEROID, SPHEROID, SPHEROID, DISC, EDGE_ON, IRREGULAR, STAR])[case])
    low = torch.tensor([0.86, 0.52, 0.24, 0.7, 0.1, 0.45, 0.9])[case].double()
    high = torch.tensor([0.99, 0.68, 0.33, 0.95, 0.2, 0.7, 1.0])[case].double()
    ratio = has("axis_ratio", low + (high - low) * d.uniform("axis-ratio")[:, 0])
    r90 = has("r90", d.uniform("size", 9.0, 13.0)[:, 0])
    # r magnitudes per square arcsec within the half-light ellipse, in the order of KINDS; a star's is of its seeing
    surface = torch.tensor([20.5, 20.9, 20.5, 21.2, 18.5], dtype=torch.float64)[kind]
    surface = surface + 0.25 * d.normal("apparent")[:, 0]
    magnitude = surface - 2.5 * torch.log10(2 * math.pi * (r90 * HALF_LIGHT) ** 2 * ratio.clamp_min(0.25))
    redshift = has("redshift", 0.012 + 0.02 * d.uniform("absolute")[:, 0])
    cos = torch.where(kind == EDGE_ON, d.uniform("inclination", 0.0, 0.08)[:, 0], ratio.clamp_min(0.3))
    host = Host(kind, redshift, has("magnitude", magnitude), r90, ratio, has("inclination", torch.rad2deg(torch.acos(cos))), aligned(d))
    return featured(d, has, host, rates)


def aligned(d: Draws) -> Tensor:
    """Major axes along +x within a few degrees, either end first: degrees."""
    return torch.where(d.uniform("angle")[:, 0] < 0.5, 0.0, 180.0) + torch.rad2deg(0.03 * d.normal("bulge-shape")[:, 3])


def tutorial(d: Draws, has: Given) -> Traits:
    """16 % round, 8 % in between, 20 % cigars, 16 % discs, nearly all spirals, 20 % edge-on, 20 % irregular; few early types have lanes."""
    rates = Rates(bar=0.35, arms=0.95, ring=0.0, lane_edge_on=0.6, lane_spheroid=0.07, red=0.0, stars=0.15, field=0.0)
    return nearby(d, has, (16, 8, 20, 16, 20, 20, 0), rates)


def atlas(d: Draws, has: Given) -> Traits:
    """Every answer: discs are half barred, most armed, a third ringed; mergers, disturbed galaxies, lenses, lanes and stars as well."""
    rates = Rates(
        bar=0.45, arms=0.7, ring=0.3, lane_edge_on=0.5, lane_spheroid=0.16, merger=0.12, disturbed=0.05, lens=0.03, other=0.03,
        trail=0.01, red=0.25, stars=0.15, field=0.15,
    )  # fmt: skip
    return nearby(d, has, (14, 8, 12, 38, 12, 14, 2), rates)


def survey(d: Draws, has: Given) -> Traits:
    """A magnitude-limited sample: 43 % spheroids, 51.5 % discs at random inclinations, 4 % irregulars, 1.5 % stars and artefacts."""
    kind = torch.tensor([SPHEROID, DISC, IRREGULAR, STAR])[d.pick("kind", (43, 51.5, 4, 1.5))]
    cos = d.uniform("inclination")[:, 0]
    kind = has("kind", torch.where((kind == DISC) & (cos < 0.2), EDGE_ON, kind))
    early, irregular = kind == SPHEROID, kind == IRREGULAR
    # A table may ask for a disc where an edge-on one was drawn, or the other way round.
    cos = torch.where(kind == EDGE_ON, torch.where(cos < 0.2, cos, 0.2 * cos), torch.where(cos < 0.2, 1 - cos, cos))
    u = d.uniform("axis-ratio")[:, 0]
    ratio = has("axis_ratio", torch.where(early, 1 - 0.75 * u**1.4, torch.where(irregular, 0.4 + 0.5 * u, cos.clamp_min(0.1))))

    # Sixteen candidates each; the first that passes the survey's cuts is the galaxy.
    apparent = MAGNITUDE_LIMIT + torch.log10(d.uniform("apparent")) / 0.6  # counts grow as 10^(0.6 m)
    mean = torch.where(early, -21.6, torch.where(irregular, -19.2, -20.9))[:, None]
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
    host = Host(
        kind, has("redshift", redshift.clamp(0.004, 0.25)), has("magnitude", torch.where(kind == STAR, magnitude - 3, magnitude)),
        has("r90", r90.clamp(*R90_RANGE)), ratio, has("inclination", torch.rad2deg(torch.acos(cos))),
        torch.rad2deg(d.uniform("angle", 0.0, 2 * math.pi)[:, 0]),
    )  # fmt: skip
    rates = Rates(
        bar=0.35, arms=0.62, ring=0.06, lane_edge_on=0.6, lane_spheroid=0.025, merger=0.045, disturbed=0.02, lens=0.003, other=0.01,
        trail=0.004, red=0.35, patchy=0.14, counts=(8, 68, 12, 6, 6), windings=(42, 40, 18),
    )  # fmt: skip
    return featured(d, has, host, rates)


def featured(d: Draws, has: Given, host: Host, rates: Rates) -> Traits:
    """The rest of a host, and its features: none of the draws that decide on one has a say in the host."""
    kind = host.kind
    disc, edge, irregular, early = kind == DISC, kind == EDGE_ON, kind == IRREGULAR, kind == SPHEROID
    zero = torch.zeros_like(host.r90)
    barred, armed, ringed, laned, trailed, flocculent = d.uniform("features").unbind(1)
    light, length, _, _ = d.uniform("bar").unbind(1)
    arm_light, _, arm_number, _ = d.uniform("arm-light").unbind(1)
    ring_light, ring_far, _, _ = d.uniform("ring").unbind(1)
    odd, odd_light = d.uniform("odd")[:, :2].unbind(1)
    depth = d.uniform("lane")[:, 0]
    steep, knots = d.normal("sersic")[:, 0], d.uniform("clump-light")[:, 0]
    stopped, _ = d.uniform("type").unbind(1)

    bulge = torch.exp(math.log(0.13) + 0.8 * d.normal("bulge")[:, 0]).clamp(0.005, 0.6)
    has_arms = disc & (armed < rates.arms)
    # Discs that have stopped making stars have large bulges; without arms they are the S0s.
    red = has("red", torch.where((disc | edge) & (stopped < rates.red), 1.0, zero))
    bulge = has("bulge", torch.where(red > 0.5, (1.8 * bulge + 0.12).clamp_max(0.65), bulge))
    flat = ((0.5 - host.axis_ratio) / 0.25).clamp(0, 1)  # the flattest spheroids are discy: cigars have shallow profiles
    index = torch.where(irregular, 0.9 + 0.15 * steep, 2.0 + 0.6 * steep)
    index = torch.where(early, 3.4 - 1.8 * flat + 0.6 * steep, index).clamp(0.6, 5.0)
    box = d.uniform("bulge-shape")[:, 2]

    shares = torch.tensor(rates.counts, dtype=torch.float64).cumsum(0)
    count = 1.0 + torch.bucketize(arm_number.contiguous(), shares / shares[-1])
    patchy = flocculent < rates.patchy
    count = torch.where(patchy, 5.0, count)
    middle, reach = torch.tensor([[10.0, 17.5, 30.0], [2.5, 3.5, 5.0]], dtype=torch.float64)[:, d.pick("pitch", rates.windings)]
    arms = has("arms", torch.where(has_arms, (0.35 + 0.45 * arm_light), zero))
    # One oddity at most, by one draw whatever the host; what a host cannot have it goes without.
    edges = torch.tensor([rates.merger, rates.disturbed, rates.lens, rates.other], dtype=torch.float64).cumsum(0)
    chosen = torch.bucketize(odd.contiguous(), edges, right=True)

    for name in ODDITIES:  # one that is asked for leaves no room for another
        chosen = torch.where(torch.as_tensor(has.asked(name)), len(ODDITIES), chosen)

    def oddity(number: int, name: str, share: Tensor) -> Tensor:
        return has(name, torch.where((chosen == number) & possible(kind, name), share, zero))

    knotty = torch.where(irregular, 0.3 + 0.3 * knots, torch.where(arms > 0, 0.07 * knots, zero))
    lane_rate = torch.where(edge, rates.lane_edge_on, rates.lane_spheroid)
    lane_depth = torch.where(edge, 1.2 + 2.4 * depth, 2.5 + 2.5 * depth)
    return Traits(
        kind=kind, redshift=host.redshift, magnitude=host.magnitude, r90=host.r90, axis_ratio=host.axis_ratio,
        inclination=host.inclination, angle=has("angle", host.angle), sersic=has("sersic", index), bulge=bulge,
        boxy=has("boxy", torch.where(edge & (box < 0.3), 3.0 + 2 * box, 2.0)), red=red,
        bar=has("bar", torch.where(disc & (barred < rates.bar), 0.09 + 0.16 * light, zero)),
        bar_length=has("bar_length", 0.28 + 0.15 * length),
        arms=arms, arm_count=has("arm_count", torch.where(arms > 0, count, zero)),
        pitch=has("pitch", middle + reach * d.uniform("pitch", -1.0, 1.0)[:, 1]),
        flocculence=has("flocculence", torch.where(patchy & (arms > 0), 0.75, zero)),
        ring=has("ring", torch.where(disc & (ringed < rates.ring), 0.15 + 0.3 * ring_light, zero)),
        ring_radius=has("ring_radius", 0.5 + 0.35 * ring_far),
        lane=has("lane", torch.where(possible(kind, "lane") & (laned < lane_rate), lane_depth, zero)),
        merger=oddity(0, "merger", 0.3 + 0.6 * odd_light), disturbed=oddity(1, "disturbed", 0.15 + 0.2 * odd_light),
        lens=oddity(2, "lens", 0.05 + 0.08 * odd_light), other=oddity(3, "other", 0.08 + 0.1 * odd_light),
        knots=has("knots", knotty), trail=has("trail", torch.where(trailed < rates.trail, 21.0 + 2.5 * odd_light, NO_TRAIL)),
        seeing=has("seeing", (1.3 + 0.14 * d.normal("seeing")[:, 0]).clamp(0.9, 1.8)),
        sky=has("sky", torch.exp(0.06 * d.normal("sky")[:, 0])),
        stars=has("stars", zero + rates.stars), field=has("field", zero + rates.field),
    )  # fmt: skip


POPULATIONS: dict[str, Callable[[Draws, Given], Traits]] = {"atlas": atlas, "survey": survey, "tutorial": tutorial}
FIELD_OF_VIEW = {"atlas": 40.0, "survey": 51.2, "tutorial": 40.0}  # arcsec on a side, whatever the number of pixels
ALIGNED = {"atlas": True, "survey": False, "tutorial": True}  # whether major axes lie along +x


def known(preset: str) -> str:
    """The preset's name, if it is one."""
    if preset not in POPULATIONS:
        raise GalaxySDError(f"population {preset}: no such preset{nearest(preset, POPULATIONS)}")
    return preset
