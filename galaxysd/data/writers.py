"""Galaxies as single files: PNG pictures, sheets of pictures, and FITS with units, pixel scale, provenance and checksums."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from galaxysd import files
from galaxysd.data.galaxies import NUMERIC, Frame, Galaxies
from galaxysd.errors import BadInput, GalaxySDError, Unavailable

if TYPE_CHECKING:
    from PIL import Image

GAP = 2  # pixels between the pictures of a sheet
LINE = 12  # height of a label's text


def png(path: Path, rgb: Any, *, replace: bool = False) -> files.Digest:
    """Writes one picture, uint8 [H, W, 3]."""
    image = _image(rgb)
    return files.commit(Path(path), lambda file: image.save(file, "PNG"), replace=replace)


def grid(path: Path, pictures: Any, columns: int, labels: Sequence[str] | None = None, *, replace: bool = False) -> files.Digest:
    """Writes a sheet of pictures, each uint8 [H, W, 3], row by row; `labels` name each picture, or each row of them."""
    images = [_image(each) for each in pictures]
    if not images or columns < 1:
        raise GalaxySDError(f"{path}: {len(images)} pictures in {columns} columns; at least one of both is needed")
    rows = -(-len(images) // columns)
    by_row = labels is not None and len(labels) == rows and columns > 1
    if labels is not None and not by_row and len(labels) != len(images):
        raise GalaxySDError(f"{path}: {len(labels)} labels for {len(images)} pictures in {rows} rows; give one for each of either")
    sheet = _sheet(images, columns, labels or (), by_row)
    return files.commit(Path(path), lambda file: sheet.save(file, "PNG"), replace=replace)


def _image(rgb: Any) -> Image.Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise Unavailable('pictures need Pillow; pip install "galaxysd[data]"') from error

    pixels = np.asarray(rgb.cpu() if isinstance(rgb, Tensor) else rgb)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
        raise BadInput(f"picture: {pixels.dtype} {list(pixels.shape)}; uint8 [H, W, 3] expected (see transforms.pictures)")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _sheet(images: list[Image.Image], columns: int, labels: Sequence[str], by_row: bool) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default_imagefont()
    wide, high = max(image.width for image in images) + GAP, max(image.height for image in images) + GAP
    margin = int(max(font.getlength(label) for label in labels)) + 2 * GAP if by_row else 0
    below = LINE if labels and not by_row else 0
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (margin + columns * wide + GAP, -(-len(images) // columns) * (high + below) + GAP), "black")
    draw = ImageDraw.Draw(sheet)
    for number, image in enumerate(images):
        left, top = margin + number % columns * wide + GAP, number // columns * (high + below) + GAP
        sheet.paste(image, (left, top))
        if below:
            draw.text((left, top + high - GAP), labels[number], "white", font)
        elif by_row and number % columns == 0:
            draw.text((GAP, top + (high - LINE) // 2), labels[number // columns], "white", font)
    return sheet


def fits(path: Path, galaxies: Galaxies, row: int, frame: Frame, provenance: dict[str, Any], *, replace: bool = False) -> files.Digest:
    """Writes one galaxy as FITS."""
    content = fits_bytes(galaxies, row, frame, provenance)
    return files.commit(Path(path), lambda file: file.write(content), replace=replace)


def fits_bytes(galaxies: Galaxies, row: int, frame: Frame, provenance: dict[str, Any]) -> bytes:
    """One galaxy as a FITS file: provenance in the primary header, an image for each band, and a table LABELS of votes and numbers.

    The WCS is linear, in arcsec from the centre: a galaxy of ours has no place on the sky. Equal galaxies give equal bytes.
    """
    if frame.kind != "flux":
        raise BadInput("FITS: an rgb set holds display colour, which is no flux; write PNG instead")
    try:
        from astropy.io import fits
    except ImportError as error:
        raise Unavailable('FITS needs astropy; pip install "galaxysd[data]"') from error

    primary = fits.PrimaryHDU()
    primary.header.update(_primary_cards(galaxies, row, provenance))
    hdus = [primary]
    pixels = galaxies.images[row].cpu().numpy()
    for band, name in enumerate(frame.bands):
        hdus.append(fits.ImageHDU(pixels[band].astype(np.float32), name=name))
        hdus[-1].header.update(_band_cards(band, frame))
    hdus.append(_labels(galaxies, row, frame))
    for hdu in hdus:
        # A fixed word where astropy would put the time, which would make every file differ.
        hdu.add_checksum(when="by galaxysd")
    content = io.BytesIO()
    fits.HDUList(hdus).writeto(content, output_verify="exception")
    return content.getvalue()


Cards = dict[str, tuple[Any, str]]


def _primary_cards(galaxies: Galaxies, row: int, provenance: dict[str, Any]) -> Cards:
    cards: Cards = {
        "OBJECT": (_ascii(galaxies.ids[row]), "id in its set"),
        "SYNTHET": (bool(provenance.get("is_synthetic", True)), "not a real galaxy"),
        "GSDINDEX": (int(galaxies.index[row]), "index in the stream of its seed"),
    }
    if provenance.get("seed") is not None:
        cards["GSDSEED"] = (provenance["seed"], "seed it was drawn with")
    for card, name, comment in (("GSDMODEL", "model", "digest or name of the model"), ("GSDBY", "made_by", "what made it")):
        if provenance.get(name):
            cards[card] = (_ascii(str(provenance[name])), comment)
    return cards


def _band_cards(band: int, frame: Frame) -> Cards:
    centre = (frame.size + 1) / 2  # FITS counts pixels from 1
    cards: Cards = {
        "BUNIT": (frame.unit, "per pixel, linear"),
        "FILTER": (frame.bands[band], "band"),
        "MAGZERO": (frame.zero_points[band], "[mag] AB magnitude of flux 1"),
    }
    if frame.pixel_scale is not None:
        cards |= {"PIXSCALE": (frame.pixel_scale, "[arcsec] per pixel"), "WCSNAME": ("OFFSET", "from the centre of the stamp")}
        for axis in "12":
            cards |= {f"CTYPE{axis}": ("LINEAR", "offset"), f"CUNIT{axis}": ("arcsec", "")}
            cards |= {f"CRPIX{axis}": (centre, ""), f"CRVAL{axis}": (0.0, ""), f"CDELT{axis}": (frame.pixel_scale, "")}
    if frame.psf_fwhm is not None:
        cards["PSFFWHM"] = (frame.psf_fwhm[band], "[arcsec] typical")
    if frame.sky_rms is not None:
        cards["SKYRMS"] = (frame.sky_rms[band], "sky noise per pixel, typical")
    return cards


def _labels(galaxies: Galaxies, row: int, frame: Frame) -> Any:
    """Votes and numbers: what was counted and what was asked for; NaN where a question or number is unknown."""
    from astropy.io import fits

    labels = frame.labels

    def column(counts: Tensor | None, numeric: Tensor | None) -> np.ndarray[Any, Any]:
        votes, numbers = torch.full((len(labels.answers),), torch.nan), torch.full((len(NUMERIC),), torch.nan)
        if counts is not None:
            votes = torch.where(labels.voters(counts[row])[labels.owner] > 0, counts[row], torch.nan)
        if numeric is not None:
            numbers = numeric[row]
        return torch.cat((votes, numbers)).cpu().numpy()

    names = [*labels.answers, *NUMERIC]
    return fits.BinTableHDU.from_columns(
        [
            fits.Column("NAME", f"{max(map(len, names))}A", array=names),
            fits.Column("KNOWN", "E", array=column(galaxies.counts, galaxies.numeric)),
            fits.Column("ASKED", "E", array=column(galaxies.cond_counts, galaxies.cond_numeric)),
        ],
        name="LABELS",
    )


def _ascii(text: str) -> str:
    """FITS headers hold printable ASCII only."""
    return text.encode("ascii", "backslashreplace").decode().replace("\n", " ")
