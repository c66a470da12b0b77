from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from galaxysd import files
from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.readers import open_set
from galaxysd.data.schema import GZ2
from galaxysd.data.shards import SetWriter
from galaxysd.errors import BadInput, GalaxySDError, Unavailable
from galaxysd.evaluate import command, morphology, structure
from galaxysd.evaluate.command import add_arguments, evaluate, run
from galaxysd.evaluate.features import InMemory

Draw = Callable[..., Galaxies]


@dataclass
class Ruler:
    """A judge that measures axis ratios: all it can tell is round from cigar."""

    def trained(self, ids: list[str]) -> tuple[list[str], str | None]:
        return [name for name in ids if name.startswith("seen")], None

    def look(self, galaxies: Galaxies, frame: Frame) -> tuple[Tensor, Tensor]:
        return self.fractions(galaxies, frame), self.embed(galaxies, frame)

    def fractions(self, galaxies: Galaxies, frame: Frame) -> Tensor:
        flat = morphology.measure(galaxies.images, frame)["ellipticity"]
        said = torch.zeros(len(galaxies), len(GZ2.answers))
        for question, columns in zip(GZ2.questions, GZ2.slices, strict=True):
            said[:, columns] = 1 / len(question.answers)
        for name, value in (("smooth-or-featured_smooth", 0.9), ("something-odd_no", 0.9)):
            said[:, GZ2.index(name)] = value
        said[:, GZ2.index("how-rounded_cigar")], said[:, GZ2.index("how-rounded_round")] = flat, 1 - flat
        return said

    def embed(self, galaxies: Galaxies, frame: Frame) -> Tensor:
        found = morphology.measure(galaxies.images, frame)
        return torch.stack((found["r50"], found["ellipticity"]), 1)


def asked(galaxies: Galaxies) -> Galaxies:
    """The same rows as a generator would have made them when asked for exactly this."""
    return replace(galaxies, cond_counts=galaxies.counts, cond_numeric=galaxies.numeric, counts=torch.zeros_like(galaxies.counts))


def test_an_equal_sample_passes_and_says_its_numbers(survey: Draw, frame: Frame) -> None:
    new, real, train = asked(survey(120, 1, "new")), survey(300, 2), survey(200, 3, "train")
    found = evaluate(InMemory(new, frame), InMemory(real, frame), InMemory(train, frame), Ruler()).findings
    assert found["rows"] == {"generated": 120, "held_out": 300, "generated_set": 120, "held_out_set": 300}
    assert set(found["classes"]["classes"]) == {"smooth round", "cigar"}
    assert found["classes"]["mean_ratio"] == pytest.approx(1.0, abs=0.02)
    assert found["classes"]["shuffled"]["rate"] < 0.65
    assert found["classes"]["chance"] == pytest.approx(0.5, abs=0.02)
    beyond = [name for name, each in found["distributions"].items() if each["wasserstein"]["beyond_floor"]]
    assert len(beyond) <= 2, beyond
    assert set(found["spaces"]) == {"measured properties", "coarse pixels", "scattering coefficients", "the judge's embedding"}
    assert found["passes"], found["alarms"]
    assert 0.35 < found["detector"]["accuracy"]["rate"] < 0.65
    assert found["detector"]["proven"]
    assert not any(space["coverage"]["beyond_floor"] for space in found["spaces"].values())
    assert not found["memorisation"]["exceeds_holdout"]
    assert found["memorisation"]["suspected_copies"] == 0
    for row in found["flux_ratio"]["bins"]:
        assert row["bands"]["r"]["ratio"] == pytest.approx(1.0, abs=0.01)
    assert set(found["not_measured"]) == {"photutils' and statmorph's measurements"}
    json.dumps(found, allow_nan=False)


def test_planted_faults_show_where_they_should(survey: Draw, frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.detector, "detect", lambda *_: None)  # has its own tests, and takes longer than all the rest
    real, train = survey(300, 2), survey(200, 3, "train")

    def findings(new: Galaxies) -> dict:  # type: ignore[type-arg]
        return evaluate(InMemory(asked(new), frame), InMemory(real, frame), InMemory(train, frame), Ruler()).findings

    bright = findings(survey(120, 1, "new", brighter=1.05))
    assert all(row["bands"][band]["ratio"] == pytest.approx(1.05, abs=0.025) for row in bright["flux_ratio"]["bins"] for band in "gri")
    ends = [(band["ratio"], band["floor_range"][1]) for row in bright["flux_ratio"]["bins"] for band in row["bands"].values()]
    assert sum(ratio > high for ratio, high in ends) >= 9
    large = findings(survey(120, 1, "new", larger=1.3))
    assert large["distributions"]["r50"]["wasserstein"]["beyond_floor"]
    assert not large["distributions"]["ellipticity"]["wasserstein"]["beyond_floor"]
    one = survey(1, 1, "new")
    same = replace(one.rows(torch.zeros(120, dtype=torch.int64)), ids=[f"same-{row}" for row in range(120)])
    collapsed = findings(same)
    assert all(space["coverage"]["beyond_floor"] and space["coverage"]["value"] < 0.3 for space in collapsed["spaces"].values())
    copies = replace(train.rows(torch.arange(120)), ids=[f"copy-{row}" for row in range(120)])
    copied = findings(replace(copies, images=copies.images.flip(-1)))
    assert copied["memorisation"]["exceeds_holdout"]
    assert copied["memorisation"]["suspected_copies"] == 120
    assert "MORE near copies" in " ".join(copied["verdict"])
    swapped = survey(120, 1, "new")
    mislabelled = findings(replace(swapped, counts=swapped.counts.roll(1, 0)))
    assert mislabelled["classes"]["mean_ratio"] < 0.05


def test_a_request_by_votes_is_compared_with_its_own_mix(survey: Draw, frame: Frame) -> None:
    new = asked(survey(200, 1, "new")).rows(torch.arange(1, 200, 2))  # cigars alone
    new.cond_numeric = None
    found = evaluate(InMemory(new, frame), InMemory(survey(300, 2), frame), judge=Ruler()).findings
    assert "150 of 300 held-out rows" in found["compared_with"]
    assert not found["distributions"]["ellipticity"]["wasserstein"]["beyond_floor"]
    assert "One class was asked for" in " ".join(found["verdict"])
    assert set(found["not_measured"]) == {
        "flux at the requested magnitude",
        "nearest training galaxies",
        "photutils' and statmorph's measurements",
    }


def test_display_colour_has_no_flux_figures_and_says_so(survey: Draw, frame: Frame) -> None:
    def picture(galaxies: Galaxies) -> Galaxies:
        return replace(galaxies, images=(galaxies.images * 20).clamp(0, 255).round().to(torch.uint8))

    rgb = replace(frame, kind="rgb")
    found = evaluate(InMemory(asked(picture(survey(60, 1, "new"))), rgb), InMemory(picture(survey(100, 2)), rgb)).findings
    assert found["flux_ratio"] is None
    assert found["not_measured"]["flux at the requested magnitude"] == "display colour is relative only"
    shapes = {"r50", "r90", "concentration", "ellipticity", "asymmetry", "gini", "m20"}
    power = {f"power_{low:g}-{high:g}" for low, high in itertools.pairwise(structure.FREQUENCIES)}
    assert set(found["distributions"]) == {"display_level"} | shapes | power
    assert any("relative only" in line for line in found["verdict"])


def test_unmeasured_rows_are_counted(survey: Draw, frame: Frame) -> None:
    new = survey(60, 1, "new")
    new.images[:7] = -1.0 * new.images[:7]
    found = evaluate(InMemory(new, frame), InMemory(survey(100, 2), frame)).findings
    assert found["distributions"]["magnitude_r"]["not_measured"] == {"generated": 7, "held_out": 0}
    assert found["distributions"]["magnitude_r"]["wasserstein"]["rows"] == 50
    assert found["spaces"]["measured properties"]["rows_left_out"]["generated"] == 7


def arguments(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(scope="module")
def folders(survey: Draw, frame: Frame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    for name, galaxies in (("new", asked(survey(60, 1, "new"))), ("real", survey(110, 2)), ("train", survey(80, 3, "train"))):
        with SetWriter(root / name, frame, {"made_by": "test", "is_synthetic": True}, shard_rows=40) as writer:
            for number, rows in enumerate(torch.arange(len(galaxies)).split(40)):
                writer.write(number, galaxies.rows(rows))
            writer.finish()
    return root


def test_the_command_reads_sets_and_writes_a_report(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "find_judge", lambda: (None, command.NO_JUDGE))
    out = tmp_path / "report"
    assert run(arguments(folders / "new", "--against", folders / "real", "--train", folders / "train", "--out", out)) == 0
    said = capsys.readouterr().out
    assert "60 generated galaxies against 110 held-out ones" in said
    assert "no judge" in said
    assert str(out) in said
    drawn = {f"{name}.{kind}" for name in ("distributions", "flux", "planes", "nearest", "pairs") for kind in ("png", "pdf")}
    assert {path.name for path in out.iterdir()} == {"report.json", "report.md", "report.html", "nearest.parquet"} | drawn
    table = pq.read_table(out / "nearest.parquet")
    assert len(table) == 60
    assert set(table["nearest_train_id"].to_pylist()) <= set(open_set(folders / "train").read().ids)
    assert "galaxysd" in json.loads((out / "report.json").read_text())["command"]
    found = json.loads((out / "report.json").read_text())
    assert found["verdict"][1].startswith("60 generated galaxies")
    with pytest.raises(GalaxySDError, match="not empty"):
        run(arguments(folders / "new", "--against", folders / "real", "--out", out))


def test_a_full_disk_leaves_an_empty_folder(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object) -> None:
        raise Unavailable(f"{path}: the disk is full")

    monkeypatch.setattr(command, "find_judge", lambda: (None, "no judge"))
    monkeypatch.setattr(files, "commit_json", full)
    args = arguments(folders / "new", "--against", folders / "real", "--out", tmp_path / "report", "--limit", "60")
    with pytest.raises(Unavailable, match="the disk is full"):
        run(args)
    assert list((tmp_path / "report").iterdir()) == []


def test_json_is_the_report(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_judge", lambda: (Ruler(), ""))
    run(arguments(folders / "new", "--against", folders / "real", "--limit", 40, "--out", tmp_path / "report", "--json"))
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "report" / "report.json").read_text())
    assert found["rows"] == {"generated": 40, "held_out": 40, "generated_set": 60, "held_out_set": 110}
    assert {path.name for path in (tmp_path / "report").iterdir()} >= {"classes.png", "fractions.png"}


def test_a_set_is_not_its_own_holdout(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="110 ids are in both"):
        run(arguments(folders / "real", "--against", folders / "real", "--out", tmp_path / "a"))
    with pytest.raises(BadInput, match="ids are in both"):
        run(arguments(folders / "new", "--against", folders / "real", "--train", folders / "real", "--out", tmp_path / "b"))
    with pytest.raises(GalaxySDError, match="--limit: 0"):
        run(arguments(folders / "new", "--against", folders / "real", "--limit", 0, "--out", tmp_path / "c"))


class Refuses(Ruler):
    """A judge made for other images."""

    def look(self, galaxies: Galaxies, frame: Frame) -> tuple[Tensor, Tensor]:
        raise BadInput("judge: looks at u/z images")


@pytest.mark.parametrize(("judge", "why"), [(None, "no judge (weights missing)"), (Refuses(), "judge: looks at u/z images")])
def test_a_judge_that_cannot_be_had_is_a_reason_not_an_error(judge: Ruler | None, why: str, survey: Draw, frame: Frame) -> None:
    found = evaluate(
        InMemory(survey(30, 1, "new"), frame), InMemory(survey(40, 2), frame), judge=judge, why_no_judge="no judge (weights missing)"
    ).findings
    assert found["not_measured"]["classes, vote fractions and the judge's embedding"] == why
    assert found["classes"] is None
    assert found["fractions"] is None
    assert "the judge's embedding" not in found["spaces"]


def test_a_judge_that_has_seen_the_held_out_galaxies_is_refused(survey: Draw, frame: Frame) -> None:
    new, real = survey(30, 1, "new"), survey(40, 2)
    real.ids[3] = "seen-3"
    with pytest.raises(BadInput, match=r"the judge was trained on 1 of 40 galaxies of held-out \('seen-3' first\)"):
        evaluate(InMemory(new, frame), InMemory(real, frame), judge=Ruler())


def test_generated_galaxies_are_no_holdout(survey: Draw, frame: Frame) -> None:
    with pytest.raises(BadInput, match="held-out holds 40 generated galaxies"):
        evaluate(InMemory(survey(30, 1, "new"), frame), InMemory(asked(survey(40, 2)), frame))


def test_empty_and_constant_columns_are_named(survey: Draw, frame: Frame) -> None:
    new, real = survey(60, 1, "new"), survey(100, 2)
    new.images[:, 0] = -new.images[:, 0].abs()
    real.images[:, :, :2] = real.images[:, :, -2:] = real.images[..., :2] = real.images[..., -2:] = 0.0
    found = evaluate(InMemory(new, frame), InMemory(real, frame)).findings
    assert found["not_measured"]["distance of magnitude_g"] == "measured in 0 generated and 100 held-out rows: too few"
    assert found["not_measured"]["distance of noise_r over its floor"] == "the held-out rows all have noise_r 0"


def test_the_judge_knows_what_it_was_trained_on() -> None:
    judge, _ = command.find_judge()
    assert judge is not None
    assert judge.trained(["sim-atlas-777-5", "sim-atlas-777-20480", "sim-atlas-778-5"]) == (["sim-atlas-777-5"], None)


def test_what_statmorph_needs_is_said_before_anything_is_measured(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.catalogue, "absent", lambda: "statmorph not installed (pip install 'galaxysd[eval]')")
    words = (folders / "new", "--against", folders / "real", "--out", tmp_path / "report")
    with pytest.raises(Unavailable, match="--statmorph 5: statmorph not installed"):
        run(arguments(*words, "--statmorph", 5))
    with pytest.raises(GalaxySDError, match="--statmorph: -1 rows"):
        run(arguments(*words, "--statmorph", -1))
    assert not (tmp_path / "report").exists()
