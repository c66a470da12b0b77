"""`galaxysd gallery`: two sets to one page, measured by a judge or a table, and what it says when neither can."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.data.schema import GZ2
from galaxysd.data.shards import SetWriter
from galaxysd.errors import BadInput, GalaxySDError
from galaxysd.gallery import command


class Judge:
    def fractions(self, galaxies: Galaxies, frame: Frame) -> torch.Tensor:
        if len(galaxies) == 2:
            raise BadInput("judge x: looks at 32 px, these are 16 px")
        return GZ2.fractions(torch.ones(len(galaxies), len(GZ2.answers)))


@pytest.fixture
def sets(tmp_path: Path, galaxies: Callable[..., Galaxies], frame: Frame, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(command, "find_judge", lambda: (Judge(), ""))
    for name, batch in (("new", galaxies(5, generated=True)), ("old", galaxies(4, seed=2))):
        with SetWriter(tmp_path / name, frame, {"made_by": "a test", "seed": 3}) as writer:
            writer.write(0, batch)
            writer.finish()
    return tmp_path / "new", tmp_path / "old"


def run(*words: Any) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(word) for word in words]))


def data(path: Path) -> Any:
    return json.loads(path.read_text().partition('id="data">')[2].partition("</script>")[0])


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_two_sets_become_one_page(sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert run(sets[0], "--against", sets[1], "--out", out, "--limit", 3) == 0
    panels = data(out)["panels"]
    assert [(panel["label"], len(panel["rows"])) for panel in panels] == [("generated", 3), ("simulated", 3)]
    assert panels[0]["rows"][0]["measured"][:3] == [0.3333] * 3
    assert "<title>new</title>" in out.read_text()
    said = capsys.readouterr().out
    assert "The first 3 of 5 generated galaxies are shown." in said
    assert f"wrote {out}: 3 generated and 3 simulated galaxies" in said


def test_two_sets_of_one_kind_keep_their_names_apart(sets: tuple[Path, Path], tmp_path: Path) -> None:
    run(sets[0], "--against", sets[0], "--out", tmp_path / "page.html")
    assert [panel["label"] for panel in data(tmp_path / "page.html")["panels"]] == ["generated", "generated, new"]


def test_without_a_judge_the_page_says_so(sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_judge", lambda: (None, "no judge (it is not there)"))
    run(sets[0], "--out", tmp_path / "page.html")
    assert "Votes of the generated galaxies are not measured: no judge (it is not there)." in (tmp_path / "page.html").read_text()
    assert not data(tmp_path / "page.html")["panels"][0]["measured"]


def test_a_judge_that_cannot_look_at_them_is_quoted(sets: tuple[Path, Path], tmp_path: Path) -> None:
    run(sets[0], "--out", tmp_path / "page.html", "--limit", 2)
    assert "not measured: judge x: looks at 32 px, these are 16 px." in (tmp_path / "page.html").read_text()


def test_a_missing_judge_is_a_reason_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    from galaxysd.model import classifier

    def missing() -> None:
        raise BadInput("first-judge: no such model")

    monkeypatch.setattr(classifier, "load_judge", missing)
    assert command.find_judge() == (None, "no judge (first-judge: no such model)")


def test_a_table_of_measured_votes_is_matched_by_id(sets: tuple[Path, Path], tmp_path: Path) -> None:
    found = table(
        tmp_path / "found.parquet",
        id=["gen-0-1", "gen-0-0", "stranger"],
        bar_yes=[3.0, 0.25, 1.0],
        bar_no=pa.array([1, None, 0], pa.int64()),
        note=["a", "b", "c"],
    )
    run(sets[0], "--out", tmp_path / "page.html", "--measured", found)
    panel = data(tmp_path / "page.html")["panels"][0]
    yes = GZ2.index("bar_yes")
    assert panel["rows"][1]["measured"][yes : yes + 2] == [0.75, 0.25], "counts become fractions of their question"
    assert panel["rows"][1]["measured"][0] is None
    assert "measured" not in panel["rows"][0], "half a question is not measured"
    assert "measured" not in panel["rows"][2]
    assert "4 of 5 generated galaxies have no votes in found.parquet: not measured." in (tmp_path / "page.html").read_text()


def test_tables_that_cannot_be_meant_are_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    trials: list[tuple[dict[str, Any], str]] = [
        ({"id": ["x"], "bar_yes": [1.0], "bar_no": [0.0]}, "none of its 1 rows"),
        ({"id": ["gen-0-1"], "bar_yes": [1.0]}, "a question needs a column for each of its answers"),
        ({"id": ["gen-0-1"], "bar_yes": [-0.5]}, "galaxy 'gen-0-1' has bar_yes=-0.5"),
        ({"id": ["gen-0-1"], "bar_yes": [math.inf]}, "bar_yes=inf"),
        ({"id": ["gen-0-1"] * 2, "bar_yes": [1.0, 1.0]}, "2 rows, 1 different ids"),
        ({"name": ["gen-0-1"], "bar_yes": [1.0]}, "no column id; columns are name, bar_yes"),
    ]
    for number, (columns, words) in enumerate(trials):
        path = table(tmp_path / f"{number}.parquet", **columns)
        with pytest.raises(BadInput, match=words):
            run(sets[0], "--out", tmp_path / "page.html", "--measured", path)
    (tmp_path / "text.parquet").write_text("not a table")
    with pytest.raises(BadInput, match="not readable as Parquet"):
        run(sets[0], "--out", tmp_path / "page.html", "--measured", tmp_path / "text.parquet")
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_exists_is_left_alone(sets: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("mine")
    with pytest.raises(GalaxySDError, match=r"page\.html: already there, and nothing is overwritten"):
        run(sets[0], "--out", out)
    assert out.read_text() == "mine"


def test_no_galaxies_cannot_be_shown(sets: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(GalaxySDError, match="--limit: 0 galaxies"):
        run(sets[0], "--out", tmp_path / "page.html", "--limit", 0)
