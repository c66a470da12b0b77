"""Faults planted on purpose in a good set: what the evaluation must notice before its word on an unknown one counts.

Each takes galaxies and gives galaxies; what it leaves alone it leaves exactly alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from galaxysd import seeds
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.transforms import symmetry
from galaxysd.evaluate import morphology

BLUR = 0.7  # pixels, standard deviation
BRIGHTER, BLUER, LARGER = 1.05, 1.15, 1.2
MODES = 5  # galaxies that a collapsed generator knows

Fault = Callable[[Galaxies, Frame, int], Galaxies]


def garbage(galaxies: Galaxies, frame: Frame, seed: int) -> Galaxies:
    """The pixels of each stamp in another order: flux and colour are kept, no galaxy is left."""
    flat = galaxies.images.flatten(2)
    order = seeds.permutation(seed, "fault-garbage", flat.shape[2])
    return _imaged(galaxies, flat[..., order].reshape(galaxies.images.shape))


def brighter(galaxies: Galaxies, frame: Frame, seed: int) -> Galaxies:
    """Five percent too bright."""
    return _imaged(galaxies, galaxies.images * BRIGHTER)


def wrong_colour(galaxies: Galaxies, frame: Frame, seed: int) -> Galaxies:
    """The bluest band 15 % too bright."""
    factor = torch.ones(galaxies.images.shape[1])
    factor[0] = BLUER
    return _imaged(galaxies, galaxies.images * factor[:, None, None])


def wrong_size(galaxies: Galaxies, frame: Frame, seed: int) -> Galaxies:
    """A fifth too large, at the same flux."""
    return _imaged(galaxies, warped(galaxies.images, scale=LARGER))


def blurred(galaxies: Galaxies, frame: Frame, seed: int) -> Galaxies:
    """Convolved with a round Gaussian."""
    reach = 4
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (axis / BLUR) ** 2)
    kernel = kernel / kernel.sum()
    flat = pad(galaxies.images.float().flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    soft = conv2d(conv2d(flat, kernel[None, None, None, :]), kernel[None, None, :, None])
    return _imaged(galaxies, soft.reshape(galaxies.images.shape))


def noisier(galaxies: Galaxies, frame: Frame, seed: int) -> Galaxies:
    """As much white noise again as the sky has."""
    return _imaged(galaxies, galaxies.images + noise(galaxies.images, seed, "fault-noise", galaxies.index))


def collapsed(galaxies: Galaxies, frame: Frame, seed: int) -> Galaxies:
    """A few galaxies over and over, each time turned, and with a little noise of its own."""
    rows = torch.arange(len(galaxies))
    images = symmetry(galaxies.images[rows % min(MODES, len(rows))], seeds.bits(seed, "fault-turn", rows, 1)[:, 0] & 7)
    return _imaged(galaxies, images + 0.1 * noise(images, seed, "fault-collapsed", rows))


def mislabelled(galaxies: Galaxies, frame: Frame, seed: int) -> Galaxies:
    """Each galaxy under the requested votes of another."""
    assert galaxies.cond_counts is not None
    return replace(galaxies, cond_counts=galaxies.cond_counts[seeds.permutation(seed, "fault-labels", len(galaxies))])


def classes_missing(galaxies: Galaxies, frame: Frame, seed: int) -> Galaxies:
    """Galaxies without features in place of those with them: the requests stay, half of the classes never come."""
    featured = frame.labels.winners(galaxies.counts)[:, frame.labels.index("smooth-or-featured_featured")]
    plain = (~featured).nonzero().flatten()
    place = torch.arange(len(galaxies))
    place[featured] = plain[torch.arange(int(featured.sum())) % len(plain)]
    turned = symmetry(galaxies.images[place], torch.where(featured, 1, 0))  # mirrored, so that no picture is there twice
    return _imaged(galaxies, turned)


FAULTS: dict[str, Fault] = {
    "not galaxies": garbage,
    "brightness": brighter,
    "colour": wrong_colour,
    "size": wrong_size,
    "classes missing": classes_missing,
    "blurred": blurred,
    "noisy": noisier,
    "collapsed": collapsed,
    "mislabelled": mislabelled,
}  # copies need a training set: see `copies`


def copies(galaxies: Galaxies, training: Galaxies, kind: str, seed: int) -> Galaxies:
    """Training galaxies in place of generated ones, as like as a generator that remembers would draw them: see COPIES."""
    source = training.images[seeds.permutation(seed, "fault-copies", len(training))[: len(galaxies)]]
    return _imaged(galaxies.rows(torch.arange(len(source))), COPIES[kind](source, seed))


def copied_from(galaxies: int, training: Galaxies, seed: int) -> list[str]:
    """The training ids that `copies` takes, in its order."""
    return [training.ids[row] for row in seeds.permutation(seed, "fault-copies", len(training))[:galaxies].tolist()]


def _spread(seed: int, purpose: str, n: int, low: float, high: float) -> Tensor:
    """n numbers of either sign, `low` to `high` in size."""
    drawn = seeds.uniform(seed, purpose, range(n), (2,)).float()
    return (low + (high - low) * drawn[:, 0]) * torch.where(drawn[:, 1] < 0.5, -1.0, 1.0)


COPIES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "as it is": lambda images, seed: images.clone(),
    "turned": lambda images, seed: symmetry(images, seeds.bits(seed, "copy-turn", range(len(images)), 1)[:, 0] & 7),
    "rotated": lambda images, seed: warped(images, angle=_spread(seed, "copy-angle", len(images), 3, 12)),
    "shifted": lambda images, seed: warped(
        images, shift=torch.stack([_spread(seed, f"copy-shift-{axis}", len(images), 0.5, 2) for axis in "xy"], 1)
    ),
    "rescaled": lambda images, seed: warped(images, scale=1 + _spread(seed, "copy-scale", len(images), 0.03, 0.1)),
    "re-noised": lambda images, seed: images + noise(images, seed, "copy-noise", range(len(images))),
}


def warped(images: Tensor, angle: Tensor | float = 0.0, shift: Tensor | float = 0.0, scale: Tensor | float = 1.0) -> Tensor:
    """`images` [B, C, S, S] turned by `angle` degrees, then moved by `shift` pixels [B, 2] and larger by `scale`, each [B] or one number.

    Flux is kept; interpolation is bicubic, and what comes from outside is the stamp's mirror.
    """
    n, size = len(images), images.shape[-1]
    turn = torch.as_tensor(angle, dtype=torch.float32).deg2rad().expand(n)
    zoom = torch.as_tensor(scale, dtype=torch.float32).expand(n)
    move = torch.as_tensor(shift, dtype=torch.float32).expand(n, 2)
    linear = torch.stack((turn.cos(), turn.sin(), -turn.sin(), turn.cos()), 1).reshape(n, 2, 2) / zoom[:, None, None]
    offset = -(linear @ (move * 2 / size)[:, :, None])
    grid = affine_grid(torch.cat((linear, offset), 2), list(images.shape), align_corners=False)
    drawn = grid_sample(images.float(), grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return drawn / zoom[:, None, None, None] ** 2


def noise(images: Tensor, seed: int, purpose: str, index: seeds.Index) -> Tensor:
    """White noise as strong in each band as the sky of `images`."""
    rms = morphology.local_sky(images.float())[1].nanmedian(0).values
    return rms[:, None, None] * seeds.normal(seed, purpose, index, images.shape[1:])


def _imaged(galaxies: Galaxies, images: Tensor) -> Galaxies:
    return replace(galaxies, images=images)
