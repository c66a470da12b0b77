"""A shard's table, there and back, and everything that must not get into one or out of one."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from galaxysd.data import layout
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import BadInput

SYNTHETIC = {"is_synthetic": True, "made_by": "test", "seed": 5}


def content_of(table: pa.Table) -> bytes:
    content = io.BytesIO()
    pq.write_table(table, content, compression="NONE", write_page_checksum=True)
    return content.getvalue()


def same(a: Galaxies, b: Galaxies) -> bool:
    pairs = [(a.counts, b.counts), (a.numeric, b.numeric), (a.cond_counts, b.cond_counts), (a.cond_numeric, b.cond_numeric)]
    close = all(
        (x is None) == (y is None) and (x is None or torch.equal(torch.nan_to_num(x, -9), torch.nan_to_num(y, -9))) for x, y in pairs
    )
    return close and torch.equal(a.images, b.images) and torch.equal(a.index, b.index) and (a.ids, a.extra) == (b.ids, b.extra)


def test_everything_comes_back(flux: Frame, rgb: Frame, make: Any) -> None:
    for frame in (flux, rgb):
        galaxies = make(300, first=7, frame=frame)  # more than two row groups
        galaxies.cond_counts, galaxies.cond_numeric = galaxies.counts * 2, galaxies.numeric + 1
        galaxies.extra = {"name": [f"NGC {i}" for i in range(300)], "plate": list(range(300))}
        content = content_of(layout.encode(galaxies, frame, SYNTHETIC, "here"))
        assert same(layout.decode(content, 300, frame, "here"), galaxies)
        assert layout.decode_ids(content, 300, frame, "here") == galaxies.ids


def test_anyone_can_read_the_columns(flux: Frame, make: Any) -> None:
    galaxies = make(6)
    table = layout.encode(galaxies, flux, SYNTHETIC, "here")
    row = table.slice(3, 1).to_pylist()[0]
    assert row["image"] == galaxies.images[3].numpy().astype("<f4").tobytes()
    assert (row["image_dtype"], row["image_shape"], row["seed"]) == ("<f4", [3, 8, 8], 5)
    assert (row["is_synthetic"], row["provenance"], row["index"]) == (True, "test", 3)
    assert row["bar_yes"] == galaxies.counts[3, flux.labels.index("bar_yes")]
    assert row["magnitude"] is None  # unknown is null
    assert b'"pixel_scale": 0.4' in table.schema.metadata[b"galaxysd"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: g.images[2, 1].fill_(torch.nan), "galaxy 'g-2' has pixels that are NaN or infinite"),
        (lambda g: g.images[1, 0, 0, 0].fill_(torch.inf), "galaxy 'g-1' has pixels"),
        (lambda g: g.counts[3, 0].fill_(-1), "galaxy 'g-3' has votes that are negative"),
        (lambda g: g.counts[3, 0].fill_(torch.nan), "galaxy 'g-3' has votes"),
        (lambda g: g.numeric[0, 1].fill_(torch.inf), "galaxy 'g-0' has an infinite number"),
        (lambda g: g.numeric[0, 0].fill_(-0.1), "galaxy 'g-0' has a negative redshift"),
        (lambda g: setattr(g, "ids", ["a", "b", "a", "c"]), "the id 'a' occurs twice"),
        (lambda g: setattr(g, "images", g.images[:, :, :4]), r"images of shape \[4, 3, 4, 8\], the set wants \[4, 3, 8, 8\]"),
        (lambda g: setattr(g, "images", g.images.double()), "images of torch.float64, a flux set holds torch.float32"),
        (lambda g: setattr(g, "counts", g.counts[:, :5]), r"counts of shape \[4, 5\]"),
        (lambda g: setattr(g, "extra", {"bar_yes": [1] * 4}), "extra column 'bar_yes' has the name of one of ours"),
        (lambda g: setattr(g, "extra", {"cond_bar_no": [1] * 4}), "extra column 'cond_bar_no'"),
    ],
)
def test_what_must_not_be_in_a_set_is_refused_by_name(flux: Frame, make: Any, change: Callable[[Galaxies], object], words: str) -> None:
    galaxies = make(4)
    change(galaxies)
    with pytest.raises(BadInput, match=f"shard-7: .*{words}"):
        layout.encode(galaxies, flux, SYNTHETIC, "shard-7")


def replaced(table: pa.Table, name: str, column: Any) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def test_a_hostile_table_is_refused_by_name(flux: Frame, make: Any) -> None:
    whole = layout.encode(make(4), flux, SYNTHETIC, "x")
    images = whole["image"].to_pylist()
    shapes = whole["image_shape"].to_pylist()
    floats = torch.full((3, 8, 8), torch.nan).numpy().tobytes()
    cases = [
        (whole.drop_columns("bar_yes"), "no column 'bar_yes'"),
        (replaced(whole, "image", pa.array([*images[:3], images[3] + b"padding"])), "'g-3' has an image of 775 bytes"),
        (replaced(whole, "image", pa.array([None, images[1] * 2, *images[2:]])), "'g-0' has an image of 0 bytes"),
        (replaced(whole, "image", pa.array([*images[:2], floats, images[3]])), "'g-2' has pixels that are NaN"),
        (replaced(whole, "image", pa.array(images, pa.large_binary())), "large_binary, binary expected"),
        (replaced(whole, "image_shape", pa.array([*shapes[:3], [1 << 30, 1 << 30]])), r"'g-3' has image_shape \[1073741824, 1073741824\]"),
        (replaced(whole, "image_dtype", pa.array(["<f4", ">f4", "<f4", "<f4"])), "'g-1' has image_dtype >f4, the set says <f4"),
    ]
    for table, words in cases:
        content = content_of(table)
        with pytest.raises(BadInput, match=f"shard-7: .*{words}"):
            layout.decode(content, 4, flux, "shard-7")


def test_a_lie_about_size_is_refused_before_decoding(flux: Frame, make: Any) -> None:
    content = content_of(layout.encode(make(4), flux, SYNTHETIC, "x"))
    with pytest.raises(BadInput, match="cannot be in a file of"):
        layout.decode(content, 65_536, flux, "shard-7")
    with pytest.raises(BadInput, match="4 rows, its record says 3"):
        layout.decode(content, 3, flux, "shard-7")
    with pytest.raises(BadInput, match="cannot be in a file of"):
        layout.decode(content, 4, Frame("flux", 8192), "shard-7")


def test_bytes_that_are_no_parquet(flux: Frame) -> None:
    with pytest.raises(BadInput, match="shard-7: not readable as Parquet"):
        layout.decode(bytes(5000), 1, flux, "shard-7")
