"""The trainer's promises: the same run whether killed or not, stopped cleanly, one at a time in a folder, never on bad numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from galaxysd import checkpoint, runlog
from galaxysd.errors import GalaxySDError, Mismatch, Stopped
from galaxysd.runlog import StopSignals
from galaxysd.train import loop
from tests import killing, tiny

STEPS = ("train.steps=12", "train.save_steps=2")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    tiny.run(out, *STEPS)
    return killing.weights_digest(out)


def test_it_learns(tmp_path: Path):
    tiny.run(tmp_path / "run", "train.steps=150", "train.log_steps=1", "train.learning_rate=3e-3")
    losses = [row["loss"] for row in runlog.read(tmp_path / "run" / "log.jsonl") if "gradient" in row]
    assert sum(losses[-30:]) < 0.75 * sum(losses[:30])


def test_killed_runs_end_in_the_bytes_of_an_undisturbed_one(tmp_path: Path, undisturbed: str, tier):
    kills = killing.kill_until(tier("kills-in-the-suite"), tmp_path, STEPS, seed=11, seconds=0.5)
    assert set(kills.digests) == {undisturbed}


def test_stopping_saves_and_the_same_command_goes_on(tmp_path: Path, undisturbed: str):
    class AfterThree(StopSignals):
        looked = 0

        @property
        def requested(self) -> bool:
            self.looked += 1
            return self.looked > 3

        @requested.setter
        def requested(self, value: bool) -> None:
            pass

    out = tmp_path / "run"
    with pytest.raises(Stopped, match="stopped at step 3 and saved step-00000003"):
        tiny.run(out, *STEPS, stop=AfterThree())
    assert checkpoint.newest(out).record["step"] == 3
    tiny.run(out, *STEPS)
    assert killing.weights_digest(out) == undisturbed


def test_pieces_end_in_the_bytes_of_an_unbroken_run(tmp_path: Path, undisturbed: str):
    """A piece ends after a step, however short it is, and what was spent adds up over the calls."""
    out, spent = tmp_path / "run", 0.0
    for call in range(1, 12):
        with pytest.raises(Stopped, match=f"after a piece of 1e-09 minutes, stopped at step {call} and saved"):
            tiny.run(out, *STEPS, piece=loop.Piece(1e-9))
        record = checkpoint.newest(out).record
        assert (record["step"], record["calls"]) == (call, call)
        assert record["cpu_seconds"] > spent
        spent = record["cpu_seconds"]
    result = tiny.run(out, *STEPS, piece=loop.Piece(1e-9))
    assert result.spent.calls == 12
    assert result.spent.cpu_seconds > spent
    assert len(result.spent.machines) == 1
    assert killing.weights_digest(out) == undisturbed


@pytest.mark.parametrize("minutes", [-1.0, float("nan"), float("inf")])
def test_a_piece_of_no_length_is_refused(minutes: float):
    with pytest.raises(GalaxySDError, match="minutes after which this call stops; give a positive number"):
        loop.Piece(minutes)


def test_sigterm_exits_75(tmp_path: Path):
    code = (
        "import sys\nfrom pathlib import Path\nfrom galaxysd.runlog import StopSignals\n"
        "from galaxysd.errors import Stopped\nfrom tests import tiny\n"
        "with StopSignals() as stop:\n"
        "    try: tiny.run(Path(sys.argv[1]), 'train.steps=100000', stop=stop)\n"
        "    except Stopped as error: sys.exit(error.exit_code)\n"
    )
    out = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", code, str(out)], env=os.environ | {"PYTHONPATH": "."}, stderr=subprocess.DEVNULL)
    while not (out / "log.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.terminate()
    assert process.wait(30) == 75
    assert checkpoint.newest(out) is not None


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, undisturbed: str, capsys):
    out = tmp_path / "run"
    tiny.run(out, *STEPS)
    newest = checkpoint.committed(out)[0] / "training.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    tiny.run(out, *STEPS)
    said = capsys.readouterr().err
    assert "training.safetensors: does not match its record" in said
    assert "going on from step-00000010" in said
    assert killing.weights_digest(out) == undisturbed


def test_another_run_in_the_folder_is_refused_by_name(tmp_path: Path):
    tiny.run(tmp_path / "run", *STEPS)
    with pytest.raises(Mismatch, match=r"holds another run: config.train.learning_rate is 0.001 there and 0.002 here"):
        tiny.run(tmp_path / "run", *STEPS, "train.learning_rate=0.002")


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("dear diary")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / ".tmp-mine").write_text("mine too")
    with pytest.raises(GalaxySDError, match=r"not empty \(mine.txt\) and not a run"):
        tiny.run(tmp_path, *STEPS)
    assert (tmp_path / "sub" / ".tmp-mine").read_text() == "mine too"  # nothing is swept in a folder that is not ours
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "sub"]


@pytest.mark.parametrize("content", ["[]", '{"run": 3}'])
def test_a_damaged_run_description_is_named(tmp_path: Path, content: str):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(Mismatch, match=r"run\.json: does not say what run this is"):
        tiny.run(tmp_path, *STEPS)


def test_settings_that_the_grid_would_refuse_are_refused_at_once(tmp_path: Path):
    with pytest.raises(GalaxySDError, match="sampler huen: no such sampler; did you mean heun"):
        tiny.run(tmp_path / "run", *STEPS, "sample.sampler='huen'")


def test_of_two_trainers_one_proceeds(tmp_path: Path):
    out = tmp_path / "run"
    with loop.files.held(out), pytest.raises(Mismatch, match="another process is working in this folder"):
        tiny.run(out, *STEPS)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none_stops_before_the_weights(tmp_path: Path, monkeypatch, what: str):
    out, loss = tmp_path / "run", tiny.DenoiseTask.loss

    def poisoned(self, net, layout, galaxies, step, share):
        value = loss(self, net, layout, galaxies, step, share)
        if step != 7:
            return value
        return value * float("nan") if what == "loss" else value + (next(net.parameters()).sum() * 0).sqrt()

    monkeypatch.setattr(tiny.DenoiseTask, "loss", poisoned)
    with pytest.raises(loop.NonFinite, match=rf"the {what} of step 7 is (nan|inf); .*the last good checkpoint is .*step-00000006"):
        tiny.run(out, *STEPS)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in checkpoint.newest(out).file("training").tensors.values())


def test_nothing_says_when_to_stop(tmp_path: Path):
    with pytest.raises(GalaxySDError, match="give --steps, --images or --minutes"):
        tiny.run(tmp_path / "run")


def test_only_two_checkpoints_remain(tmp_path: Path):
    tiny.run(tmp_path / "run", *STEPS)
    assert [folder.name for folder in checkpoint.committed(tmp_path / "run")] == ["step-00000012", "step-00000010"]


def test_the_model_of_a_checkpoint_is_the_average_of_the_weights(tmp_path: Path):
    tiny.run(tmp_path / "run", *STEPS)
    found = checkpoint.newest(tmp_path / "run")
    model, training = found.file("model").tensors, found.file("training").tensors
    assert {f"weight.{name}" for name in model} <= training.keys()
    assert not torch.equal(model["head.weight"], training["weight.head.weight"])
    apart = (model["head.weight"] - training["weight.head.weight"]).norm()
    assert 0 < apart < training["weight.head.weight"].norm()  # behind the weights, on their way from zero
