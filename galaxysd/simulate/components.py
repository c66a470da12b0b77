"""The components of galaxies on a grid of points: light per square arcsec for a host of total 1, before dust and atmosphere.

Each function takes galaxies that have the component and gives a plane [B, H, W]. Features end somewhere (`profiles.cut`): outside, a
galaxy and its twin without the feature are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.simulate import profiles
from galaxysd.simulate.latents import DISC, EDGE_ON, IRREGULAR, Latents
from galaxysd.simulate.profiles import wide

THICKNESS = 0.15  # axis ratio of a disc seen from its side
OLD, DISC_LIGHT, YOUNG, FOREIGN = range(4)  # rows of Latents.colours
WHOLE, POINTS = 2.5, 192  # R90 from the centre within which the features of a disc end, and points on a side of a grid of all that


class Place:
    """Where the points of a grid lie in the galaxies: computed when first asked for, once."""

    def __init__(self, lat: Latents, line_x: Tensor, line_y: Tensor, step: float, seed: int, cell: Tensor | None = None) -> None:
        self.lat, self.line_x, self.line_y, self.step, self.seed = lat, line_x, line_y, step, seed  # lines [B, W], [B, H]
        self.cell = cell  # [B] what a point stands for where all of the disc's features lie on the grid; None where a stamp may cut them
        self.found: dict[str, Tensor] = {}

    def rows(self, pick: Tensor) -> Place:
        """Some of the galaxies, with what has been computed of them."""
        if len(pick) == len(self.lat):  # positions ascend: these are all
            return self
        cell = None if self.cell is None else self.cell[pick]
        some = Place(self.lat.rows(pick), self.line_x[pick], self.line_y[pick], self.step, self.seed, cell)
        some.found = {name: each[pick] for name, each in self.found.items()}
        return some

    def zoomed_out(self) -> Place:
        """Points over all that the features of a disc can reach."""
        line = torch.linspace(-WHOLE, WHOLE, POINTS, device=self.line_x.device) * self.lat.r90[:, None]
        return Place(self.lat, line, line, self.step, self.seed, (line[:, 1] - line[:, 0]) ** 2)

    def once(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in self.found:
            self.found[name] = make()
        return self.found[name]

    @property
    def xy(self) -> tuple[Tensor, Tensor]:
        """From the galaxy's centre: broadcastable to [B, H, W]."""
        return self.line_x[:, None, :], self.line_y[:, :, None]

    def along(self) -> tuple[Tensor, Tensor]:
        """Along and across the major axis."""
        if "u" not in self.found:
            self.found["u"], self.found["v"] = profiles.rotated(*self.xy, self.lat.angle)
        return self.found["u"], self.found["v"]

    def in_plane(self) -> tuple[Tensor, Tensor]:
        """In the plane of the disc."""
        u, v = self.along()
        return u, self.once("plane v", lambda: v / wide(slant(self.lat)))

    def radius(self) -> Tensor:
        """In the plane of the disc."""
        u, v = self.in_plane()
        return self.once("plane r", lambda: torch.sqrt(u * u + v * v))

    def turn(self) -> Tensor:
        """The angle in the plane of the disc."""
        u, v = self.in_plane()
        return self.once("plane turn", lambda: torch.atan2(v, u))

    def log_radius(self) -> Tensor:
        """ln of the radius in the plane over the scale length."""
        return self.once("plane log", lambda: torch.log(self.radius().clamp_min(1e-3) / wide(self.lat.disc_scale)))

    def on_sky(self) -> tuple[Tensor, Tensor]:
        """Radius and angle on the sky."""
        x, y = self.xy
        r = self.once("sky r", lambda: torch.sqrt(x * x + y * y).clamp_min(1e-3))
        return r, self.once("sky turn", lambda: torch.atan2(y.expand_as(r), x.expand_as(r)))

    def texture(self) -> Tensor:
        """Patchy light: a random field that multiplies what is young, from its own stream; mean about 1.

        Its nodes lie about the galaxy, a sixth of its R90 apart: it is the same patches in any stamp and from any distance.
        """
        nodes = 24

        def make() -> Tensor:
            noise = seeds.normal(self.seed, "texture", self.lat.index, (nodes, nodes), device=self.lat.index.device)
            spacing = self.lat.r90[:, None] / 6
            across, along = (cubic(line / spacing + (nodes - 1) / 2, nodes) for line in (self.line_y, self.line_x))
            field = across @ noise @ along.transpose(1, 2)
            sigma = wide(self.lat.texture)
            return torch.exp(sigma * field - 0.3 * sigma**2)

        return self.once("texture", make)


def cubic(place: Tensor, nodes: int) -> Tensor:
    """Weights of a bicubic interpolation between whole numbers, places [B, N] beyond them taken at the last: [B, N, nodes]."""
    d = (place.clamp(1, nodes - 2)[..., None] - torch.arange(nodes, device=place.device)).abs()
    near, far = (1.25 * d - 2.25) * d * d + 1, ((-0.75 * d + 3.75) * d - 6) * d + 3
    return torch.where(d <= 1, near, torch.where(d < 2, far, 0.0))


def slant(lat: Latents) -> Tensor:
    """The axis ratio of a disc seen aslant, a little thick: [B]."""
    return torch.sqrt(lat.cos_inclination**2 + THICKNESS**2 * (1 - lat.cos_inclination**2))


def core(at: Place) -> Tensor:
    """The Sersic component: a spheroid, a bulge, the bent body of an irregular."""
    lat = at.lat
    u, v = at.along()
    bent = torch.nonzero(lat.warp[:, 0] > 0)[:, 0]
    if len(bent):
        amplitude, wave, phase = (wide(each) for each in lat.warp[bent].unbind(1))
        v = v.clone()
        v[bent] -= amplitude * torch.sin(2 * torch.pi * u[bent] / wave + phase)
    boxy = bool((lat.core_boxy != 2).any())
    exponent = lat.core_boxy if boxy else None
    area = profiles.superellipse_area(lat.core_boxy) if boxy else torch.pi
    r = profiles.radius(u, v, lat.core_ratio, exponent)
    light = wide(lat.core_share) * profiles.sersic(r, lat.core_sersic, lat.core_radius, lat.core_ratio, at.step, area)
    odd = torch.nonzero(lat.kind == IRREGULAR)[:, 0]
    if len(odd):
        # Patches move an irregular's light about and leave its sum.
        patchy = light[odd] * at.rows(odd).texture()
        light[odd] = patchy * (light[odd].sum((1, 2), keepdim=True) / patchy.sum((1, 2), keepdim=True).clamp_min(1e-20))
    return light


def disc(at: Place) -> Tensor:
    """The smooth disc, seen from above or aslant."""
    return wide(at.lat.disc_share) * profiles.inclined_disc(at.radius(), at.lat.disc_scale, slant(at.lat))


def edge_on(at: Place) -> Tensor:
    """The smooth disc, seen from its side."""
    lat = at.lat
    height = lat.disc_height * lat.disc_scale
    return wide(lat.disc_share) * profiles.edge_on_disc(*at.along(), lat.angle, lat.disc_scale, height, at.step)


def added(at: Place, shape: Callable[[Place], Tensor], share: Tensor) -> Tensor:
    """A feature without closed form: light of any shape, with its share of the galaxy's."""
    light = shape(at)
    return light * wide(share / total(at, shape, light))


def total(at: Place, shape: Callable[[Place], Tensor], light: Tensor) -> Tensor:
    """All the light of a shape that is `light` on the grid: [B].

    Its sum, which a shape thinner than a step keeps; where the stamp cuts it, or has none of it, the sum on a grid that has all.
    """
    if at.cell is not None:
        return (light.sum((1, 2)) * at.cell).clamp_min(1e-20)
    found = light.sum((1, 2)) * at.step**2
    edge = torch.stack([light[:, 0].amax(1), light[:, -1].amax(1), light[:, :, 0].amax(1), light[:, :, -1].amax(1)]).amax(0)
    beyond = torch.nonzero(edge >= profiles.FAINTEST * light.amax((1, 2)))[:, 0]
    if len(beyond):
        afar = at.rows(beyond).zoomed_out()
        found[beyond] = total(afar, shape, shape(afar))
    return found.clamp_min(1e-20)


def bar(at: Place) -> Tensor:
    return added(at, bar_shape, at.lat.bar_share)


def arms(at: Place) -> Tensor:
    """Arms, and patches that follow none."""
    return added(at, arms_shape, at.lat.arm_share)


def ring(at: Place) -> Tensor:
    return added(at, ring_shape, at.lat.ring_share)


def bar_shape(at: Place) -> Tensor:
    lat = at.lat
    return profiles.cut(profiles.bar(*profiles.rotated(*at.in_plane(), lat.bar_angle), lat.bar_length, lat.bar_ratio))


def arms_shape(at: Place) -> Tensor:
    light = torch.zeros_like(at.radius())
    for part, share in ((wound, 1 - at.lat.flocculence), (patchy, at.lat.flocculence)):
        pick = torch.nonzero(share > 0)[:, 0]
        if len(pick):
            some = at.rows(pick)
            light[pick] += added(some, part, share[pick])
    return profiles.cut(light * at.texture())


def wound(at: Place) -> Tensor:
    a = at.lat
    return profiles.arms(
        at.turn(), at.log_radius(), at.radius(), a.disc_scale, a.arm_sense,
        a.arm_pitch, a.arm_phase, a.arm_weight, a.arm_width, a.arm_begin, a.arm_end,
    )  # fmt: skip


def patchy(at: Place) -> Tensor:
    a = at.lat
    return profiles.patches(at.turn(), at.log_radius(), at.radius(), a.disc_scale, a.waves, a.arm_begin, a.arm_end[:, 0])


def ring_shape(at: Place) -> Tensor:
    return profiles.cut(profiles.ring(at.radius(), at.lat.ring_radius, at.lat.ring_width))


def knots(at: Place) -> Tensor:
    """Star-forming knots, patchy."""
    lat = at.lat
    light = profiles.clumps(at.line_x, at.line_y, lat.clump_place, lat.clump_width, lat.clump_weight, at.step)
    patchy = light * at.texture()
    light = patchy * (light.sum((1, 2), keepdim=True) / patchy.sum((1, 2), keepdim=True).clamp_min(1e-20))
    light = torch.where(wide(lat.kind == DISC), profiles.cut(light), light)  # a feature of a disc, the body of an irregular
    return wide(lat.clump_share) * light


def companion(at: Place) -> Tensor:
    """The other galaxy of a merger."""
    lat = at.lat
    x, y = at.xy
    u, v = profiles.rotated(x - wide(lat.mate_place[:, 0]), y - wide(lat.mate_place[:, 1]), lat.mate_angle)
    r = profiles.radius(u, v, lat.mate_ratio)
    light = profiles.sersic(r, lat.mate_sersic, lat.mate_radius, lat.mate_ratio, at.step)
    # Cut by radius: where the peak falls between points must not decide where the galaxy ends.
    return wide(lat.mate_share) * light * (r < wide(6 * lat.mate_radius))


def tails(at: Place) -> Tensor:
    lat, (r, turn) = at.lat, at.on_sky()
    light = torch.zeros_like(r)
    for k in range(lat.tail_share.shape[1]):
        plane = profiles.tail(turn, r, lat.tail_angle[:, k], lat.tail_pitch[:, k], lat.tail_reach[:, k], lat.tail_width[:, k])
        light += wide(lat.tail_share[:, k]) * plane
    return profiles.cut(light)


def arcs(at: Place) -> Tensor:
    """The arcs of a lens, the shells of a disturbed galaxy."""
    lat, (r, turn) = at.lat, at.on_sky()
    light = torch.zeros_like(r)
    for k in range(lat.arc_share.shape[1]):
        plane = profiles.arc(turn, r, lat.arc_radius[:, k], lat.arc_angle[:, k], lat.arc_extent[:, k], thick(lat.arc_width[:, k], at))
        light += wide(lat.arc_share[:, k]) * plane
    return profiles.cut(light)


def cloud(at: Place) -> Tensor:
    """Glowing gas."""
    lat = at.lat
    weight = torch.full_like(lat.cloud_width, 1 / lat.cloud_width.shape[1])
    light = profiles.clumps(at.line_x, at.line_y, lat.cloud_place, lat.cloud_width, weight, at.step)
    return profiles.cut(wide(lat.cloud_share) * light)


def thick(width: Tensor, at: Place) -> Tensor:
    """A width that the grid can carry."""
    return torch.sqrt(width**2 + (at.step / 2) ** 2)


@dataclass(frozen=True)
class Component:
    """Which galaxies have it, its plane, the colour of its light."""

    present: Callable[[Latents], Tensor]
    plane: Callable[[Place], Tensor]
    colour: int


def _discs(lat: Latents) -> Tensor:
    return (lat.kind == DISC) & (lat.disc_share > 0)


COMPONENTS: dict[str, Component] = {
    "bulge": Component(lambda lat: (lat.core_share > 0) & (lat.core_boxy == 2), core, OLD),
    "boxy-bulge": Component(lambda lat: (lat.core_share > 0) & (lat.core_boxy != 2), core, OLD),
    "disc": Component(_discs, disc, DISC_LIGHT),
    "edge-on-disc": Component(lambda lat: (lat.kind == EDGE_ON) & (lat.disc_share > 0), edge_on, DISC_LIGHT),
    "bar": Component(lambda lat: lat.bar_share > 0, bar, OLD),
    "arms": Component(lambda lat: lat.arm_share > 0, arms, YOUNG),
    "ring": Component(lambda lat: lat.ring_share > 0, ring, YOUNG),
    "knots": Component(lambda lat: lat.clump_share > 0, knots, YOUNG),
    "companion": Component(lambda lat: lat.mate_share > 0, companion, FOREIGN),
    "tails": Component(lambda lat: (lat.tail_share > 0).any(1), tails, DISC_LIGHT),
    "arcs": Component(lambda lat: (lat.arc_share > 0).any(1), arcs, FOREIGN),
    "cloud": Component(lambda lat: lat.cloud_share > 0, cloud, FOREIGN),
}
