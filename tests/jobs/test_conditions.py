"""What a job asks for: galaxy i reads row i modulo the table's length, whatever piece it is read in."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from galaxysd.data.conditions import Conditions, parse_numbers
from galaxysd.data.schema import GZ2
from galaxysd.errors import BadInput, GalaxySDError
from galaxysd.jobs import conditions
from galaxysd.sample.requests import of_table


def written(path: Path, *pieces: Conditions, numbers=None) -> conditions.Table:
    conditions.write(path, iter(pieces), GZ2, numbers)
    return conditions.Table(path, GZ2)


def test_rows_cycle_over_groups_and_order(tmp_path: Path):
    n = 2 * conditions.PIECE + 5
    counts = torch.zeros(n, 37)
    counts[:, 0] = torch.arange(n)
    numeric = torch.full((n, 5), float("nan"))
    numeric[:, 1] = 16
    table = written(tmp_path / "c.parquet", Conditions(counts[:7], numeric[:7]), Conditions(counts[7:], numeric[7:]))
    assert table.rows == n
    index = torch.tensor([0, 3 * n + 9000, n - 1, n, 8191, 8192, 10**15])
    found = table.at(index)
    assert found.counts[:, 0].tolist() == (index % n).tolist()
    assert torch.equal(found.numeric[:, 1], torch.full((7,), 16.0))
    assert bool(found.numeric[:, 0].isnan().all())
    assert table.span(range(n - 2, n + 2)).counts[:, 0].tolist() == [n - 2, n - 1, 0, 1]


def test_equal_counts():
    arms = conditions.balanced("spiral-arm-count", 40, GZ2)
    assert len(arms) == 6
    assert GZ2.winners(arms.counts)[:, GZ2.slices[GZ2.number("spiral-arm-count")]].diagonal().all()
    assert len(conditions.balanced("edge-on, smooth", 40, GZ2)) == 2
    with pytest.raises(GalaxySDError, match="--balance smooth: 1 answers; name a question, or two answers and more"):
        conditions.balanced("smooth", 40, GZ2)
    with pytest.raises(BadInput, match="smoth"):
        conditions.balanced("smoth,edge-on", 40, GZ2)


def test_a_sweep():
    bars = conditions.swept("barred", 40, GZ2)
    fractions = GZ2.fractions(bars.counts)[:, GZ2.index("bar_yes")]
    assert torch.allclose(fractions, torch.arange(11) / 10)


def test_a_table_is_read_as_sample_reads_it_in_pieces(tmp_path: Path, monkeypatch):
    """Fractions or counts is a matter of the whole table, though no piece shows the whole."""
    asked = pa.table(
        {"smooth": [1.0, 0.0, 30.0, None], "featured": [0.0, 1.0, 10.0, None], "bar_yes": [0.25, 1.0, None, 0.5], "redshift": [0.1] * 4}
    )
    pq.write_table(asked, tmp_path / "asked.parquet")
    monkeypatch.setattr(conditions, "PIECE", 1)
    parts = list(conditions.of_file(tmp_path / "asked.parquet", 40, GZ2))
    assert len(parts) == 4
    wanted, found = of_table(asked, 40, GZ2), conditions.joined(parts)
    assert torch.equal(found.counts, wanted.counts)
    assert torch.equal(found.numeric.isnan(), wanted.numeric.isnan())


def test_numbers_stand_in_where_a_row_says_nothing(tmp_path: Path):
    row = Conditions.unknown(2, GZ2)
    row.numeric[1, 0] = 0.2
    table = written(tmp_path / "c.parquet", row, numbers=parse_numbers("redshift=0.1"))
    assert table.at(torch.arange(2)).numeric[:, 0].tolist() == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"bar_yess": [1.0]}, "rows 0 to 0: table: column 'bar_yess' is neither an answer nor a number.*did you mean"),
        ({"smooth": ["many"]}, "column 'smooth' is not numeric"),
        ({"smooth": [-1.0]}, "rows 0 to 0: .*cannot be negative"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path: Path, columns, words: str):
    pq.write_table(pa.table(columns), tmp_path / "asked.parquet")
    with pytest.raises(BadInput, match=words):
        list(conditions.of_file(tmp_path / "asked.parquet", 40, GZ2))


def test_an_impossible_row_is_named(tmp_path: Path):
    row = Conditions.unknown(3, GZ2)
    row.numeric[2, 0] = -1
    with pytest.raises(BadInput, match=r"conditions: row 2 has negative or infinite values \(1 rows here do\)"):
        written(tmp_path / "c.parquet", row)
    assert not list(tmp_path.iterdir())


def test_no_table(tmp_path: Path):
    (tmp_path / "asked.parquet").write_text("not parquet")
    with pytest.raises(BadInput, match="not a set, and not a Parquet table"):
        list(conditions.of_file(tmp_path / "asked.parquet", 40, GZ2))


def test_rot_is_found_when_a_group_is_read(tmp_path: Path):
    written(tmp_path / "c.parquet", Conditions(torch.rand(64, 37, generator=torch.Generator().manual_seed(0)), torch.full((64, 5), 1.0)))
    content = bytearray((tmp_path / "c.parquet").read_bytes())
    content[200] ^= 1
    (tmp_path / "c.parquet").write_bytes(content)
    with pytest.raises(BadInput, match="row group 0 is damaged"):
        conditions.Table(tmp_path / "c.parquet", GZ2).at(torch.arange(4))
