"""Images to classify, a batch at a time and never all at once: .npy, what this runner drew, Parquet, FITS.

Parquet and FITS need requirements-io.txt; the rest needs numpy alone.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from bundle_opening import Refused


def images_of(path: Path, batch: int) -> Iterator[np.ndarray]:
    """Batches [B, C, H, W] of a file or folder."""
    if not path.exists():
        raise Refused(f"{path}: no such file or folder")
    if path.is_dir():
        found = sorted(path.rglob("*.parquet")) or sorted(path.glob("galaxies-*.npz")) or sorted(path.glob("*.fits"))
        if not found:
            raise Refused(f"{path}: holds no .parquet, galaxies-*.npz or .fits files")
    else:
        found = [path]
    for each in found:
        reader = READERS.get(each.suffix)
        if reader is None:
            raise Refused(f"{each}: {each.suffix or 'no ending'}; one of {', '.join(READERS)} is read")
        yield from reader(each, batch)


def _npy(path: Path, batch: int) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, by_columns, dtype = header(file)
        except (ValueError, KeyError) as error:
            raise Refused(f"{path}: not an .npy array ({_first_line(error)})") from error
        if dtype.hasobject or by_columns or not shape:
            raise Refused(f"{path}: {dtype} of shape {list(shape)}; a plain array of numbers, rows first, is read")
        # Read and not mapped: a mapped file counts as memory of ours, page by page.
        for first in range(0, shape[0], batch):
            rows = min(batch, shape[0] - first)
            images = np.fromfile(file, dtype, rows * math.prod(shape[1:]))
            if images.size != rows * math.prod(shape[1:]):
                raise Refused(f"{path}: ends in galaxy {first + images.size // max(1, math.prod(shape[1:]))} of {shape[0]}; truncated")
            yield images.reshape(rows, *shape[1:])


def plain_arrays(file: BinaryIO, where: object) -> dict[str, np.ndarray]:
    """The arrays of an .npz that was written uncompressed, as ours are: what is read is as large as the file, and nothing is unpickled."""
    try:
        with zipfile.ZipFile(file) as members:
            if packed := [each.filename for each in members.infolist() if each.compress_type != zipfile.ZIP_STORED]:
                raise Refused(f"{where}: {packed[0]} is compressed, which could unpack to any size; write it with numpy.savez")
        file.seek(0)
        with np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except (ValueError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise Refused(f"{where}: not an .npz of plain arrays, or damaged ({error})") from error


def _npz(path: Path, batch: int) -> Iterator[np.ndarray]:
    with path.open("rb") as file:
        images = plain_arrays(file, path).get("images")
    if images is None:
        raise Refused(f"{path}: holds no array called images; what this runner drew does")
    for first in range(0, len(images), batch):
        yield images[first : first + batch]


def _parquet(path: Path, batch: int) -> Iterator[np.ndarray]:
    """A shard of a galaxysd set: raw little-endian bytes in `image`, shape and type beside them."""
    arrow, pyarrow = _needed("pyarrow", path), _needed("pyarrow.parquet", path)
    columns = ["image", "image_shape", "image_dtype"]
    try:
        with pyarrow.ParquetFile(path, page_checksum_verification=True) as file:
            if lacking := sorted(set(columns) - set(file.schema_arrow.names)):
                raise Refused(f"{path}: no column {lacking[0]}; a set of galaxysd has image, image_shape and image_dtype")
            for rows in file.iter_batches(batch, columns=columns):
                yield np.stack([_image(row, path) for row in rows.to_pylist()])
    except (arrow.ArrowException, OSError) as error:
        raise Refused(f"{path}: not a Parquet table, or damaged ({_first_line(error)})") from error


def _image(row: dict[str, Any], path: Path) -> np.ndarray:
    if row["image_dtype"] not in ("<f4", "|u1"):
        raise Refused(f"{path}: images of {row['image_dtype']!r}; <f4 or |u1 expected")
    try:
        return np.frombuffer(row["image"], row["image_dtype"]).reshape(row["image_shape"])
    except (ValueError, TypeError) as error:
        raise Refused(f"{path}: an image is not of the shape {row['image_shape']} that stands beside it ({error})") from error


def _fits(path: Path, batch: int) -> Iterator[np.ndarray]:
    """One galaxy: an image extension for each band, in their order; what astropy would only warn of is a reason to refuse here."""
    fits = _needed("astropy.io.fits", path)
    try:
        with path.open("rb") as file, warnings.catch_warnings(action="error"), fits.open(file, memmap=False, checksum=True) as units:
            bands = [unit.data for unit in units if unit.data is not None and getattr(unit.data, "ndim", 0) == 2]
    except (OSError, ValueError, TypeError, Warning) as error:
        raise Refused(f"{path}: not a FITS file, or damaged ({_first_line(error)})") from error
    if not bands or len({band.shape for band in bands}) > 1:
        raise Refused(f"{path}: no images of one shape in its extensions")
    yield np.stack(bands).astype(np.float32)[None]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


READERS = {".npy": _npy, ".npz": _npz, ".parquet": _parquet, ".fits": _fits}


def _needed(module: str, path: Path) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Refused(f"{path}: needs {module.partition('.')[0]}; pip install -r requirements-io.txt", code=4) from error
