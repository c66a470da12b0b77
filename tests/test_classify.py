"""`galaxysd classify predict`: a table of votes that agrees with the judge and with the tree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from galaxysd import classify, cli
from galaxysd.data import readers, shards
from galaxysd.data.schema import GZ2
from galaxysd.model.classifier import load_judge
from galaxysd.simulate.survey import SimulatedSource

N = 24


@pytest.fixture(scope="module")
def galaxy_set(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "set"
    source = SimulatedSource("tutorial", 4242, 0, N, 32, chunk=16)
    with shards.SetWriter(folder, source.frame, {"made_by": "a test"}, 16) as writer:
        for number in range(len(source.chunk_rows)):
            writer.write(number, source.load(number))
        writer.finish()
    return folder


@pytest.fixture(scope="module")
def table(galaxy_set: Path):
    out = galaxy_set.parent / "votes.parquet"
    assert cli.main(["classify", "predict", str(galaxy_set), "--embedding", "--out", str(out)]) == 0
    return pq.read_table(out)


def columns(table, prefix: str) -> torch.Tensor:
    return torch.from_numpy(np.stack([table[f"{prefix}_{answer}"].to_numpy() for answer in GZ2.answers], 1))


def test_one_row_a_galaxy_of_every_shard(table, galaxy_set: Path):
    galaxies = readers.open_set(galaxy_set).read()
    assert table["id"].to_pylist() == galaxies.ids
    assert table["index"].to_pylist() == list(range(N))
    wanted = {"id", "index", "embedding"} | {f"{kind}_{answer}" for kind in ("pred", "concentration", "reach") for answer in GZ2.answers}
    assert set(table.column_names) == wanted


def test_the_numbers_are_the_judges(table, galaxy_set: Path):
    judge, found = load_judge(), readers.open_set(galaxy_set)
    galaxies = found.read()
    assert torch.allclose(columns(table, "concentration"), judge.concentrations(galaxies, found.frame), rtol=1e-4)
    assert torch.allclose(columns(table, "pred"), judge.fractions(galaxies, found.frame), atol=1e-5)
    embedded = torch.tensor(table["embedding"].to_pylist())
    assert torch.allclose(embedded, judge.embed(galaxies, found.frame), atol=1e-4)


def test_shares_add_up_along_the_tree(table):
    """Fractions of a question sum to 1, and its answers reach the volunteers who gave one of the answers that lead to it."""
    fractions, reach = columns(table, "pred"), columns(table, "reach")
    assert torch.allclose(GZ2.voters(fractions), torch.ones(N, len(GZ2.questions)), atol=1e-5)
    for question, part in zip(GZ2.questions, GZ2.slices, strict=True):
        parents = [GZ2.index(parent) for parent in question.parents]
        wanted = reach[:, parents].sum(1) if parents else torch.ones(N)
        assert torch.allclose(reach[:, part].sum(1), wanted, atol=1e-5), question.name


def test_nothing_is_overwritten(galaxy_set: Path, tmp_path: Path, capsys):
    out = tmp_path / "mine.parquet"
    out.write_text("dear diary")
    assert cli.main(["classify", "predict", str(galaxy_set), "--out", str(out)]) == 2
    assert "mine.parquet: already there, and nothing is overwritten" in capsys.readouterr().err
    assert out.read_text() == "dear diary"


def test_json_names_the_judge(galaxy_set: Path, tmp_path: Path, capsys):
    out = tmp_path / "votes.parquet"
    assert cli.main(["classify", "predict", str(galaxy_set), "--json", "--out", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"out": str(out), "rows": N, "judge": "first-judge", "judge_sha256": load_judge().digest.sha256}
    assert "embedding" not in pq.read_table(out).column_names


def test_rates_count_what_most_volunteers_gave(galaxy_set: Path):
    """A judge that repeats the votes is always right; one that always says smooth is right about smooth alone."""
    found = readers.open_set(galaxy_set)
    galaxies = found.read()

    class Echo:
        labels = GZ2

        def fractions(self, galaxies, frame):
            return GZ2.fractions(galaxies.counts)

    class Smooth(Echo):
        def fractions(self, galaxies, frame):
            said = torch.zeros_like(galaxies.counts)
            said[:, 0] = 1
            return said

    exact = classify.rates(Echo(), galaxies, found.frame)
    assert {rate for rate, _ in exact.values()} == {1.0}
    assert exact["smooth-or-featured_smooth"][1] + exact["smooth-or-featured_featured"][1] == N
    stubborn = classify.rates(Smooth(), galaxies, found.frame)
    assert {name for name, (rate, _) in stubborn.items() if rate > 0} == {"smooth-or-featured_smooth"}
