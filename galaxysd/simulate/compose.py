"""From traits and a galaxy's own draws to latents: where the arms lie, how the light is shared out, what colour it has."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from galaxysd.simulate.components import THICKNESS
from galaxysd.simulate.latents import (
    ARCS,
    ARMS,
    CLOUDS,
    CLUMPS,
    DISC,
    EDGE_ON,
    FIELD,
    IRREGULAR,
    SPHEROID,
    STAR,
    STARS,
    TAILS,
    WAVES,
    Draws,
    Latents,
)  # fmt: skip
from galaxysd.simulate.populations import HALF_LIGHT
from galaxysd.simulate.traits import Traits

REACH = 26.0  # arcsec from the middle of the stamp within which the field's objects lie


def compose(d: Draws, t: Traits) -> Latents:
    """The latents of galaxies of these traits."""
    kind, r90, redshift = t.kind, t.r90, t.redshift
    early, disc, edge, irregular, star = (kind == each for each in (SPHEROID, DISC, EDGE_ON, IRREGULAR, STAR))
    zero = torch.zeros_like(r90)
    cos = torch.cos(torch.deg2rad(t.inclination)).clamp(0, 1)
    angle = torch.deg2rad(t.angle)

    # The host. Its shares sum to 1; a star that hides the galaxy is all points.
    core = torch.where(early, 1.0, torch.where(irregular, 1 - t.knots, torch.where(star, 0.0, t.bulge)))
    smooth = torch.where(disc | edge, 1 - t.bulge, zero)
    pinch, swell, _, _ = d.uniform("bulge-shape").unbind(1)
    scale = torch.where(edge, r90 / 3.4, r90 / 3.9)
    core_radius = torch.where(early | irregular, r90 * HALF_LIGHT, scale * (0.25 + 0.3 * swell) * (t.bulge.clamp_min(0.005) / 0.14) ** 0.3)
    beside = torch.where(edge, 0.6 + 0.3 * pinch, 1 - (1 - cos) * (0.3 + 0.2 * pinch))
    core_ratio = torch.where(early | irregular, t.axis_ratio, beside)
    height = 0.16 + 0.12 * d.uniform("height")[:, 0] + 0.3 * torch.where(edge, cos, zero)

    values: dict[str, Tensor] = {
        "index": d.index, "kind": kind, "redshift": redshift, "magnitude": t.magnitude, "r90": r90, "seeing": t.seeing, "sky": t.sky,
        "centre": d.uniform("centre", -0.4, 0.4), "angle": angle,
        "core_share": core, "core_radius": core_radius, "core_sersic": t.sersic, "core_ratio": core_ratio,
        "core_boxy": torch.where(edge, t.boxy, 2.0), "disc_share": smooth, "disc_scale": scale, "disc_height": height,
        "cos_inclination": torch.where(disc | edge, cos, torch.where(early | irregular, t.axis_ratio, 1.0)),
    }  # fmt: skip
    values |= arms(d, t, disc, irregular, scale, cos, angle)
    values |= lanes(d, t, edge, height * scale)
    values |= torn(d, t)
    values |= surroundings(d, t, star)
    values["colours"] = colours(d, t, irregular, edge)
    return Latents(**{name: value if value.dtype == torch.int64 else value.float() for name, value in values.items()})


def arms(d: Draws, t: Traits, disc: Tensor, irregular: Tensor, scale: Tensor, cos: Tensor, angle: Tensor) -> dict[str, Tensor]:
    """What lies in the plane of the disc: bar, arms, ring, and the knots along the arms or about an irregular's body."""
    r90, number = t.r90, t.arm_count.long()
    _, _, bar_thin, bar_turn = d.uniform("bar").unbind(1)
    _, arm_reach, _, arm_width = d.uniform("arm-light").unbind(1)
    _, _, inner, ring_width = d.uniform("ring").unbind(1)
    slots = torch.arange(ARMS)
    pitch = (t.pitch[:, None] * (1 + 0.08 * d.normal("arm-pitch"))).clamp(5, 45) * (math.pi / 180)
    spread = 2 * math.pi * slots / number.clamp_min(1)[:, None]
    phase = spread + 2 * math.pi * bar_turn[:, None] + 0.5 * (d.uniform("arm-phase") - 0.5)
    sense = torch.where(d.uniform("sense")[:, 0] < 0.5, -1.0, 1.0).double()
    armed = disc & (t.arms > 0)
    place, width, share = knots(d, t, armed, cos, pitch, phase, sense, scale, angle)
    warp, waves = d.uniform("warp"), d.uniform("flocculence")
    # Waves around and inwards of a patchy disc, sheared alike by its rotation.
    turns = 3 + (waves[:, :WAVES] * 7).floor()
    inwards = sense[:, None] * turns / torch.tan(pitch[:, :1]) * (0.7 + 0.6 * waves[:, WAVES : 2 * WAVES])
    zero = torch.zeros_like(r90)
    return {
        "bar_share": t.bar, "bar_length": t.bar_length * r90, "bar_ratio": 0.22 + 0.16 * bar_thin, "bar_angle": math.pi * bar_turn,
        "arm_share": t.arms, "arm_count": number, "arm_sense": sense, "arm_pitch": pitch, "arm_phase": phase,
        "arm_weight": torch.where(slots < number[:, None], 0.7 + 0.6 * d.uniform("arm-weight"), 0.0),
        "arm_width": (0.045 + 0.03 * arm_width) * r90, "arm_begin": (0.15 + 0.16 * inner) * r90,
        "arm_end": ((0.85 + 0.35 * arm_reach) * r90)[:, None] * (0.8 + 0.3 * d.uniform("arm-end")),
        "flocculence": t.flocculence, "waves": torch.stack([turns, inwards, 2 * math.pi * waves[:, 2 * WAVES : 3 * WAVES]], -1),
        "ring_share": t.ring, "ring_radius": t.ring_radius * r90, "ring_width": (0.05 + 0.04 * ring_width) * r90,
        "clump_share": t.knots, "clump_place": place, "clump_width": width, "clump_weight": share,
        "warp": torch.stack([torch.where(irregular, 0.25 * r90 * warp[:, 0], zero), r90 * (1 + warp[:, 1]), 2 * math.pi * warp[:, 2]], 1),
        "texture": torch.where(irregular, 0.5, torch.where(disc, 0.2, 0.0)) * (0.6 + 0.8 * d.uniform("texture")[:, 0]),
    }  # fmt: skip


def knots(
    d: Draws, t: Traits, armed: Tensor, cos: Tensor, pitch: Tensor, phase: Tensor, sense: Tensor, scale: Tensor, angle: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Star-forming knots: along the arms of a spiral, about the body of an irregular. Places on the sky, widths, weights."""
    first, second, third = d.uniform("clump-place").reshape(len(t), 3, CLUMPS).unbind(1)
    which = (third * t.arm_count.clamp_min(1)[:, None]).long().clamp_max(ARMS - 1)
    spiral, size = armed[:, None], t.r90[:, None]
    r = torch.where(spiral, (0.25 + 0.7 * first) * size, 0.7 * size * first.sqrt())
    wound = sense[:, None] / torch.tan(pitch.gather(1, which)) * torch.log(r / scale[:, None])
    turn = torch.where(spiral, phase.gather(1, which) + wound + 0.25 * (second - 0.5), 2 * math.pi * second)
    shift = torch.where(spiral, 0.0, 0.3 * size * (d.uniform("lopsided") - 0.5))
    x = r * torch.cos(turn) + shift[:, :1]
    slant = torch.sqrt(cos**2 + THICKNESS**2 * (1 - cos**2))  # as the arms' plane has it
    y = r * torch.sin(turn) * torch.where(armed, slant, t.axis_ratio)[:, None] + 0.6 * shift[:, 1:]
    u = d.uniform("clump-width")
    width = torch.where(spiral, 0.02 + 0.03 * u, 0.03 + 0.12 * u**2) * size
    weight = (d.uniform("clump-weight") ** 3 + 0.03) * (width / size) ** 1.5
    cosine, sine = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    return torch.stack([x * cosine - y * sine, x * sine + y * cosine], -1), width, weight / weight.sum(1, keepdim=True)


def lanes(d: Draws, t: Traits, edge: Tensor, height: Tensor) -> dict[str, Tensor]:
    """Dust: along the plane of a disc seen edge-on, across a spheroid nearly along its major axis."""
    _, wide, long, turn, shift, bend = d.uniform("lane").unbind(1)
    width = torch.where(edge, (0.35 + 0.25 * wide) * height, (0.04 + 0.035 * wide) * t.r90)
    length = torch.where(edge, 0.6 + 0.25 * long, 0.45 + 0.3 * long) * t.r90
    return {
        "lane_depth": t.lane, "fine": ((t.lane > 0) | edge).long(),  # thin discs too, or a twin on its finer grid would differ from them
        "lane_width": width, "lane_length": length, "lane_angle": torch.where(edge, 0.0, 0.2 * (2 * turn - 1)),
        "lane_offset": torch.stack([width * (shift - 0.5), width * torch.where(edge, 0.0, 2 * bend - 1)], 1),
    }  # fmt: skip


def torn(d: Draws, t: Traits) -> dict[str, Tensor]:
    """A companion, tails, shells and arcs, a cloud of gas: all where chance puts them, none in the plane of the disc."""
    rows, r90 = len(t), t.r90
    merging, disturbed, lens = t.merger > 0, t.disturbed > 0, t.lens > 0
    far, way, size, steep, thin, turn, _, twist = d.uniform("mate").unbind(1)
    distance, way = (0.75 + 0.6 * far) * r90, 2 * math.pi * way
    # Tails wind from where they leave the galaxy; two of them leave on opposite sides.
    leave, wind, reach, wide, light = d.uniform("tail").reshape(rows, 5, TAILS).unbind(1)
    start = way[:, None] + math.pi * torch.arange(TAILS) + 0.8 * (leave - 0.5)
    pitch = torch.where(twist < 0.5, -1.0, 1.0)[:, None] * torch.deg2rad(22 + 30 * wind)
    begin = (0.55 + 0.2 * leave) * r90[:, None]
    share = light * torch.tensor([1.0, 0.45])
    tails = torch.where(merging, 0.22 * t.merger.clamp_max(0.6), torch.where(disturbed, 0.5 * t.disturbed, 0.0))
    around, open_, radius = d.uniform("arc").reshape(rows, 3, ARCS).unbind(1)
    # The second image of a lens faces the first, nearer and smaller; shells lie anywhere.
    middle = torch.where(lens[:, None], way[:, None] + math.pi * torch.arange(ARCS) + 0.5 * (around - 0.5), 2 * math.pi * around)
    arc_radius = torch.where(lens[:, None], (0.42 + 0.2 * radius[:, :1]) * torch.tensor([1.0, 0.8]), 0.75 + 0.4 * radius)
    extent = torch.where(lens[:, None], (0.35 + 0.5 * open_) * torch.tensor([1.0, 0.5]), 0.4 + 0.5 * open_)
    arc_width = torch.where(lens[:, None], 0.022 + 0.012 * radius, 0.05 + 0.04 * radius)
    arcs = torch.where(lens[:, None], t.lens[:, None] * torch.tensor([0.75, 0.25]), 0.25 * t.disturbed[:, None] * torch.ones(ARCS))
    far_cloud, way_cloud, wide_cloud, _ = d.uniform("cloud").reshape(rows, 4, CLOUDS).unbind(1)
    far_cloud = (0.45 + 0.35 * far_cloud[:, :1] + 0.16 * (far_cloud - 0.5)) * r90[:, None]
    way_cloud = 2 * math.pi * way_cloud[:, :1] + 0.7 * (way_cloud - 0.5)
    return {
        "mate_share": t.merger, "mate_place": torch.stack([distance * torch.cos(way), distance * torch.sin(way)], 1),
        "mate_radius": (0.16 + 0.14 * size) * r90 * t.merger.clamp_min(0.05) ** 0.3, "mate_sersic": 1.0 + 1.8 * steep,
        "mate_ratio": 0.45 + 0.5 * thin, "mate_angle": math.pi * turn,
        "tail_share": tails[:, None] * share / share.sum(1, keepdim=True), "tail_angle": start, "tail_pitch": pitch,
        "tail_reach": torch.stack([begin, begin + (0.5 + 0.6 * reach) * r90[:, None]], -1),
        "tail_width": (0.06 + 0.06 * wide) * r90[:, None],
        "arc_share": arcs, "arc_radius": arc_radius * r90[:, None], "arc_angle": middle, "arc_extent": extent,
        "arc_width": arc_width * r90[:, None], "lens": lens.long(),
        "cloud_share": t.other, "cloud_place": torch.stack([far_cloud * torch.cos(way_cloud), far_cloud * torch.sin(way_cloud)], -1),
        "cloud_width": (0.035 + 0.05 * wide_cloud) * r90[:, None],
    }  # fmt: skip


def surroundings(d: Draws, t: Traits, star: Tensor) -> dict[str, Tensor]:
    """The field's stars and galaxies, a satellite's trail, and for a star that hides its galaxy the light and its spikes."""
    rows = len(t)

    def number(u: Tensor, expected: Tensor, slots: int) -> Tensor:
        # Geometric of this mean: ln u / ln(m / (1 + m)) exceeds k with probability (m / (1 + m))^k.
        return torch.arange(1, slots + 1) < torch.log(u)[:, None] / torch.log(expected.clamp_min(1e-9) / (1 + expected))[:, None]

    light, colour = d.uniform("star-light").split(STARS, 1)
    bright = 10 ** (0.4 * (22.5 - (21.5 + torch.log10(light) / 0.35).clamp_min(15.5))) * number(d.uniform("stars")[:, 0], t.stars, STARS)
    star_flux = bright[..., None] * flux_ratios(0.3 + 1.1 * colour, 0.05 + 0.6 * colour**2)
    star_place = d.uniform("star-place", -REACH, REACH).reshape(rows, STARS, 2)
    # A star's own light is a point in the middle, and a little of it in spikes.
    tint = flux_ratios(0.3 + 1.1 * colour[:, 0], 0.05 + 0.6 * colour[:, 0] ** 2)
    own = torch.where(star[:, None], 10 ** (0.4 * (22.5 - t.magnitude))[:, None] * tint, 0.0)
    middle = star[:, None] & (torch.arange(STARS) == 0)
    star_flux = torch.where(middle[..., None], 0.97 * own[:, None], star_flux)
    star_place = torch.where(middle[..., None], d.uniform("centre", -0.4, 0.4)[:, None], star_place)

    count, where_x, where_y, faint, size, thin, hue = d.uniform("field").reshape(rows, 7, FIELD).unbind(1)
    flux = 10 ** (0.4 * (22.5 - (21.3 + torch.log10(faint) / 0.45).clamp_min(17.5))) * number(count[:, 0], t.field, FIELD)
    bend, offset, wide, _, band = d.uniform("trail").unbind(1)
    # A survey that scans its bands one after another sees a satellite in one of them.
    passing = torch.nn.functional.one_hot((band * 3).long().clamp_max(2), 3) * 0.9 + 0.1
    trail = 10 ** (0.4 * (22.5 - t.trail)) * (t.trail < 99)
    turn, long, _ = d.uniform("spikes").unbind(1)
    return {
        "star_place": star_place, "star_flux": star_flux,
        "field_place": (2 * torch.stack([where_x, where_y], -1) - 1) * REACH, "field_flux": flux[..., None] * flux_ratios(
            0.45 + 0.9 * hue, 0.2 + 0.35 * hue),
        "field_radius": 0.35 + 0.75 * size, "field_ratio": 0.35 + 0.6 * thin, "field_angle": math.pi * hue * 2,
        "trail_flux": trail[:, None] * passing, "trail_angle": math.pi * bend, "trail_offset": 16 * (offset - 0.5),
        "trail_width": 0.6 + 0.3 * wide,
        "spike_flux": 0.03 * own, "spike_angle": math.pi / 4 + 0.3 * (turn - 0.5), "spike_length": (0.12 + 0.2 * long) * t.r90,
    }  # fmt: skip


def colours(d: Draws, t: Traits, irregular: Tensor, edge: Tensor) -> Tensor:
    """Flux in g, r, i over that in r of old, disc, young and foreign light: [B, 4, 3]."""
    tint, blue, strange, _ = d.normal("colour").unbind(1)
    old = 0.74 + 1.6 * t.redshift + 0.035 * tint  # g - r of an old population
    young = 0.36 + 0.8 * t.redshift + 0.07 * blue
    mixed = torch.where(edge, 0.55 * old + 0.45 * young, 0.45 * old + 0.55 * young)
    mixed = torch.where(t.red > 0.5, 0.9 * old + 0.1 * young, mixed)
    mixed = torch.where(irregular, 0.42 + 0.06 * blue, mixed)
    # The source behind a lens is young and far; a companion and what tides tore out are like the galaxy.
    foreign = torch.where(t.lens > 0, 0.05 + 0.15 * strange, torch.where(t.merger > 0, mixed + 0.1 * strange, mixed))
    gr = torch.stack([torch.where(irregular, mixed, old), mixed, torch.where(irregular, 0.18 + 0.06 * blue, young - 0.08), foreign], 1)
    ratios = flux_ratios(gr, 0.42 * gr + 0.06)
    # Gas that glows in [O III] is bright in g or r by its redshift, and dark in i.
    glow = torch.tensor([1.0, 1.0, 0.45], dtype=ratios.dtype)
    ratios[:, 3] = torch.where((t.other > 0)[:, None], glow, ratios[:, 3])
    return ratios


def flux_ratios(gr: Tensor, ri: Tensor) -> Tensor:
    """Flux in g, r, i over that in r, for colours in magnitudes: [..., 3]."""
    return torch.stack([10 ** (-0.4 * gr), torch.ones_like(gr), 10 ** (0.4 * ri)], -1)
