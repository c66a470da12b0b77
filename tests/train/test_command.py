"""`galaxysd train`: what it says before it starts, what it refuses in words, and what it records of what it was trained on."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import signal
import threading
import time
import tomllib
from pathlib import Path

import pytest

from galaxysd import checkpoint, cli, runlog
from galaxysd import config as configs
from galaxysd.data import readers, shards
from galaxysd.data.mixed import Mixed
from galaxysd.errors import Stopped
from galaxysd.simulate.survey import SimulatedSource
from galaxysd.train import command, plan, render
from tests import killing, ranking, tiny

TINY = [word for setting in tiny.SETTINGS for word in ("--set", setting)]
# The smallest stamps the survey renders.
SIMULATED = ["--simulate", "tutorial", "--n", "24", *TINY, "--set", "model.image_size=16"]


def train(*words: str, out: Path | None = None) -> int:
    return cli.main(["train", "--device", "cpu", *words, *(() if out is None else ("--out", str(out)))])


def test_a_dry_run_prints_the_resolved_config_and_starts_nothing(tmp_path: Path, capsys):
    out = tmp_path / "run"
    assert train("--dry-run", *TINY, "--set", "train.seed=7", "--steps", "3", out=out) == 0
    said = capsys.readouterr().out
    costs, _, settings = said.partition("\n\n")
    assert costs.startswith("preset       smoke-32: 0.0")
    assert "execution    eager:" in costs
    values = tomllib.loads(settings)
    assert values["model"]["channels"] == [8, 16]
    assert (values["train"]["seed"], values["train"]["steps"]) == (7, 3)
    again = tmp_path / "again.toml"
    again.write_text(settings)
    assert configs.load(None, again).to_json() == tiny.config("train.seed=7", "train.steps=3").to_json()
    assert not out.exists()


def test_a_preset_too_large_for_the_machine_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(plan, "free_bytes", lambda device: 1 << 31)
    words = ("--simulate", "tutorial", "--preset", "base-64", "--steps", "1", "--set", "train.batch=64")
    assert train(*words, out=tmp_path / "run") == 4
    assert re.search(r"memory: \d+ MB needed \(.* 64 images at a time .*\), 2048 MB free on cpu; --set train\.acc", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_what_is_simulated_is_rendered_where_it_trains(tmp_path: Path, monkeypatch):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([*SIMULATED, "--device", "cuda"])
    assert command.open_source(args, command.resolve(args)).device == "cuda"
    args.keep = tmp_path
    monkeypatch.setattr(render, "write_set", lambda part, where, workers: pytest.fail("not here") if part.device != "cpu" else (where, 1))
    monkeypatch.setattr(render, "open_set", lambda where: tiny.Blobs(1, 24))
    assert command.open_source(args, command.resolve(args)).source.device == "cpu"


def test_a_dry_run_as_json(capsys):
    assert train("--dry-run", "--json", *TINY) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["config"]["model"]["image_size"] == said["plan"]["input"][-1] == 8


def test_limits_are_read_last(tmp_path: Path):
    page = tmp_path / "page.toml"
    page.write_text("[train]\nsteps = 5\nbatch = 6\nseed = 1\n")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = [
        "--config",
        str(page),
        "--set",
        "train.batch=8",
        "--set",
        "train.steps=6",
        "--steps",
        "9",
        "--images",
        "70",
        "--minutes",
        "0.5",
    ]
    train = command.resolve(parser.parse_args(words)).train
    assert (train.seed, train.batch, train.steps, train.images, train.minutes) == (1, 8, 9, 70, 0.5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "1"], "nothing to train on: give --data SET, or --simulate PRESET"),
        (["--steps", "1", "--data", "there", "--simulate", "tutorial"], "argument --simulate: not allowed with argument --data"),
        (["--steps", "1", "--simulate", "tutorail"], "tutorail.*did you mean tutorial"),
        (["--steps", "1", "--simulate", "tutorial", "--n", "0"], "--n 0: give at least 1"),
        (["--steps", "1", "--data", "nowhere"], "nowhere: no such folder"),
        (["--set", "train.lerning_rate=1"], "train.lerning_rate: no such setting; did you mean learning_rate"),
        (["--set", "train.batch"], "--set train.batch: expected section.key=value"),
        (["--set", "train.batch='many'"], "train.batch: 'many' is a str, int expected"),
        (["--preset", "smok-32"], "preset smok-32: no such preset; did you mean smoke-32"),
        (["--steps", "-3"], "train.steps: -3; must not be negative"),
        (["--stesp", "3"], "--stesp: no such option; did you mean --steps"),
        (["--simulate", "tutorial", "--n", "16"], "nothing says when to stop: give --steps, --images or --minutes"),
    ],
)
def test_what_cannot_be_trained_is_said(words: list[str], said: str, tmp_path: Path, capsys):
    assert train(*words, out=tmp_path / "run") == 2
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_folder_is_asked_for(capsys):
    assert train("--simulate", "tutorial", "--steps", "1") == 2
    assert "--out: give the folder of the run" in capsys.readouterr().err


def test_it_trains_on_simulated_galaxies_and_says_so(tmp_path: Path, capsys):
    assert train(*SIMULATED, "--steps", "2", "--json", out=tmp_path / "run") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["steps"], said["images"]) == (2, 8)
    assert Path(said["checkpoint"]) == tmp_path / "run" / "checkpoints" / "step-00000002"
    about = checkpoint.read(tmp_path / "run" / "checkpoints" / "step-00000002" / "model.safetensors").about
    assert about["trained_on"] == {"simulated": "tutorial", "seed": 1, "first": 0, "n": 24, "size": 16}
    pillow = importlib.util.find_spec("PIL") is not None
    assert (tmp_path / "run" / "samples" / "step-00000002.png").exists() == pillow
    assert not (tmp_path / "run" / "trained_on.ids").exists()


def test_the_same_command_again_changes_nothing(tmp_path: Path, capsys):
    out = tmp_path / "run"
    words = [*SIMULATED, "--steps", "2"]
    assert train(*words, out=out) == 0
    first = {path: path.read_bytes() for path in out.rglob("*.safetensors")}
    capsys.readouterr()
    assert train(*words, out=out) == 0
    assert "trained 2 steps, 8 images" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in out.rglob("*.safetensors")} == first
    assert train(*words, "--data-seed", "9", out=out) == 3
    assert "holds another run: trained_on.seed is 1 there and 9 here" in capsys.readouterr().err


def test_a_stored_set_is_recorded_galaxy_by_galaxy(tmp_path: Path):
    blobs = tiny.Blobs(2, 8)
    with shards.SetWriter(tmp_path / "set", blobs.frame, {"made_by": "a test"}, 8) as writer:
        for number in range(2):
            writer.write(number, blobs.load(number))
        writer.finish()
    out = tmp_path / "run"
    assert train("--data", str(tmp_path / "set"), *TINY, "--steps", "1", out=out) == 0
    about = checkpoint.read(out / "checkpoints" / "step-00000001" / "model.safetensors").about
    hashed = (out / "trained_on.ids").read_bytes()
    assert hashlib.sha256(hashed).hexdigest() == about["trained_on"]["ids"]
    wanted = sorted(hashlib.sha256(f"blob-{i}".encode()).hexdigest()[:16] for i in range(16))
    assert hashed.decode().split("\n") == wanted
    assert about["trained_on"]["n"] == 16
    assert about["trained_on"]["is_synthetic"] is True


def test_several_populations_are_mixed(tmp_path: Path):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--simulate", "tutorial, survey", "--n", "5", "--data-seed", "3", "--set", "model.image_size=16"])
    source = command.open_source(args, command.resolve(args))
    assert isinstance(source, Mixed)
    assert source.describe() == {
        "mixed": [{"simulated": name, "seed": 3, "first": 0, "n": 5, "size": 16} for name in ("tutorial", "survey")],
    }
    assert source.load(1).ids == SimulatedSource("survey", 3, 0, 5, 16).load(0).ids


def test_galaxies_that_are_kept_are_rendered_once_and_change_nothing(tmp_path: Path, monkeypatch):
    words = [*SIMULATED, "--images", "24"]
    assert train(*words, out=tmp_path / "without") == 0
    assert train(*words, "--keep", str(tmp_path / "sky"), "--piece", "1e-9", out=tmp_path / "with") == 75
    (where,) = (tmp_path / "sky" / "tutorial-1-16").iterdir()
    assert readers.open_set(where).read().ids == SimulatedSource("tutorial", 1, 0, 24, 16).load(0).ids
    monkeypatch.setattr("galaxysd.simulate.survey.simulate", None)  # whoever renders now fails
    assert train(*words, "--keep", str(tmp_path / "sky"), out=tmp_path / "with") == 0
    assert killing.weights_digest(tmp_path / "with") == killing.weights_digest(tmp_path / "without")


def test_only_what_is_simulated_is_kept(tmp_path: Path, capsys):
    assert train("--data", "there", "--keep", str(tmp_path / "sky"), "--steps", "1", out=tmp_path / "run") == 2
    assert "keeps what --simulate renders, and nothing is simulated; leave it out" in capsys.readouterr().err


def test_the_stretch_is_that_of_the_first_galaxies(monkeypatch):
    monkeypatch.setattr(command, "FIT_ROWS", 20)
    blobs, config = tiny.Blobs(4, 16), tiny.config()
    found = command.fit_stretch(blobs, config)
    images = readers.Galaxies.joined([blobs.load(0), blobs.load(1)]).images
    x = found.forward(images)
    assert x.mean((0, 2, 3)).abs().max() < 1e-5
    assert (x.std((0, 2, 3), correction=0) - config.diffusion.sigma_data).abs().max() < 1e-5


def ranks(folder: Path, *words: str) -> list[ranking.Ended]:
    """The command on two ranks."""
    return ranking.processes(2, folder, lambda: cli.main(["train", "--device", "cpu", *words]))


def test_two_ranks_keep_ship_and_report_once(tmp_path: Path, monkeypatch):
    """The first rank renders what is kept, while the other waits; it alone ships and prints."""
    out, sky, mine = tmp_path / "run", tmp_path / "sky", tmp_path / "mine.safetensors"
    words = [*SIMULATED, "--set", "train.log_steps=1", "--steps", "3"]
    write_set = render.write_set

    def slowly(*given):
        assert os.environ["RANK"] == "0"
        time.sleep(0.5)
        return write_set(*given)

    monkeypatch.setattr(render, "write_set", slowly)
    first, other = ranks(tmp_path / "ranks", *words, "--keep", str(sky), "--ship", str(mine), "--json", "--out", str(out))
    assert first.code == first.value == other.code == other.value == 0, (first, other)
    said = json.loads(first.out)
    assert (said["steps"], said["images"], said["model"]) == (3, 12, str(mine))
    assert other.out == other.err == ""
    assert checkpoint.read(mine).about["card"]["steps"] == 3
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000003"]
    alone = tmp_path / "alone"
    assert train(*words, out=alone) == 0
    losses = [[row["loss"] for row in runlog.read(each / "log.jsonl") if "gradient" in row] for each in (out, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6, abs=0)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--preset", "smok-32"], 2, "preset smok-32: no such preset"),
        (["--steps", "1", "--data", "nowhere"], 2, "nowhere: no such folder"),
        ([*SIMULATED, "--steps", "1", "--set", "train.batch=3"], 2, "train.batch: 3 rows do not divide by 2 ranks; use 2 or 4"),
        ([*SIMULATED, "--steps", "1", "--ship", "/"], 2, "--ship /: already there"),
        ([*SIMULATED, "--keep", "sky", "--steps", "1", "--piece", "-1"], 2, "--piece -1: minutes after which"),
    ],
)
def test_what_two_ranks_refuse_is_said_once(tmp_path: Path, monkeypatch, words: list[str], code: int, said: str):
    monkeypatch.chdir(tmp_path)
    first, other = ranks(tmp_path / "ranks", *words, "--out", str(tmp_path / "run"))
    assert first.value == other.value == code, (first, other)
    assert said in first.err
    assert first.err.count("\n") == 1
    assert other.err == other.out == ""
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_two_ranks_is_printed_once(tmp_path: Path):
    first, other = ranks(tmp_path / "ranks", "--dry-run", "--json", *TINY, "--set", "train.accumulate=2")
    assert json.loads(first.out)["config"]["train"]["accumulate"] == 2
    assert (other.value, other.out) == (0, "")


def test_a_signal_before_the_first_step_ends_two_ranks_with_75(tmp_path: Path, monkeypatch):
    begun = tmp_path / "begun"

    def rendering(*given):
        begun.touch()
        with runlog.StopSignals() as stop:
            while not stop.requested:
                time.sleep(0.01)
        raise Stopped("stopped while it rendered")

    def once_begun() -> None:
        while not begun.exists():
            time.sleep(0.01)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    def work() -> int:
        threading.Thread(target=once_begun, daemon=True).start()
        return train(*SIMULATED, "--steps", "1", "--keep", str(tmp_path / "sky"), out=tmp_path / "run")

    monkeypatch.setattr(render, "write_set", rendering)
    first, other = ranking.processes(2, tmp_path / "ranks", work)
    assert first.value == other.value == 75, (first, other)
    assert "stopped while it rendered" in first.err
    assert (other.out, other.err) == ("", "")
