"""Galaxies as a person holds them: flux with units, display colour, tables, FITS and GalSim objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from galaxysd.data import transforms
from galaxysd.data.galaxies import NUMERIC, Frame, Galaxies
from galaxysd.errors import GalaxySDError, Unavailable

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class GalaxyBatch:
    """Drawn galaxies with what is true of all of them, and what names each: provenance, seed, index."""

    galaxies: Galaxies
    frame: Frame
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return len(self.galaxies)

    @property
    def flux(self) -> np.ndarray:
        """Linear flux, float32 [B, bands, H, W], nanomaggies per pixel (`frame` has zero points and pixel scale)."""
        if self.frame.kind != "flux":
            raise GalaxySDError("flux: these are display colours (an rgb model), which carry no calibrated flux; use .rgb")
        return self.galaxies.images.numpy()

    @property
    def rgb(self) -> np.ndarray:
        """Display colour, uint8 [B, H, W, 3]."""
        return transforms.pictures(self.galaxies.images, self.frame).numpy()

    @property
    def table(self) -> pa.Table:
        """One row a galaxy: id, index, seed, and what it was asked for under `cond_` names; unknown answers are null."""
        import pyarrow as pa

        galaxies, labels = self.galaxies, self.frame.labels
        columns: dict[str, Any] = {
            "id": galaxies.ids,
            "index": galaxies.index.numpy(),
            "seed": [self.provenance.get("seed")] * len(galaxies),
            "is_synthetic": [True] * len(galaxies),
        }
        if galaxies.cond_counts is not None:
            known = labels.voters(galaxies.cond_counts)[:, labels.owner] > 0
            for column, answer in enumerate(labels.answers):
                columns[f"cond_{answer}"] = pa.array(galaxies.cond_counts[:, column].numpy(), mask=~known[:, column].numpy())
        if galaxies.cond_numeric is not None:
            for column, name in enumerate(NUMERIC):
                values = galaxies.cond_numeric[:, column]
                columns[f"cond_{name}"] = pa.array(values.numpy(), mask=torch.isnan(values).numpy())
        return pa.table(columns)

    def to_nddata(self) -> list[Any]:
        """One astropy `NDData` a galaxy and band-cube [bands, H, W], in nanomaggies per pixel, with its metadata."""
        from astropy import units
        from astropy.nddata import NDData

        pixel = units.def_unit("nmgy", 3.631e-6 * units.Jy)
        meta = {"bands": self.frame.bands, "pixel_scale": self.frame.pixel_scale, "synthetic": True, **self.provenance}
        return [
            NDData(image, unit=pixel, meta={**meta, "id": name, "index": int(i)})
            for image, name, i in zip(self.flux, self.galaxies.ids, self.galaxies.index, strict=True)
        ]

    def to_hdul(self) -> Iterator[Any]:
        """One astropy `HDUList` a galaxy, as `galaxysd sample --fits` writes it."""
        import io

        from astropy.io import fits

        from galaxysd.data import writers

        for row in range(len(self)):
            yield fits.open(io.BytesIO(writers.fits_bytes(self.galaxies, row, self.frame, self.provenance)))

    def to_galsim(self) -> list[dict[str, Any]]:
        """One dict of GalSim `InterpolatedImage` by band a galaxy: flux in nanomaggies, PSF included (do not convolve again)."""
        try:
            import galsim
        except ImportError as error:
            raise Unavailable("to_galsim needs GalSim; pip install galsim") from error
        if self.frame.pixel_scale is None:
            raise GalaxySDError("to_galsim: the pixel scale of these images is not known")
        return [
            {
                band: galsim.InterpolatedImage(galsim.Image(np.ascontiguousarray(plane), scale=self.frame.pixel_scale))
                for band, plane in zip(self.frame.bands, image, strict=True)
            }
            for image in self.flux
        ]
