"""From pixels to the network's numbers and back: the invertible stretch, the symmetries of the square, and display colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from galaxysd import seeds
from galaxysd.data.galaxies import Frame
from galaxysd.errors import BadInput

SOFTENING = 6.0  # of the stretch, in units of the sky noise
SDSS_PIXEL = 0.396  # arcsec: the pixel for which the display scales below are customary
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class Stretch:
    """The one invertible transform between a set's images and model space; it travels inside the checkpoint.

    flux: model = asinh(flux / softening) * gain + offset; rgb: model = (value / 127.5 - 1) * gain + offset; all per band.
    """

    kind: str
    softening: tuple[float, ...]
    gain: tuple[float, ...]
    offset: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.kind not in ("flux", "rgb"):
            raise BadInput(f"stretch: kind {self.kind!r}; it is flux or rgb")
        if not len(self.softening) == len(self.gain) == len(self.offset) > 0:
            raise BadInput(
                f"stretch: {len(self.softening)} softenings, {len(self.gain)} gains and {len(self.offset)} offsets; one of each per band"
            )
        numbers = torch.tensor([self.softening, self.gain, self.offset], dtype=torch.float64)
        if not bool(numbers.isfinite().all()) or not bool((numbers[:2] > 0).all()):
            raise BadInput(f"stretch: softening {self.softening} and gain {self.gain} must be positive, offset {self.offset} finite")

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] (float flux, or uint8 colour) to model space, float32."""
        softening, gain, offset = self._bands(images, torch.float32)
        x = torch.asinh(images.float() / softening) if self.kind == "flux" else images.float() / 127.5 - 1.0
        return x * gain + offset

    def inverse(self, x: Tensor) -> Tensor:
        """Model space to images: float32 flux, or colour rounded into uint8 (`clipped` counts what does not fit)."""
        softening, gain, offset = self._bands(x, torch.float64)
        # float64: sinh multiplies a rounding error by the argument, which is 14 for a bright star.
        y = (x.double() - offset) / gain
        if self.kind == "flux":
            return (torch.sinh(y) * softening).float()
        return ((y + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def clipped(self, x: Tensor) -> int:
        """How many values of `x` `inverse` has to clip: none of a flux set."""
        if self.kind == "flux":
            return 0
        _, gain, offset = self._bands(x, torch.float64)
        value = (((x.double() - offset) / gain + 1.0) * 127.5).round()
        return int(((value < 0) | (value > 255)).sum())

    def _bands(self, images: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        if images.ndim != 4 or images.shape[1] != len(self.gain):
            raise BadInput(f"stretch: images of shape {list(images.shape)}, [B, {len(self.gain)}, H, W] expected")
        numbers = torch.tensor([self.softening, self.gain, self.offset], dtype=torch.float64)
        softening, gain, offset = numbers.to(images.device, dtype)[:, :, None, None]
        return softening, gain, offset

    @classmethod
    def fit(cls, frame: Frame, images: Tensor, sigma_data: float = 0.5) -> Stretch:
        """The stretch that gives `images` [B, C, H, W] mean 0 and standard deviation `sigma_data` in each band.

        Softening is six times the sky noise: the frame's, or that of the images (by their median absolute deviation). One pair of
        short runs found requested classes a little more often with six than with two, and the sky noise less well drawn.
        """
        bands = images.shape[1]
        if frame.kind == "flux":
            softening = [SOFTENING * rms for rms in frame.sky_rms or _sky(images, frame)]
            x = torch.asinh(images.double() / torch.tensor(softening, dtype=torch.float64, device=images.device)[:, None, None])
        else:
            softening = [1.0] * bands
            x = images.double() / 127.5 - 1.0
        mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0)
        for band in range(bands):
            if not bool(std[band] > 0) or not bool(std[band].isfinite()):
                raise BadInput(f"stretch: band {frame.bands[band]} has a spread of {float(std[band])} over {len(images)} images")
        gain = sigma_data / std
        return cls(frame.kind, tuple(softening), tuple(gain.tolist()), tuple((-mean * gain).tolist()))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "softening": list(self.softening), "gain": list(self.gain), "offset": list(self.offset)}

    @classmethod
    def from_json(cls, value: Any) -> Stretch:
        try:
            numbers = [tuple(float(each) for each in value[name]) for name in ("softening", "gain", "offset")]
            return cls(value["kind"], *numbers)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"stretch: not a stretch of ours ({type(error).__name__}: {error})") from error


def _sky(images: Tensor, frame: Frame) -> list[float]:
    found = []
    for band, name in enumerate(frame.bands):
        pixels = images[:, band].double().flatten()
        rms = float((pixels - pixels.median()).abs().median()) * MAD_TO_SIGMA
        if not rms > 0:
            raise BadInput(f"stretch: band {name} shows no sky noise to scale by; give the frame its sky_rms")
        found.append(rms)
    return found


def symmetry(images: Tensor, code: Tensor) -> Tensor:
    """Applies to each image [B, C, S, S] one of the eight symmetries of the square: bit 0 mirrors left-right, 1 up-down, 2 transposes."""
    if images.shape[-1] != images.shape[-2]:
        raise BadInput(f"symmetry: images of {images.shape[-2]} by {images.shape[-1]} pixels are not square")
    flags = code.to(images.device)[:, None, None, None]
    images = torch.where((flags & 1).bool(), images.flip(-1), images)
    images = torch.where((flags & 2).bool(), images.flip(-2), images)
    return torch.where((flags & 4).bool(), images.transpose(-1, -2), images)


def codes(seed: int, purpose: str, index: seeds.Index, aligned: bool) -> Tensor:
    """A symmetry for each index, int64 [B] in 0..7; an `aligned` population gets mirrors only, so that a horizontal major axis stays so."""
    return seeds.bits(seed, purpose, index, 1)[:, 0] & (3 if aligned else 7)


def display(
    images: Tensor, pixel_scale: float | None, scales: tuple[float, ...] = (2.5, 1.5, 1.0), floor: float = 0.02, contrast: float = 20.0
) -> Tensor:
    """Colour pictures, uint8 [B, H, W, 3], of flux [B, 3, H, W] in nanomaggies per pixel, bands from blue to red.

    Lupton et al. 2004: hue from the ratio of bands, brightness from asinh of their mean; a pixel brighter than white keeps its hue.
    Surface brightness decides, so that one galaxy looks alike at any pixel scale; an unknown scale counts as that of SDSS.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise BadInput(f"display: images of shape {list(images.shape)}; three bands [B, 3, H, W] make a colour picture")
    area = (SDSS_PIXEL / (pixel_scale or SDSS_PIXEL)) ** 2
    scale = torch.tensor(scales, dtype=torch.float32, device=images.device)[:, None, None] * area
    colour = (images.float() * scale + floor).clamp_min(0)
    mean = colour.mean(1, keepdim=True).clamp_min(1e-9)
    colour = colour * (torch.asinh(contrast * mean) / contrast**0.5 / mean)
    colour = colour / colour.amax(1, keepdim=True).clamp_min(1)
    return (colour.flip(1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def pictures(images: Tensor, frame: Frame) -> Tensor:
    """Colour pictures, uint8 [B, H, W, 3], of a set's images whichever its kind."""
    if frame.kind == "rgb":
        return images.permute(0, 2, 3, 1).contiguous()
    return display(images, frame.pixel_scale)
