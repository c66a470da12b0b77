"""A run's folder: nothing else's, one process's at a time, and of one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from galaxysd import files
from galaxysd.errors import GalaxySDError, Mismatch
from tests import tiny

STEPS = ("train.steps=2",)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A run of two steps."""
    out = tmp_path_factory.mktemp("begun") / "run"
    tiny.run(out, *STEPS)
    return out


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.learning_rate=0.002", r"config.train.learning_rate is 0.001 there and 0.002 here"),
        ("model.channels=[16,16]", r"config.model.channels is \[8, 16\] there and \(16, 16\) here"),
        ("condition.schema='gz2+mine'", r"config.condition.schema is 'gz2' there and 'gz2\+mine' here"),
        ("train.layout='nchw'", r"config.train.layout is 'auto' there and 'nchw' here"),
        ("train.only=['head']", r"config.train.only is None there and \('head',\) here"),
    ],
)
def test_another_run_in_the_folder_is_refused_by_name(begun: Path, setting: str, words: str):
    with pytest.raises(Mismatch, match=f"holds another run: {words}; use another --out"):
        tiny.run(begun, *STEPS, setting)


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("dear diary")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".tmp-mine").write_text("mine too")
    with pytest.raises(GalaxySDError, match=r"not empty \(mine.txt\) and not a run"):
        tiny.run(tmp_path, *STEPS)
    assert (tmp_path / "sub" / ".tmp-mine").read_text() == "mine too"  # nothing is swept in a folder that is not ours
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "sub"]


def test_of_two_trainers_one_proceeds(tmp_path: Path):
    out = tmp_path / "run"
    with files.held(out), pytest.raises(Mismatch, match="another process is working in this folder"):
        tiny.run(out, *STEPS)


@pytest.mark.parametrize("content", ["[]", '{"run": 3}'])
def test_a_damaged_run_description_is_named(tmp_path: Path, content: str):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(Mismatch, match=r"run\.json: does not say what run this is"):
        tiny.run(tmp_path, *STEPS)
