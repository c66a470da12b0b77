"""How alike two galaxies are once one is laid on the other: turned a little, moved, made larger or smaller."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

ROUNDS = 5
DAMPING = 1e-3  # of Levenberg and Marquardt, relative
BRIGHT = 0.3  # of the peak above the sky: what the middle of the light is taken of
FARTHEST = (2.0, 2.0, 0.3, 0.2)  # pixels along x and y, radians, logarithm of size


def centred(images: Tensor) -> Tensor:
    """`images` [B, C, S, S] with the middle of their light moved to the middle of the stamp, by FARTHEST at most."""
    size = images.shape[-1]
    axis = torch.arange(size, dtype=images.dtype, device=images.device) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    light = images.mean(1)
    sky = torch.cat((light[:, [0, -1]].flatten(1), light[:, 1:-1, [0, -1]].flatten(1)), 1).median(1).values[:, None, None]
    bright = (light - sky - BRIGHT * (light.amax((1, 2), keepdim=True) - sky)).clamp_min(0)
    total = bright.sum((1, 2)).clamp_min(1e-12)
    by = images.new_zeros(len(images), 4)
    for at, along in enumerate((x, y)):
        by[:, at] = ((bright * along).sum((1, 2)) / total).clamp(-FARTHEST[at], FARTHEST[at])
    return _moved(images, by, x, y)


def aligned(moving: Tensor, still: Tensor) -> Tensor:
    """The rms difference [B] of `moving` and `still` [B, C, S, S], least over small shifts, rotations and scales of `moving`.

    Gauss-Newton on the four numbers of a similarity, from where they lie (Lucas and Kanade 1981); never more than without any move.
    """
    n, size = len(moving), moving.shape[-1]
    axis = torch.arange(size, dtype=moving.dtype, device=moving.device) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    found = moving.new_zeros(n, 4)
    best = (moving - still).square().flatten(1).mean(1)
    reach = torch.tensor(FARTHEST, dtype=moving.dtype, device=moving.device)
    for _ in range(ROUNDS):
        drawn = _moved(moving, found, x, y)
        best = torch.minimum(best, (drawn - still).square().flatten(1).mean(1))
        along_y, along_x = torch.gradient(drawn, dim=(2, 3))
        # The derivatives of the drawn picture by a shift along x and y, a turn and a growth of what is read from.
        slopes = torch.stack((along_x, along_y, along_y * x - along_x * y, along_x * x + along_y * y), 1).flatten(2)  # [B, 4, P]
        square = slopes @ slopes.transpose(1, 2)
        damping = DAMPING * square.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-12
        square = square + damping * torch.eye(4, dtype=moving.dtype, device=moving.device)
        step = torch.linalg.solve(square, slopes @ (still - drawn).flatten(1)[:, :, None])[:, :, 0]
        found = (found + step).clamp(-reach, reach)
    return torch.minimum(best, (_moved(moving, found, x, y) - still).square().flatten(1).mean(1)).sqrt()


def _moved(images: Tensor, by: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """`images`, read at places shifted by by[:, :2] pixels, turned by by[:, 2] radians and farther out by exp(by[:, 3])."""
    cos, sin = (by[:, 3].exp() * each for each in (by[:, 2].cos(), by[:, 2].sin()))
    at_x = cos[:, None, None] * x - sin[:, None, None] * y + by[:, 0, None, None]
    at_y = sin[:, None, None] * x + cos[:, None, None] * y + by[:, 1, None, None]
    edge = (images.shape[-1] - 1) / 2
    return grid_sample(images, torch.stack((at_x, at_y), -1) / edge, padding_mode="border", align_corners=True)
