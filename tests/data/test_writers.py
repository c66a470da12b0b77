"""Single files: what they show, what their headers say, and that equal galaxies give equal bytes."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from galaxysd.data import writers
from galaxysd.data.galaxies import Frame
from galaxysd.errors import BadInput, GalaxySDError, Mismatch

PROVENANCE = {"is_synthetic": True, "made_by": "test \u2190", "seed": 5, "model": "abc"}


def test_a_png_holds_the_very_pixels(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    rgb = torch.arange(4 * 5 * 3, dtype=torch.uint8).reshape(4, 5, 3)
    found = writers.png(tmp_path / "a.png", rgb)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), rgb.numpy())
    assert writers.png(tmp_path / "b.png", rgb.numpy()) == found
    with pytest.raises(Mismatch, match="never overwritten"):
        writers.png(tmp_path / "a.png", rgb)


def test_a_sheet_places_pictures_row_by_row(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    pictures = torch.full((5, 10, 10, 3), 40, dtype=torch.uint8) * torch.arange(1, 6, dtype=torch.uint8)[:, None, None, None]
    for name, labels in (("plain", None), ("each", list("abcde")), ("row", ["first", "second"])):
        writers.grid(tmp_path / f"{name}.png", pictures, columns=3, labels=labels)
    sheets = {name: np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("plain", "each", "row")}
    gap = writers.GAP
    for number in range(5):
        top, left = gap + number // 3 * (10 + gap), gap + number % 3 * (10 + gap)
        assert (sheets["plain"][top : top + 10, left : left + 10] == 40 * (number + 1)).all()
    # Labels of pictures make a sheet higher, labels of rows make it wider; both put something white beside the pictures.
    assert sheets["each"].shape[0] > sheets["plain"].shape[0]
    assert sheets["row"].shape[1] > sheets["plain"].shape[1]
    assert not (sheets["plain"] == 255).any()
    assert (sheets["each"] == 255).any()
    assert (sheets["row"] == 255).any()


def test_pictures_that_are_none_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="needs Pillow")
    with pytest.raises(BadInput, match=r"float32 \[4, 4, 3\]; uint8 \[H, W, 3\] expected"):
        writers.png(tmp_path / "a.png", torch.zeros(4, 4, 3))
    with pytest.raises(GalaxySDError, match="0 pictures in 3 columns"):
        writers.grid(tmp_path / "a.png", [], columns=3)
    with pytest.raises(GalaxySDError, match="3 labels for 4 pictures in 2 rows"):
        writers.grid(tmp_path / "a.png", torch.zeros(4, 2, 2, 3, dtype=torch.uint8), columns=2, labels=["a", "b", "c"])
    assert not list(tmp_path.iterdir())


def test_fits_says_what_is_in_it(tmp_path: Path, flux: Frame, make: Any) -> None:
    fits = pytest.importorskip("astropy.io.fits", reason="needs astropy")
    galaxies = make(4, first=1)
    galaxies.cond_counts, galaxies.cond_numeric = galaxies.counts * 2, galaxies.numeric
    writers.fits(tmp_path / "g.fits", galaxies, 1, flux, PROVENANCE)
    with fits.open(tmp_path / "g.fits", checksum=True) as file:  # a checksum that does not hold is a warning, and so an error
        file.verify("exception")
        head = file[0].header
        assert [head[card] for card in ("SYNTHET", "GSDSEED", "GSDINDEX", "GSDMODEL", "OBJECT")] == [True, 5, 2, "abc", "g-2"]
        assert [hdu.name for hdu in file] == ["PRIMARY", "G", "R", "I", "LABELS"]
        assert all({"CHECKSUM", "DATASUM"} <= set(hdu.header) for hdu in file)
        assert not {"RA", "DEC", "CRVAL3"} & set(head)
        for band, name in enumerate(flux.bands):
            assert np.array_equal(file[name].data, galaxies.images[1, band].numpy())
            card = file[name].header
            assert (card["BUNIT"], card["MAGZERO"], card["PIXSCALE"]) == ("nanomaggy", 22.5, 0.4)
            assert (card["SKYRMS"], card["PSFFWHM"]) == (flux.sky_rms[band], flux.psf_fwhm[band])
        table = {row["NAME"]: row for row in file["LABELS"].data}
        assert table["bar_yes"]["KNOWN"] == galaxies.counts[1, flux.labels.index("bar_yes")]
        assert table["bar_yes"]["ASKED"] == 2 * table["bar_yes"]["KNOWN"]
        assert np.isnan(table["how-rounded_round"]["KNOWN"])  # nobody was asked
        assert table["redshift"]["KNOWN"] == galaxies.numeric[1, 0]


def test_the_wcs_counts_arcsec_from_the_centre(flux: Frame, make: Any) -> None:
    fits = pytest.importorskip("astropy.io.fits", reason="needs astropy")
    from astropy.wcs import WCS

    with fits.open(io.BytesIO(writers.fits_bytes(make(1), 0, flux, PROVENANCE))) as file:
        wcs = WCS(file["R"].header)
    # The centre of 8 pixels lies between pixels 3 and 4, counted from 0.
    assert wcs.pixel_to_world_values(3.5, 3.5) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert wcs.pixel_to_world_values(7, 3.5) == pytest.approx((1.4, 0.0))


def test_equal_galaxies_give_equal_bytes(flux: Frame, make: Any) -> None:
    pytest.importorskip("astropy", reason="needs astropy")
    first = writers.fits_bytes(make(3), 1, flux, PROVENANCE)
    assert writers.fits_bytes(make(1, first=1), 0, flux, PROVENANCE) == first
    assert writers.fits_bytes(make(3), 2, flux, PROVENANCE) != first
    # Nor does the time get in, which astropy puts beside a checksum.
    assert not re.search(rb"/[^/]*20\d\d-\d\d-\d\dT", first)


def test_colour_is_no_flux(rgb: Frame, make: Any) -> None:
    with pytest.raises(BadInput, match="display colour, which is no flux"):
        writers.fits_bytes(make(1, frame=rgb), 0, rgb, PROVENANCE)
