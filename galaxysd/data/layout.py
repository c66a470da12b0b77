"""What a shard holds: the columns of its Parquet table, to and from galaxies in memory, with every value checked on both ways.

`id`, `index`, `seed` where one is known, `image` (raw little-endian bytes) with `image_dtype` and `image_shape`, one float column of
votes for each canonical answer, the numeric columns (null is unknown), `is_synthetic`, `provenance`, what was asked for under
`cond_` names, and any further columns of the galaxies.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from galaxysd.data.galaxies import NUMERIC, Frame, Galaxies
from galaxysd.errors import BadInput, GalaxySDError

DTYPES = {"flux": ("<f4", torch.float32), "rgb": ("|u1", torch.uint8)}
FIXED = ("id", "index", "image", "image_dtype", "image_shape", "is_synthetic", "provenance")


def image_shape(frame: Frame) -> list[int]:
    """Bands, rows and columns of each image of a set."""
    return [len(frame.bands), frame.size, frame.size]


def image_bytes(frame: Frame) -> int:
    """Bytes of one raw image of a set."""
    return math.prod(image_shape(frame)) * np.dtype(DTYPES[frame.kind][0]).itemsize


def validate(galaxies: Galaxies, frame: Frame, where: str, pixels: bool = True) -> None:
    """Refuses what must not be in a set; names the galaxy. Without `pixels`, images are not looked at."""
    n, answers = len(galaxies), len(frame.labels.answers)
    shapes = [
        ("images", galaxies.images if pixels else None, [n, *image_shape(frame)]),
        ("counts", galaxies.counts, [n, answers]),
        ("numeric", galaxies.numeric, [n, len(NUMERIC)]),
        ("cond_counts", galaxies.cond_counts, [n, answers]),
        ("cond_numeric", galaxies.cond_numeric, [n, len(NUMERIC)]),
        ("index", galaxies.index, [n]),
    ]
    for name, value, shape in shapes:
        if value is not None and list(value.shape) != shape:
            raise BadInput(f"{where}: {name} of shape {list(value.shape)}, the set wants {shape}")
    if pixels and galaxies.images.dtype != DTYPES[frame.kind][1]:
        raise BadInput(f"{where}: images of {galaxies.images.dtype}, a {frame.kind} set holds {DTYPES[frame.kind][1]}")

    def blame(good: Tensor, what: str) -> None:
        if not bool(good.all()):
            bad = (~good.reshape(n, -1).all(1)).nonzero()[:, 0].tolist()
            raise BadInput(f"{where}: galaxy {galaxies.ids[bad[0]]!r} has {what} ({len(bad)} of {n} galaxies do); leave it out or mend it")

    if pixels and frame.kind == "flux":
        blame(galaxies.images.isfinite(), "pixels that are NaN or infinite")
    lengths = [column for column, name in enumerate(NUMERIC) if name != "magnitude"]
    for counts, numeric in ((galaxies.counts, galaxies.numeric), (galaxies.cond_counts, galaxies.cond_numeric)):
        if counts is not None:
            blame(counts.isfinite() & (counts >= 0), "votes that are negative or not finite")
        if numeric is not None:
            blame(~numeric.isinf(), "an infinite number")
            blame(~(numeric[:, lengths] < 0), "a negative redshift, size or noise")
    if len(set(galaxies.ids)) != n:
        twice = next(name for name in galaxies.ids if galaxies.ids.count(name) > 1)
        raise BadInput(f"{where}: the id {twice!r} occurs twice; an id names one galaxy")


def _pixel_columns(galaxies: Galaxies, frame: Frame, where: str) -> dict[str, Any]:
    """The raw image of each galaxy, and what makes it readable without us."""
    n, size = len(galaxies), image_bytes(frame)
    dtype = DTYPES[frame.kind][0]
    pixels = np.ascontiguousarray(galaxies.images.cpu().numpy().astype(dtype, copy=False))
    offsets = np.arange(n + 1, dtype=np.int64) * size
    if offsets[-1] >= 1 << 31:
        raise GalaxySDError(f"{where}: {offsets[-1]} bytes of pixels in one shard, less than {1 << 31} allowed; lower shard_rows")
    image = pa.Array.from_buffers(pa.binary(), n, [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(pixels)])
    return {
        "image": image,
        "image_dtype": pa.array([dtype] * n),
        "image_shape": pa.array([image_shape(frame)] * n, pa.list_(pa.int32())),
    }


def encode(galaxies: Galaxies, frame: Frame, provenance: dict[str, Any], where: str, pixels: bool = True) -> pa.Table:
    """The table of a shard; without `pixels`, the same table with no image: a recipe."""
    validate(galaxies, frame, where, pixels)
    n = len(galaxies)
    columns: dict[str, Any] = {
        "id": pa.array(galaxies.ids, pa.string()),
        "index": pa.array(galaxies.index.cpu().numpy()),
        **(_pixel_columns(galaxies, frame, where) if pixels else {}),
        "is_synthetic": pa.array([bool(provenance["is_synthetic"])] * n),
        "provenance": pa.array([str(provenance.get("made_by", "galaxysd"))] * n),
    }
    if type(provenance.get("seed")) is int and abs(provenance["seed"]) < 1 << 63:
        columns["seed"] = pa.array([provenance["seed"]] * n)
    answers = frame.labels.answers
    for prefix, values, names in (
        ("", galaxies.counts, answers),
        ("", galaxies.numeric, NUMERIC),
        ("cond_", galaxies.cond_counts, answers),
        ("cond_", galaxies.cond_numeric, NUMERIC),
    ):
        if values is not None:
            matrix = values.float().cpu().numpy()
            # Unknown numbers are nulls in the file, which every reader of Parquet understands.
            columns |= {f"{prefix}{name}": pa.array(matrix[:, i], pa.float32(), from_pandas=True) for i, name in enumerate(names)}
    for name, column in galaxies.extra.items():
        if name in columns or name in reserved(frame):
            raise BadInput(f"{where}: the extra column {name!r} has the name of one of ours; rename it")
        columns[name] = pa.array(column)
    about = json.dumps({"frame": frame.to_json(), "provenance": provenance}, ensure_ascii=False)
    return pa.table(columns).replace_schema_metadata({"galaxysd": about})


def reserved(frame: Frame) -> set[str]:
    """The names of columns that the format itself uses."""
    values = {*frame.labels.answers, *NUMERIC}
    return {*FIXED, "seed", *values, *(f"cond_{name}" for name in values)}


def decode(content: bytes, rows: int, frame: Frame, where: str) -> Galaxies:
    """The galaxies of a shard, whose bytes have been checked against its record."""
    return unpack(parse(content, rows, frame, where), rows, frame, where)


def decode_ids(content: bytes, rows: int, frame: Frame, where: str) -> list[str]:
    """Only the ids of a shard."""
    return list(parse(content, rows, frame, where, ["id"])["id"].to_pylist())


def parse(content: bytes, rows: int, frame: Frame, where: str, columns: list[str] | None = None) -> pa.Table:
    """The table of a shard, or some of its columns; its values are checked by `unpack`."""
    size = image_bytes(frame)
    # Before decoding: raw pixels cannot be larger than the file they are in.
    if rows * size > len(content):
        raise BadInput(f"{where}: {rows} images of {size} bytes ({image_shape(frame)}) cannot be in a file of {len(content)} bytes")
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        if file.metadata.num_rows != rows:
            raise BadInput(f"{where}: {file.metadata.num_rows} rows, its record says {rows}")
        missing = {*FIXED, *frame.labels.answers, *NUMERIC} - set(file.schema_arrow.names)
        if missing:
            raise BadInput(f"{where}: no column {sorted(missing)[0]!r}; not a shard of this set")
        return file.read(columns)
    except (pa.ArrowException, OSError, OverflowError) as error:
        raise BadInput(f"{where}: not readable as Parquet ({str(error).splitlines()[0]})") from error


def unpack(table: pa.Table, rows: int, frame: Frame, where: str) -> Galaxies:
    """The galaxies of `rows` rows of a shard's table, every value checked."""
    ids = table["id"].to_pylist()
    dtype, shape, size = DTYPES[frame.kind][0], image_shape(frame), image_bytes(frame)
    for name, wanted in (("image_dtype", dtype), ("image_shape", shape)):
        kinds = table[name].to_pylist()
        bad = next((i for i, value in enumerate(kinds) if value != wanted), None)
        if bad is not None:
            raise BadInput(f"{where}: galaxy {ids[bad]!r} has {name} {kinds[bad]}, the set says {wanted}")
    if table.schema.field("image").type != pa.binary():
        raise BadInput(f"{where}: the column image is {table.schema.field('image').type}, binary expected")
    pixels = np.empty((rows, *shape), dtype)
    row = 0
    for chunk in table["image"].chunks:
        n = len(chunk)
        _, offsets_buffer, data = chunk.buffers()
        offsets = np.frombuffer(offsets_buffer, np.int32)[chunk.offset : chunk.offset + n + 1]
        wrong = np.flatnonzero(np.diff(offsets) != size)
        if chunk.null_count or len(wrong):
            bad = int(wrong[0]) if len(wrong) else 0
            found = 0 if chunk.null_count else int(offsets[bad + 1] - offsets[bad])
            raise BadInput(f"{where}: galaxy {ids[row + bad]!r} has an image of {found} bytes, {shape} of {dtype} needs {size}")
        pixels[row : row + n] = np.frombuffer(data, dtype, n * size // pixels.itemsize, int(offsets[0])).reshape(n, *shape)
        row += n

    def matrix(prefix: str, names: tuple[str, ...]) -> Tensor | None:
        if f"{prefix}{names[0]}" not in table.column_names:
            return None
        columns = [table[f"{prefix}{name}"].to_numpy().astype(np.float32, copy=False) for name in names]
        return torch.from_numpy(np.stack(columns, 1))

    def needed(value: Tensor | None) -> Tensor:
        assert value is not None  # presence of the columns was checked before decoding
        return value

    own = reserved(frame)
    galaxies = Galaxies(
        torch.from_numpy(pixels),
        needed(matrix("", frame.labels.answers)),
        needed(matrix("", NUMERIC)),
        torch.from_numpy(table["index"].to_numpy().astype(np.int64)),
        ids,
        matrix("cond_", frame.labels.answers),
        matrix("cond_", NUMERIC),
        {name: table[name].to_pylist() for name in table.column_names if name not in own},
    )
    validate(galaxies, frame, where)
    return galaxies
