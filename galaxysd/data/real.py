"""`--real-data PATH`: real galaxies to train or measure on, wherever they lie, as a set that is imported once and kept.

PATH is a Parquet table with one column of JPEG or PNG bytes, or a folder that holds one such table. Columns named like an answer are
vote counts, those named like a number are numbers; without either a model learns what galaxies look like, and no condition.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from galaxysd import files
from galaxysd.data.galaxies import NUMERIC
from galaxysd.data.importing import import_table
from galaxysd.data.readers import GalaxySet, open_set
from galaxysd.data.schema import GZ2, meaning
from galaxysd.errors import BadInput

WANTED = "give a Parquet table with one column of JPEG or PNG bytes, or a folder that holds one such table"


def imported(path: Path, size: int, keep: Path) -> GalaxySet:
    """The galaxies of a table at `size` pixels, as the set below `keep` that was made of that very file, or is made now."""
    file = table(path)
    out = keep / f"{file.stem}-{files.digest(file).sha256[:12]}-{size}"
    if not (out / "manifest.json").exists():
        schema = pq.read_schema(file)
        labels = [name for name in schema.names if name in NUMERIC or meaning(name, GZ2) is not None]
        import_table(file, out, pictures(schema)[0], labels, size=size)
    return open_set(out)


def table(path: Path) -> Path:
    """The table that PATH means."""
    if not path.exists():
        raise BadInput(f"--real-data {path}: no such file or folder; {WANTED}")
    found = []
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"--real-data {file}: not a Parquet table ({str(error).splitlines()[0]}); {WANTED}") from error
        if len(pictures(schema)) == 1:
            found.append(file)
    if not found:
        raise BadInput(f"--real-data {path}: no table with one column of bytes; {WANTED}")
    if len(found) > 1:
        raise BadInput(f"--real-data {path}: {', '.join(file.name for file in found)} all hold pictures; give the path of one of them")
    return found[0]


def pictures(schema: pa.Schema) -> list[str]:
    """The columns that can hold encoded pictures."""
    return [field.name for field in schema if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)]
