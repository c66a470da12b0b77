"""What the page knows of a galaxy: leading answers against a plain recursion, records, and recipes that really make a galaxy again."""

from __future__ import annotations

import ast
import dataclasses
import math
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from galaxysd import cli, seeds
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.readers import open_set
from galaxysd.data.schema import GZ2
from galaxysd.errors import BadInput
from galaxysd.gallery import rows
from galaxysd.sample.generate import Settings
from galaxysd.simulate import survey


def votes(**fractions: float) -> torch.Tensor:
    row = torch.zeros(1, len(GZ2.answers))
    for name, value in fractions.items():
        row[0, GZ2.index(name.replace("__", "_").replace("0", "-"))] = value
    return row


def named(row: torch.Tensor) -> dict[str, str]:
    return {q.name: q.answers[a] for q, a in zip(GZ2.questions, row.tolist(), strict=True) if a >= 0}


def test_a_question_counts_only_along_the_leading_path() -> None:
    smooth = votes(smooth0or0featured__smooth=38, smooth0or0featured__featured=2, disk0edge0on__no=2, bar__yes=2, how0rounded__cigar=30)
    assert named(GZ2.leading(smooth)[0]) == {"smooth-or-featured": "smooth", "how-rounded": "cigar"}
    assert named(GZ2.leading(votes(bar__yes=9, bar__no=1))[0]) == {"bar": "yes"}, "a parent nobody was asked leaves the child alone"
    assert named(GZ2.leading(votes())[0]) == {}
    assert named(GZ2.leading(torch.full((1, len(GZ2.answers)), math.nan))[0]) == {}


def test_leading_answers_are_those_of_a_plain_recursion() -> None:
    counts = (seeds.uniform(1, "test", range(60), (len(GZ2.answers),)) * 6 - 3).clamp_min(0).floor().float()
    found = GZ2.leading(counts)

    def lead(row: torch.Tensor, q: int) -> int:
        question, mine = GZ2.questions[q], row[GZ2.slices[q]].tolist()
        owners = {parent: GZ2.number(parent.rpartition("_")[0]) for parent in question.parents}
        silent = all(float(row[GZ2.slices[owner]].sum()) == 0 for owner in owners.values())
        led = any(lead(row, owner) == GZ2.index(parent) - GZ2.slices[owner].start for parent, owner in owners.items())
        return mine.index(max(mine)) if sum(mine) > 0 and (led or silent) else -1

    assert found.tolist() == [[lead(row, q) for q in range(len(GZ2.questions))] for row in counts]
    assert (found >= 0).any(0).all()
    assert (found < 0).any(0).sum() > 5


def test_a_record_holds_what_was_requested_and_what_was_measured(galaxies: Callable[..., Galaxies], frame: Frame) -> None:
    batch = galaxies(3, generated=True)
    batch.extra = {"kind": ["disc", None, "x" * 999]}
    measured = torch.full_like(batch.counts, math.nan)
    measured[1] = GZ2.fractions(batch.counts[1] + 1)
    panel = rows.describe(batch, frame, measured, {"seed": 7})
    assert panel["words"] == "requested"
    assert panel["measured"]
    first, second, third = panel["rows"]
    assert (first["id"], first["index"], first["seed"]) == ("gen-0-0", 0, 7)
    assert first["numbers"] == [None, 16.0, None, None, None]
    torch.testing.assert_close(torch.tensor(first["votes"]), GZ2.fractions(batch.cond_counts[0]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.tensor(first["voters"]), GZ2.voters(batch.cond_counts[0]))
    assert "measured" not in first
    assert second["found"] == GZ2.leading(measured)[1].tolist()
    assert second["measured"][0] == pytest.approx(1 / 3, abs=1e-4)
    assert first["extra"] == {"kind": "disc"}
    assert second["extra"] == {}
    assert len(third["extra"]["kind"]) == rows.TEXT_LIMIT + 1
    assert rows.describe(galaxies(1), frame, None, {})["words"] == "volunteers"


def test_measured_votes_of_another_batch_are_refused(galaxies: Callable[..., Galaxies], frame: Frame) -> None:
    with pytest.raises(BadInput, match=r"measured votes: shape \[2, 37\], \[3, 37\] expected"):
        rows.describe(galaxies(3), frame, torch.zeros(2, 37), {})


def test_provenance_tells_real_from_made(galaxies: Callable[..., Galaxies]) -> None:
    assert rows.kind(galaxies(1), {"is_synthetic": False}) == "observed"
    assert rows.kind(galaxies(1), {"is_synthetic": True}) == "simulated"
    assert rows.kind(galaxies(1, generated=True), {}) == "generated"


def test_the_recipe_of_a_simulated_galaxy_makes_its_very_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = survey.SimulatedSource("tutorial", seed=4, first=0, n=40, size=16)
    batch = source.load(0)
    recipe = rows.recipe(batch, source.frame, {"is_synthetic": True, **source.describe()}).replace("INDEX", "37")
    monkeypatch.chdir(tmp_path)
    assert cli.main(shlex.split(recipe)[1:]) == 0
    again = open_set(Path("ONE")).read()
    assert again.ids == batch.ids[37:38]
    assert torch.equal(again.images[0], batch.images[37])


@pytest.mark.parametrize("guide", [{}, {"guide_sha256": "cd" * 32}])
def test_the_recipe_of_a_generated_galaxy_names_every_setting(
    galaxies: Callable[..., Galaxies], frame: Frame, guide: dict[str, str]
) -> None:
    provenance = {"seed": 5, "model_sha256": "ab" * 32, "sampler": "heun", "steps": 9, "guidance": 1.5, "interval": [0.2, 5.0], **guide}
    tree = ast.parse(rows.recipe(galaxies(1, generated=True), frame, provenance).replace("INDEX", "3"))
    last = tree.body[-1]
    assert isinstance(last, ast.Expr)
    assert isinstance(last.value, ast.Call)
    keywords = {word.arg: ast.unparse(word.value) for word in last.value.keywords}
    settings = {name: keywords.pop(name) for name in (field.name for field in dataclasses.fields(Settings))}
    assert settings == {"sampler": "'heun'", "steps": "9", "guidance": "1.5", "interval": "(0.2, 5.0)"}
    assert keywords == {"index": "rows.index[pick]", "seed": "5"} | ({"guide": "'GUIDE'"} if guide else {})


def test_no_recipe_is_better_than_a_wrong_one(galaxies: Callable[..., Galaxies], frame: Frame) -> None:
    assert rows.recipe(galaxies(1), frame, {"is_synthetic": False, "seed": 1}) == ""
    assert rows.recipe(galaxies(1), frame, {"seed": 1}) == ""
    assert rows.recipe(galaxies(1, generated=True), frame, {}) == ""
