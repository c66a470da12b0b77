"""`galaxysd classify predict`: a table of votes that agrees with the judge and with the tree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from galaxysd import classify, cli
from galaxysd.data import readers, shards, transforms
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
    return torch.from_numpy(np.stack([table[f"{answer}_{prefix}"].to_numpy() for answer in GZ2.answers], 1))


def test_one_row_a_galaxy_of_every_shard(table, galaxy_set: Path):
    galaxies = readers.open_set(galaxy_set).read()
    assert table["id"].to_pylist() == galaxies.ids
    assert table["index"].to_pylist() == list(range(N))
    kinds = ("concentration", "fraction", "std", "cumulative", "votes")
    wanted = {"id", "index", "embedding"} | {f"{answer}_{kind}" for kind in kinds for answer in GZ2.answers}
    wanted |= {f"{question.name}_proportion_asked" for question in GZ2.questions}
    assert set(table.column_names) == wanted


def test_the_numbers_are_the_judges(table, galaxy_set: Path):
    judge, found = load_judge(), readers.open_set(galaxy_set)
    galaxies = found.read()
    alpha, fractions = judge.concentrations(galaxies, found.frame).double(), judge.fractions(galaxies, found.frame).double()
    assert torch.allclose(columns(table, "concentration"), alpha, rtol=1e-4)
    assert torch.allclose(columns(table, "fraction"), fractions, atol=1e-5)
    embedded = torch.tensor(table["embedding"].to_pylist())
    assert torch.allclose(embedded, judge.embed(galaxies, found.frame), atol=1e-4)


def test_shares_add_up_along_the_tree(table):
    """Fractions of a question sum to 1, and its answers reach the volunteers who gave one of the answers that lead to it."""
    fractions, reach = columns(table, "fraction"), columns(table, "cumulative")
    assert torch.allclose(GZ2.voters(fractions), torch.ones(N, len(GZ2.questions), dtype=torch.float64), atol=1e-6)
    for question, part in zip(GZ2.questions, GZ2.slices, strict=True):
        parents = [GZ2.index(parent) for parent in question.parents]
        wanted = reach[:, parents].sum(1) if parents else torch.ones(N, dtype=torch.float64)
        assert torch.allclose(reach[:, part].sum(1), wanted, atol=1e-6), question.name


def test_uncertainty_is_the_dirichlets(table):
    stats = pytest.importorskip("scipy.stats")
    alpha, spread = columns(table, "concentration"), columns(table, "std")
    for part in GZ2.slices:
        assert np.allclose(spread[0, part].square().numpy(), stats.dirichlet(alpha[0, part].numpy()).var(), rtol=1e-6)


def test_a_question_that_few_get_to_is_not_asked(table):
    for question, part in zip(GZ2.questions, GZ2.slices, strict=True):
        asked = np.array(table[f"{question.name}_proportion_asked"].to_pylist())
        for answer in GZ2.answers[part]:
            votes, share = table[f"{answer}_votes"].to_pylist(), table[f"{answer}_cumulative"].to_pylist()
            assert [each is None for each in votes] == (asked < 0.5).tolist()
            assert all(each is None or each == pytest.approx(40 * part_of) for each, part_of in zip(votes, share, strict=True))


def test_no_way_up_is_special_with_symmetries(galaxy_set: Path):
    found = readers.open_set(galaxy_set)
    galaxies = found.read()
    judge = load_judge(symmetries=True)
    alpha, embedded = judge.judged(galaxies, found.frame)
    fractions = GZ2.fractions(alpha)
    for code in (1, 2, 4, 7):
        turned = replace(galaxies, images=transforms.symmetry(galaxies.images, torch.full((N,), code)))
        other, moved = judge.judged(turned, found.frame)
        assert (GZ2.fractions(other) - fractions).abs().max() < 1e-5
        assert (moved - embedded).abs().max() < 1e-5 * embedded.abs().max()
    single = load_judge().fractions(galaxies, found.frame)
    assert (single - fractions).abs().max() > 1e-4  # one view is another


def test_impossible_voters_are_refused(galaxy_set: Path, tmp_path: Path, capsys):
    assert cli.main(["classify", "predict", str(galaxy_set), "--voters", "0", "--out", str(tmp_path / "a.parquet")]) == 2
    assert "--voters: 0" in capsys.readouterr().err


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
