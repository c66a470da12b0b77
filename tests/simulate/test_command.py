"""`galaxysd simulate`: the same bytes for any number of workers, stopping and going on, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from galaxysd import cli
from galaxysd.data.readers import open_set
from galaxysd.simulate import command

BASIC = ["simulate", "--size", "32", "--preset", "tutorial", "--seed", "3"]


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(command, "shard_rows", lambda size: 32)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


def test_workers_change_no_byte(tmp_path, small_shards, capsys):
    for workers in ("1", "2"):
        assert cli.main([*BASIC, "--n", "100", "--workers", workers, "--out", str(tmp_path / workers), "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["rows"], said["shards"], said["rendered"]) == (100, 4, 100)
    assert content(tmp_path / "1") == content(tmp_path / "2")
    found = open_set(tmp_path / "1")
    assert len(found) == 100
    assert found.provenance["simulated"] == "tutorial"
    assert found.provenance["seed"] == 3


def test_an_interrupted_set_goes_on(tmp_path, small_shards, monkeypatch, capsys):
    """The stop comes while the third shard is rendered: that one is still written, and the second run makes the others."""
    load = command.SimulatedSource.load
    asked = []

    def interrupting(self, k):
        asked.append(k)
        if len(asked) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return load(self, k)

    monkeypatch.setattr(command.SimulatedSource, "load", interrupting)
    words = [*BASIC, "--n", "160", "--workers", "1", "--out", str(tmp_path / "a")]
    assert cli.main(words) == 75
    assert "stopped by SIGTERM with 96 of 160 galaxies; the same command goes on" in capsys.readouterr().err
    assert cli.main(words) == 0
    assert asked == [0, 1, 2, 3, 4]
    assert cli.main([*BASIC, "--n", "160", "--workers", "1", "--out", str(tmp_path / "b")]) == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert cli.main(words) == 0  # a whole set is left as it is
    assert len(asked) == 10


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    """kill -9 of the parent: its workers notice, end, and the same command finishes the set."""
    words = [*BASIC, "--n", "3000", "--workers", "2", "--out", str(tmp_path / "a")]
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-m", "galaxysd", *words],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        wait(lambda: (tmp_path / "a" / "data" / "shard-00000.json").exists(), 60)
        parent.kill()
        parent.wait()
        wait(lambda: not alive(parent.pid), 20)
    finally:
        if alive(parent.pid):
            os.killpg(parent.pid, signal.SIGKILL)
    assert cli.main([*words[:-4], "--workers", "1", "--out", str(tmp_path / "a")]) == 0
    assert len(open_set(tmp_path / "a")) == 3000


def test_a_ctrl_c_while_workers_start_is_one_request_and_one_line(tmp_path):
    """The terminal signals the whole group, also workers that are still importing: only the parent may speak."""
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, "-m", "galaxysd", *BASIC, "--n", "30000", "--workers", "2", "--out", str(tmp_path / "a")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        wait(lambda: len(children.read_text().split()) >= 2, 60)  # multiprocessing's own tracker, and a first worker
        time.sleep(0.3)
        os.killpg(parent.pid, signal.SIGINT)
        _, said = parent.communicate(timeout=60)
    finally:
        if alive(parent.pid):
            os.killpg(parent.pid, signal.SIGKILL)
    assert parent.returncode == 75
    assert [line.partition(":")[0] for line in said.split("\n") if line] == ["SIGINT", "simulate", "galaxysd"], said


def alive(group: int) -> bool:
    """Whether a process of the group is left; a zombie that nobody has waited for counts as gone."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(pgrp) == group and state != "Z":
                return True
    return False


def wait(condition, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--n", "0"], 2, "--n 0: a set needs at least 1 galaxy"),
        (["--n", "5", "--workers", "0"], 2, "--workers 0: give at least 1"),
        (["--n", "5", "--first", str(1 << 63)], 2, "numbers end at 4611686018427387904"),
        (["--n", "5", "--first", "-1"], 2, "--first -1: galaxies are numbered from 0"),
        (["--n", "5", "--size", "3"], 2, "size: 3 pixels; stamps are 16 to 512"),
        (["--n", "5", "--preset", "tutoral"], 2, "did you mean tutorial?"),
    ],
)
def test_bad_arguments_are_named(words, code, said, tmp_path, capsys):
    assert cli.main(["simulate", *words, "--out", str(tmp_path / "a")]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_another_set_is_not_continued(tmp_path, capsys):
    assert cli.main([*BASIC, "--n", "32", "--workers", "1", "--out", str(tmp_path / "a")]) == 0
    assert cli.main([*BASIC, "--n", "64", "--workers", "1", "--out", str(tmp_path / "a")]) == 3
    assert "provenance.n is 32, not 64" in capsys.readouterr().err


def test_shards_are_whole_blocks():
    assert [command.shard_rows(size) for size in (16, 32, 64, 128, 512)] == [1024, 1024, 512, 128, 32]


def test_a_table_of_latents_is_a_population(tmp_path, capsys):
    """Rows of the table, in CSV or Parquet; --n is its length, and a galaxy left open in part is drawn."""
    (tmp_path / "mine.csv").write_text("id,kind,r90,bar\na,disc,9,0.2\nb,spheroid,7,\nc,edge-on,,0\n")
    words = ["simulate", "--size", "32", "--preset", "atlas", "--latents", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "set")]
    assert cli.main(words) == 0
    found = open_set(tmp_path / "set")
    galaxies = found.read(3)
    assert galaxies.extra["kind"] == ["disc", "spheroid", "edge-on"]
    assert galaxies.numeric[:2, 2].tolist() == pytest.approx([9 / 1.25, 7 / 1.25])
    assert found.provenance["latents"]["columns"] == ["kind", "r90", "bar"]
    assert cli.main(words) == 0  # finished: nothing to do
    (tmp_path / "mine.csv").write_text("kind,r90,bar\ndisc,9,0.2\nspheroid,7.5,\nedge-on,,0\n")
    assert cli.main(words) == 3  # another population
    capsys.readouterr()


def test_a_sweep_twins_truth_and_a_telescope(tmp_path, capsys):
    start = ["simulate", "--size", "32", "--preset", "atlas", "--latent", "kind=disc", "--latent", "bar=0.25"]
    swept = ["--sweep", "r90=6:12", "--n", "4", "--first", "5", "--truth"]
    assert cli.main([*start, *swept, "--out", str(tmp_path / "sweep")]) == 0
    assert cli.main([*start, *swept, "--without", "bar", "--out", str(tmp_path / "twins")]) == 0
    one, other = (open_set(tmp_path / name).read(4) for name in ("sweep", "twins"))
    assert one.numeric[:, 2].tolist() == pytest.approx([6 / 1.25, 8 / 1.25, 10 / 1.25, 12 / 1.25])
    assert one.extra["has_bar"] == [True] * 4
    assert other.extra["has_bar"] == [False] * 4
    assert (one.images != other.images).any()
    assert (
        cli.main(["simulate", "--n", "2", "--size", "64", "--telescope", "decals", "--redshift", "0.1", "--out", str(tmp_path / "far")])
        == 0
    )
    far = open_set(tmp_path / "far")
    assert far.frame.bands == ("g", "r", "z")
    assert far.read(2).numeric[:, 0].tolist() == pytest.approx([0.1, 0.1])
    assert far.provenance["view"] == {"telescope": "decals", "redshift": 0.1}
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "survey"], "--n: say how many galaxies"),
        (["--n", "2", "--telescope", "hubbel"], "telescope hubbel: no such telescope"),
        (["--n", "2", "--telescope", "euclid-vis"], "is below a pixel of 0.8 arcsec"),
        (["--n", "2", "--without", "bars"], "feature bars: no such feature; did you mean bar?"),
        (["--n", "2", "--latent", "kind=spheroid", "--latent", "bar=0.2"], "latent bar: 0.2 in row 0, whose kind is spheroid"),
        (["--n", "2", "--latent", "r90"], "--latent r90: write it like r90=12"),
        (["--n", "2", "--latent", "r90=500"], "latent r90: 500 arcsec in row 0 lies beyond a stamp of 51.2 arcsec"),
        (["--n", "2", "--sweep", "r90=6-12"], "--sweep r90=6-12: write it like pitch=8:35"),
        (["--sweep", "r90=6:12"], "--n: say in how many steps to sweep"),
        (["--n", "2", "--sweep", "r9=6:12"], "latent r9: no such latent of a galaxy; did you mean r90?"),
        (["--n", "2", "--latents", "missing.csv"], "--latents missing.csv: no such file"),
        (["--n", "2", "--redshift", "9"], "redshift: 9"),
        (["--n", "9", "--preset", "atlas", "--latent", "ring=0.2"], "latent ring: 0.2 in row"),
    ],
)
def test_what_cannot_be_simulated_is_said_in_one_line(words, said, tmp_path, capsys):
    assert cli.main(["simulate", "--workers", "1", *words, "--out", str(tmp_path / "set")]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert len(found.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()


def test_an_empty_table_is_refused(tmp_path, capsys):
    (tmp_path / "none.csv").write_text("kind,r90\n")
    (tmp_path / "two.csv").write_text("kind\ndisc\nspheroid\n")
    assert cli.main(["simulate", "--n", "3", "--latents", str(tmp_path / "two.csv"), "--out", str(tmp_path / "set")]) == 2
    assert "galaxies 0 to 2 of a table of 2 rows" in capsys.readouterr().err
    assert cli.main(["simulate", "--latents", str(tmp_path / "none.csv"), "--out", str(tmp_path / "set")]) == 2
    assert "the table has no rows; a population needs at least one galaxy" in capsys.readouterr().err
