"""Other people's tables: what becomes of columns, and of pictures that are broken or hostile."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from galaxysd import seeds
from galaxysd.data import importing
from galaxysd.data.importing import Unusable, import_table, picture
from galaxysd.data.readers import open_set
from galaxysd.errors import BadInput, GalaxySDError

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")


def pixels(number: int, size: int = 12) -> np.ndarray[Any, Any]:
    return seeds.bits(0, "test-picture", number, size * size * 3).remainder(256).to(torch.uint8).reshape(size, size, 3).numpy()


def encoded(array: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, kind, **options)
    return content.getvalue()


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def huge_png(side: int) -> bytes:
    """A PNG whose header claims side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def test_a_table_becomes_a_set(tmp_path: Path) -> None:
    n = 5
    file = write(
        tmp_path / "t.parquet",
        name=[f"J{i}" for i in range(n)],
        image=[encoded(pixels(i)) for i in range(n)],
        bar_yes=[3, 0, None, 7, 8],
        spiral=pa.array([1.0, 2.0, float("nan"), 4.0, 5.0]),
        redshift=[0.1, None, 0.2, 0.3, 0.4],
        mood=["a", "b", "c", "d", None],
    )
    report = import_table(file, tmp_path / "set", "image", ["bar_yes", "spiral", "redshift", "mood"], "name")
    assert (report["rows"], report["kept"], report["rejected"]) == (n, n, [])
    assert (report["votes"], report["numbers"], report["other"]) == (["bar_yes", "spiral"], ["redshift"], ["mood"])
    data = open_set(tmp_path / "set")
    galaxies, labels = data.read(), data.frame.labels
    assert (data.frame.kind, data.frame.size, data.provenance["is_synthetic"]) == ("rgb", 12, False)
    assert galaxies.ids == [f"J{i}" for i in range(n)]
    assert all(np.array_equal(galaxies.images[i].permute(1, 2, 0).numpy(), pixels(i)) for i in range(n))
    assert galaxies.counts[:, labels.index("bar_yes")].tolist() == [3, 0, 0, 7, 8]
    assert galaxies.counts[:, labels.index("has-spiral-arms_yes")].tolist() == [1, 2, 0, 4, 5]
    assert galaxies.numeric[0, 0] == np.float32(0.1)
    assert galaxies.numeric[1, 0].isnan()
    assert galaxies.extra == {"mood": ["a", "b", "c", "d", None]}


def test_every_row_left_out_has_its_reason(tmp_path: Path) -> None:
    good = [encoded(pixels(i)) for i in range(3)]
    rows = [
        ("a", good[0], None),
        ("b", good[1][:-40], "damaged image"),
        ("c", b"GIF89a" + bytes(50), "neither JPEG nor PNG"),
        ("d", None, "no image bytes"),
        ("e", huge_png(9_000), "9000x9000 pixels, more than the 64000000"),
        ("e", huge_png(20_000), "decompression bomb"),
        ("f", encoded(pixels(1)[:6]), "12x6 pixels, not square"),
        ("g", encoded(pixels(1, 20)), "20 pixels on a side, the set has 12"),
        ("a", good[1], "the id of row 0"),
        (None, good[1], "no id"),
        ("h", encoded(np.dstack((pixels(1), np.full((12, 12), 128, np.uint8)))), "transparent pixels"),
        ("i", encoded(pixels(1).astype(np.uint16)[:, :, 0]), "colour mode I;16"),
        ("j", good[2], None),
    ]
    ids, images, reasons = zip(*rows, strict=True)
    file = write(tmp_path / "t.parquet", id=list(ids), image=pa.array(images, pa.binary()))
    report = import_table(file, tmp_path / "set", "image", [], "id")
    rejected = json.loads((tmp_path / "set" / "rejected.json").read_bytes())
    assert report["rejected"] == rejected
    assert open_set(tmp_path / "set").read().ids == ["a", "j"]
    expected = {number: reason for number, reason in enumerate(reasons) if reason}
    assert [row["row"] for row in rejected] == list(expected)
    for row in rejected:
        assert expected[row["row"]] in row["reason"]


def test_size_resamples(tmp_path: Path) -> None:
    flat = np.full((20, 20, 3), (10, 120, 230), np.uint8)
    file = write(tmp_path / "t.parquet", image=[encoded(flat), encoded(flat[:12, :12], "JPEG", quality=100)])
    import_table(file, tmp_path / "set", "image", [], size=8)
    images = open_set(tmp_path / "set").read().images
    assert images.shape == (2, 3, 8, 8)
    assert (images.int() - torch.tensor([10, 120, 230])[:, None, None]).abs().max() <= 2


def test_grey_and_palette_pictures_are_colours() -> None:
    grey = pixels(0)[:, :, 0]
    assert torch.equal(picture(encoded(grey), None), torch.from_numpy(grey.copy()).expand(3, -1, -1))
    content = io.BytesIO()
    Image.fromarray(grey).convert("P").save(content, "PNG")
    assert torch.equal(picture(content.getvalue(), None)[0], torch.from_numpy(grey.copy()))


def test_no_flipped_or_cut_byte_does_more_than_be_refused() -> None:
    for content in (encoded(pixels(0)), encoded(pixels(0), "JPEG")):
        places = seeds.bits(0, "test-fuzz", range(300), 2).tolist()
        for number, (place, value) in enumerate(places):
            cut = bytearray(content)
            cut[place % len(cut)] ^= 1 << value % 8
            try:
                found = picture(bytes(cut[: place % len(cut)] if number % 3 == 0 else cut), 12)
            except Unusable:
                continue
            assert found.shape == (3, 12, 12)


def test_a_killed_import_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "SHARD_ROWS", 2)
    images = [encoded(pixels(i)) for i in range(6)]
    images[1] = b"broken"
    file = write(tmp_path / "t.parquet", image=images)
    import_table(file, tmp_path / "whole", "image", [])
    write_shard = importing.SetWriter.write

    def killed(self: Any, number: int, galaxies: Any) -> None:
        if number == 1:
            raise KeyboardInterrupt
        write_shard(self, number, galaxies)

    monkeypatch.setattr(importing.SetWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        import_table(file, tmp_path / "set", "image", [])
    monkeypatch.setattr(importing.SetWriter, "write", write_shard)
    import_table(file, tmp_path / "set", "image", [])
    assert (tmp_path / "set" / "manifest.json").read_bytes() == (tmp_path / "whole" / "manifest.json").read_bytes()
    assert open_set(tmp_path / "set").read().ids == [f"t-{i}" for i in (0, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"images": "imagge"}, "no column 'imagge'; did you mean image"),
        ({"images": "bar_yes"}, "column 'bar_yes' is double, not the bytes of JPEG or PNG"),
        ({"labels": ["bar_yes"]}, r"column 'bar_yes' holds 0.9, and votes are counted in whole people"),
        ({"labels": ["spiral"]}, "column 'spiral' means has-spiral-arms_yes and is string, numbers expected"),
        ({"labels": ["round"]}, "ambiguous: it can mean how-rounded_round or edge-on-bulge_round"),
        ({"labels": ["barred", "bar"]}, "'bar' and one before it both mean bar_yes"),
        ({"labels": ["index"]}, "column 'index' has the name of one of a set's own columns"),
        ({"id": "nam"}, "no column 'nam'"),
    ],
)
def test_columns_that_cannot_be(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    columns = {"bar_yes": [0.9], "spiral": ["yes"], "round": [1], "barred": [1], "bar": [1], "index": [1]}
    file = write(tmp_path / "t.parquet", image=[encoded(pixels(0))], **columns)
    with pytest.raises(BadInput, match=words):
        import_table(file, tmp_path / "set", **{"images": "image", "labels": [], **arguments})
    assert not (tmp_path / "set").exists()


def test_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        import_table(tmp_path / "none.parquet", tmp_path / "set", "image", [])
    (tmp_path / "text.parquet").write_bytes(b"id,image\n" * 50)
    with pytest.raises(BadInput, match="not a Parquet table"):
        import_table(tmp_path / "text.parquet", tmp_path / "set", "image", [])
    bad = write(tmp_path / "bad.parquet", image=[b"no", b"image"])
    with pytest.raises(BadInput, match="none of its 2 rows can be used; the first: neither JPEG nor PNG"):
        import_table(bad, tmp_path / "set", "image", [])
    with pytest.raises(GalaxySDError, match="--size 0"):
        import_table(bad, tmp_path / "set", "image", [], size=0)
    assert not (tmp_path / "set").exists()


def test_a_table_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "ROW_GROUP_BYTES", 10_000)
    file = write(tmp_path / "t.parquet", image=pa.array([bytes([i]) * 1000 for i in range(60)]))
    with pytest.raises(BadInput, match=r"column image unpacks to .* more than the 10000 allowed"):
        import_table(file, tmp_path / "set", "image", [])


def test_nothing_is_written_over(tmp_path: Path) -> None:
    file = write(tmp_path / "t.parquet", image=[encoded(pixels(0))])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(GalaxySDError, match="not empty, and nothing is overwritten"):
        import_table(file, tmp_path / "mine", "image", [])
