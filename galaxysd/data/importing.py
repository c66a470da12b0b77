"""Other people's tables become sets: a Parquet table of JPEG or PNG bytes turns into an `rgb` set.

Every picture passes one guarded decoder. A row that cannot be used is left out with its reason in `rejected.json`, never silently.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from galaxysd import files
from galaxysd.data.galaxies import NUMERIC, SIZE_LIMIT, Frame, Galaxies
from galaxysd.data.layout import reserved
from galaxysd.data.schema import GZ2, Schema, meaning
from galaxysd.data.shards import SetWriter
from galaxysd.errors import BadInput, GalaxySDError, Unavailable, nearest

SHARD_ROWS = 1024
BATCH_ROWS = 64  # rows of the table in memory at a time
PICTURE_BYTES = 64 << 20
PICTURE_PIXELS = 64_000_000
ROW_GROUP_BYTES = 2 << 30  # of one column, as the table's footer gives it


class Unusable(Exception):
    """A picture or row that cannot be imported; the text is the reason."""


def picture(content: Any, size: int | None) -> Tensor:
    """Decodes JPEG or PNG bytes under limits: uint8 [3, S, S], resampled to `size` if one is given; raises `Unusable`."""
    from PIL import Image, UnidentifiedImageError

    if not isinstance(content, bytes) or not content:
        raise Unusable("no image bytes")
    if len(content) > PICTURE_BYTES:
        raise Unusable(f"{len(content)} bytes, more than the {PICTURE_BYTES} allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what Pillow only warns of is a reason to refuse here
            image = Image.open(io.BytesIO(content), formats=["JPEG", "PNG"])
            wide, high = image.size  # from the header: nothing is decoded yet
            if wide * high > PICTURE_PIXELS:
                raise Unusable(f"{wide}x{high} pixels, more than the {PICTURE_PIXELS} allowed")
            if wide != high:
                raise Unusable(f"{wide}x{high} pixels, not square")
            if size is None and wide > SIZE_LIMIT:
                raise Unusable(f"{wide}x{high} pixels, more than {SIZE_LIMIT} on a side; give --size")
            if image.mode not in ("RGB", "L", "P", "RGBA"):
                raise Unusable(f"colour mode {image.mode}, 8-bit colour or grey expected")
            image.load()
            if "transparency" in image.info or (image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)):
                raise Unusable("transparent pixels, whose colour is unknown")
            colour = image.convert("RGB")
            if size is not None and size != wide:
                colour = colour.resize((size, size), Image.Resampling.LANCZOS)
    except UnidentifiedImageError as error:
        raise Unusable("neither JPEG nor PNG") from error
    except (OSError, ValueError, SyntaxError, EOFError, Warning, Image.DecompressionBombError) as error:
        raise Unusable(f"damaged image: {error}") from error
    return torch.from_numpy(np.ascontiguousarray(np.asarray(colour).transpose(2, 0, 1)))


def import_table(file: Path, out: Path, images: str, labels: list[str], id: str | None = None, size: int | None = None) -> dict[str, Any]:
    """Imports a Parquet table with encoded pictures in the column `images` as an `rgb` set; gives what was kept and what was not.

    Label columns named like an answer become vote counts, and those named like a numeric condition numbers; others stay as they are.
    """
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise Unavailable('importing pictures needs Pillow; pip install "galaxysd[data]"') from error
    if size is not None and not 1 <= size <= SIZE_LIMIT:
        raise GalaxySDError(f"--size {size}: must lie between 1 and {SIZE_LIMIT}")
    table = _open(Path(file))
    columns = _Columns(table.schema_arrow, Path(file), images, labels, id)
    _refuse_bombs(table, columns.names, Path(file))
    _refuse_fractions(table, columns, Path(file))
    rejected: list[dict[str, Any]] = []
    rows = _rows(table, columns, Path(file), size, rejected)
    first = next(rows, None)
    if first is None:
        why = f"; the first: {rejected[0]['reason']}" if rejected else ""
        raise BadInput(f"{file}: none of its {table.metadata.num_rows} rows can be used{why}")
    frame = Frame("rgb", first.images.shape[-1], bands=("r", "g", "b"), zero_points=(), unit="display", schema=GZ2.name)
    provenance = {
        "is_synthetic": False,
        "made_by": f"import of {Path(file).name}",
        "file": files.digest(Path(file)).to_json(),
        "columns": {"images": images, "labels": labels, "id": id},
    }
    kept = 0
    with SetWriter(out, frame, provenance, SHARD_ROWS) as writer:
        done = writer.done()
        for number, shard in enumerate(_shards(first, rows)):
            kept += len(shard)
            if number not in done:
                writer.write(number, shard)
        report = {
            "rows": table.metadata.num_rows,
            "kept": kept,
            "votes": [name for name, _ in columns.votes],
            "numbers": [name for name, _ in columns.numbers],
            "other": columns.other,
            "rejected": rejected,
        }
        if not writer.finished:
            files.commit_json(Path(out) / "rejected.json", rejected, replace=True)
            writer.finish()
    return report


def _open(file: Path) -> pq.ParquetFile:
    if not file.is_file():
        raise BadInput(f"{file}: no such file")
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{file}: not a Parquet table ({str(error).splitlines()[0]}); other formats cannot be imported yet") from error


def _refuse_bombs(table: pq.ParquetFile, names: list[str], file: Path) -> None:
    metadata = table.metadata
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            if column.path_in_schema in names and column.total_uncompressed_size > ROW_GROUP_BYTES:
                raise BadInput(
                    f"{file}: column {column.path_in_schema} unpacks to {column.total_uncompressed_size} bytes in one row group, "
                    f"more than the {ROW_GROUP_BYTES} allowed; write the table with smaller row groups"
                )


def _refuse_fractions(table: pq.ParquetFile, columns: _Columns, file: Path) -> None:
    """Votes are counts; a fraction taken for one would turn 36 of 40 people into 0.9 of one."""
    names = [name for name, _ in columns.votes]
    for batch in table.iter_batches(1 << 16, columns=names) if names else ():
        for name in names:
            values = batch.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
            broken = values[np.isfinite(values) & (values != np.floor(values))]
            if len(broken):
                raise BadInput(
                    f"{file}: column {name!r} holds {broken[0]:g}, and votes are counted in whole people; "
                    "give a column of counts, or rename it, and it stays with the galaxies as it is"
                )


class _Columns:
    """Which columns of the table are read, and what becomes of each."""

    def __init__(self, table: pa.Schema, file: Path, images: str, labels: list[str], id: str | None, labels_schema: Schema = GZ2) -> None:
        self.images, self.id, self.schema = images, id, labels_schema
        self.names = list(dict.fromkeys([images, *labels, *([id] if id else [])]))
        for name in self.names:
            if name not in table.names:
                raise BadInput(f"{file}: no column {name!r}{nearest(name, table.names)}")
        kind = table.field(images).type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise BadInput(f"{file}: column {images!r} is {kind}, not the bytes of JPEG or PNG files")
        self.votes: list[tuple[str, int]] = []  # column of the table, answer
        self.numbers: list[tuple[str, int]] = []
        self.other: list[str] = []
        frame = Frame("rgb", 1)
        for name in labels:
            answer = meaning(name, labels_schema)
            numeric = pa.types.is_integer(table.field(name).type) or pa.types.is_floating(table.field(name).type)
            if (answer or name in NUMERIC) and not numeric:
                raise BadInput(f"{file}: column {name!r} means {answer or name} and is {table.field(name).type}, numbers expected")
            if answer:
                if labels_schema.index(answer) in [taken for _, taken in self.votes]:
                    raise BadInput(f"{file}: column {name!r} and one before it both mean {answer}; name one of them")
                self.votes.append((name, labels_schema.index(answer)))
            elif name in NUMERIC:
                self.numbers.append((name, NUMERIC.index(name)))
            elif name in reserved(frame):
                raise BadInput(f"{file}: column {name!r} has the name of one of a set's own columns; rename it")
            else:
                self.other.append(name)


def _rows(table: pq.ParquetFile, columns: _Columns, file: Path, size: int | None, rejected: list[dict[str, Any]]) -> Iterator[Galaxies]:
    """The usable rows one by one, each a batch of one; the first decides the size if none was given."""
    seen: dict[str, int] = {}
    side = size
    number = -1
    try:
        for batch in table.iter_batches(BATCH_ROWS, columns=columns.names):
            for row in batch.to_pylist():
                number += 1
                name = f"{file.stem}-{number}" if columns.id is None else str(row[columns.id])
                try:
                    if columns.id is not None and row[columns.id] is None:
                        raise Unusable("no id")
                    if name in seen:
                        raise Unusable(f"the id of row {seen[name]}")
                    image = picture(row[columns.images], size)
                    side = side or image.shape[-1]
                    galaxy = _galaxy(image, side, row, number, name, columns)
                except Unusable as error:
                    rejected.append({"row": number, "id": name, "reason": str(error)})
                    continue
                seen[name] = number
                yield galaxy
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{file}: damaged after row {number} ({str(error).splitlines()[0]})") from error


def _galaxy(image: Tensor, side: int, row: dict[str, Any], number: int, name: str, columns: _Columns) -> Galaxies:
    counts, numeric = torch.zeros(1, len(columns.schema.answers)), torch.full((1, len(NUMERIC)), math.nan)
    for column, answer in columns.votes:
        value = row[column]
        if value is None or math.isnan(value):
            continue
        if value < 0 or math.isinf(value):
            raise Unusable(f"{column} is {value}, which is no number of votes")
        counts[0, answer] = value
    for column, place in columns.numbers:
        value = math.nan if row[column] is None else float(row[column])
        if math.isinf(value) or (value < 0 and column != "magnitude"):
            raise Unusable(f"{column} is {value}, which cannot be")
        numeric[0, place] = value
    extra = {column: [row[column]] for column in columns.other}
    if image.shape[-1] != side:
        raise Unusable(f"{image.shape[-1]} pixels on a side, the set has {side}; give --size to resample")
    return Galaxies(image[None], counts, numeric, torch.tensor([number]), [name], extra=extra)


def _shards(first: Galaxies, rows: Iterator[Galaxies]) -> Iterator[Galaxies]:
    waiting = [first]
    for galaxy in rows:
        if len(waiting) == SHARD_ROWS:
            yield Galaxies.joined(waiting)
            waiting = []
        waiting.append(galaxy)
    yield Galaxies.joined(waiting)
