"""The trainer's promises: the same run whether killed or not, stopped cleanly, one at a time in a folder, never on bad numbers."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from galaxysd import checkpoint, runlog
from galaxysd.distributed import ALONE, Ranks
from galaxysd.errors import BadInput, GalaxySDError, Stopped, Unavailable
from galaxysd.runlog import StopSignals
from galaxysd.train import loop
from tests import killing, ranking, tiny

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
    out = tmp_path / "run"
    with pytest.raises(Stopped, match="stopped at step 3 and saved step-00000003"):
        tiny.run(out, *STEPS, stop=ranking.Stop(3))
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


def test_settings_that_the_grid_would_refuse_are_refused_at_once(tmp_path: Path):
    with pytest.raises(GalaxySDError, match="sampler huen: no such sampler; did you mean heun"):
        tiny.run(tmp_path / "run", *STEPS, "sample.sampler='huen'")


class Poisoned(torch.nn.Module):
    """An objective whose loss, or gradient, is no number in one of its calls."""

    def __init__(self, inside: torch.nn.Module, what: str, at: int) -> None:
        super().__init__()
        self.inside, self.what, self.left = inside, what, at

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        value = self.inside(*given)
        if self.left != -1:
            return value
        return value * float("nan") if self.what == "loss" else value + (next(self.inside.parameters()).sum() * 0).sqrt()


def poisoned(what: str, at: int):
    objective = tiny.DenoiseTask.objective
    return lambda task, net, layout: Poisoned(objective(task, net, layout), what, at)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none_stops_before_the_weights(tmp_path: Path, monkeypatch, what: str):
    out = tmp_path / "run"
    monkeypatch.setattr(tiny.DenoiseTask, "objective", poisoned(what, 7))
    with pytest.raises(loop.NonFinite, match=rf"the {what} of step 7 is (nan|inf); .*the last good checkpoint is .*step-00000006"):
        tiny.run(out, *STEPS)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in checkpoint.newest(out).file("training").tensors.values())


def test_a_full_disk_ends_the_run_in_words_and_the_same_command_goes_on(tmp_path: Path, undisturbed: str, monkeypatch):
    """Everybody leaves with 4; the checkpoint before it stays."""
    out, commit = tmp_path / "run", checkpoint.files.commit

    def full(path, write, **options):
        if "step-00000006" in str(path):
            raise Unavailable(f"{path}: the disk is full") from OSError(errno.ENOSPC, "")
        return commit(path, write, **options)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.files, "commit", full)
        with pytest.raises(Unavailable, match=r"step-00000006/model\.safetensors: the disk is full"):
            tiny.run(out, *STEPS)
        ended = ranking.forked(2, tmp_path, lambda ranks: tiny.run(tmp_path / "ranks", *STEPS, ranks=ranks))
    assert [folder.name for folder in checkpoint.committed(out)] == ["step-00000004", "step-00000002"]
    assert [each.code for each in ended] == [4, 4], ended
    assert "the disk is full" in ended[0].err
    assert ended[1].err == ""
    tiny.run(out, *STEPS)
    assert killing.weights_digest(out) == undisturbed


def test_a_step_that_does_not_fit_says_what_would(tmp_path: Path, monkeypatch):
    """And so it is: the same command with that setting goes on from what was saved."""
    out, place = tmp_path / "run", loop.placed

    def small(part, device):
        if len(part[0]) > 2 and checkpoint.committed(out):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand so on")
        return place(part, device)

    monkeypatch.setattr(loop, "placed", small)
    words = r"step 2 at 4 images a time .* \(CUDA out of memory. Tried to allocate 2.00 GiB.\); .* --set train.accumulate=2 \(2 at a time\)"
    with pytest.raises(loop.OutOfMemory, match=words + r" or --set train.recompute=true .* or a smaller preset"):
        tiny.run(out, *STEPS)
    assert checkpoint.newest(out).record["step"] == 2
    assert tiny.run(out, *STEPS, "train.accumulate=2", "train.recompute=true").steps == 12


def test_a_checkpoint_of_another_network_in_the_folder_is_refused(tmp_path: Path):
    tiny.run(tmp_path / "other", "train.steps=2", "model.channels=[16,16]")
    with pytest.raises(Stopped):
        tiny.run(tmp_path / "run", *STEPS, stop=ranking.Stop(1))
    name = "checkpoints/step-00000002"
    shutil.copytree(tmp_path / "other" / name, tmp_path / "run" / name)
    with pytest.raises(BadInput, match=r"step-00000002: \S+ is \(\d+,.*\), its config asks for \(\d+,.*\)"):
        tiny.run(tmp_path / "run", *STEPS)


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


class Seen:
    """The ids of the galaxies that steps were prepared from, in their order; a few more are read ahead."""

    def __init__(self, monkeypatch) -> None:
        self.ids: list[str] = []
        prepare = tiny.DenoiseTask.prepare

        def spied(task, galaxies, step, share):
            self.ids += galaxies.ids  # in the order of the steps: one thread reads
            return prepare(task, galaxies, step, share)

        monkeypatch.setattr(tiny.DenoiseTask, "prepare", spied)


EIGHT = ("train.batch=8", "train.log_steps=1", "train.save_steps=4")


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in runlog.read(out / "log.jsonl") if "gradient" in row]


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """Twelve steps of one rank."""
    out = tmp_path_factory.mktemp("straight") / "run"
    tiny.run(out, *EIGHT, "train.steps=12")
    return out


@pytest.mark.parametrize(("world", "accumulate"), [(1, 4), (2, 1), (2, 2), (4, 1)])
def test_ranks_and_parts_see_the_same_galaxies_and_lose_the_same(tmp_path: Path, straight: Path, monkeypatch, world: int, accumulate: int):
    """The losses of 12 steps agree within 1e-6 of one rank's; a batch's galaxies stand in the ranks' order."""
    seen = Seen(monkeypatch)
    tiny.run(tmp_path / "alone", *EIGHT, "train.steps=12")
    alone, seen.ids = [seen.ids[step * 8 : step * 8 + 8] for step in range(12)], []

    def work(ranks: Ranks) -> list[str]:
        seen.ids.clear()
        tiny.run(tmp_path / "run", *EIGHT, "train.steps=12", f"train.accumulate={accumulate}", ranks=ranks)
        return seen.ids

    ended = ranking.forked(world, tmp_path, work)
    assert [each.code for each in ended] == [0] * world, ended
    rows = 8 // world
    assert [[name for each in ended for name in each.value[step * rows :][:rows]] for step in range(12)] == alone
    assert losses(tmp_path / "run") == pytest.approx(losses(straight), rel=1e-6, abs=0)
    assert losses(tmp_path / "run") != losses(straight)  # sums in another order: were they equal, one rank would have done it all
    assert all(each.out == each.err == "" for each in ended[1:])
    assert "train: 96 img" in ended[0].err


def test_a_run_goes_on_with_any_number_of_ranks(tmp_path: Path, straight: Path):
    """Two ranks, then one, then two of two parts: 12 steps lose what one rank lost, and one rank wrote."""
    out = tmp_path / "run"

    def piece(last: int, *settings: str):
        def work(ranks: Ranks) -> None:
            tiny.run(out, *EIGHT, "train.steps=12", *settings, stop=ranking.Stop(last), ranks=ranks)

        return work

    assert [each.code for each in ranking.forked(2, tmp_path / "first", piece(4))] == [75, 75]
    assert (checkpoint.newest(out).record["step"], checkpoint.newest(out).record["calls"]) == (4, 1)
    with pytest.raises(Stopped, match="stopped at step 8"):
        piece(4)(ALONE)
    ended = ranking.forked(2, tmp_path / "last", piece(12, "train.accumulate=2"))
    assert [each.code for each in ended] == [0, 0], ended
    assert losses(out) == pytest.approx(losses(straight), rel=1e-6, abs=0)
    assert [row["resumed"] for row in runlog.read(out / "log.jsonl") if "resumed" in row] == [4, 8]
    record = checkpoint.newest(out).record
    assert (record["step"], record["calls"], len(record["machines"])) == (12, 3, 1)


def test_a_stop_of_one_rank_stops_all_after_the_same_step_and_they_go_on(tmp_path: Path):
    out = tmp_path / "run"

    def work(ranks: Ranks) -> int:
        return tiny.run(out, *EIGHT, "train.steps=12", stop=ranking.Stop(3 if ranks.rank == 1 else 99), ranks=ranks).steps

    ended = ranking.forked(2, tmp_path, work)
    assert [each.code for each in ended] == [75, 75], ended
    assert "stopped at step 3 and saved step-00000003" in ended[0].err
    assert ended[1].err == ""
    ended = ranking.forked(2, tmp_path, lambda ranks: tiny.run(out, *EIGHT, "train.steps=12", ranks=ranks).steps)
    assert [(each.code, each.value) for each in ended] == [(0, 12), (0, 12)], ended
    whole = tmp_path / "whole"
    ranking.forked(2, tmp_path, lambda ranks: tiny.run(whole, *EIGHT, "train.steps=12", ranks=ranks).steps)
    assert killing.weights_digest(out) == killing.weights_digest(whole)  # two ranks add up in one way only


def test_a_piece_ends_on_all_ranks_after_a_step(tmp_path: Path):
    def work(ranks: Ranks) -> None:
        tiny.run(tmp_path / "run", *STEPS, piece=loop.Piece(1e-9 if ranks.rank == 1 else 60), ranks=ranks)

    ended = ranking.forked(2, tmp_path, work)
    assert [each.code for each in ended] == [75, 75], ended
    assert "minutes, stopped at step 1 and saved step-00000001" in ended[0].err


def test_minutes_are_one_clock_for_all_ranks(tmp_path: Path):
    """A run limited by time draws its learning rate from it: ranks whose clocks disagree would drift apart."""

    def work(ranks: Ranks) -> list[float]:
        result = tiny.run(tmp_path / "run", "train.batch=8", "train.minutes=0.005", "train.decay=1.0", ranks=ranks)
        return [result.steps, result.seconds]

    one, other = ranking.forked(2, tmp_path, work)
    assert one.code == other.code == 0, (one, other)
    assert one.value == other.value


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_number_that_is_none_on_one_rank_stops_all(tmp_path: Path, what: str):
    def work(ranks: Ranks) -> None:
        if ranks.rank == 1:
            tiny.DenoiseTask.objective = poisoned(what, 7)  # in the rank's own process
        tiny.run(tmp_path / "run", *STEPS, ranks=ranks)

    ended = ranking.forked(2, tmp_path, work)
    assert [each.code for each in ended] == [2, 2], ended
    assert f"the {what} of step 7 is nan" in ended[0].err
    assert "the last good checkpoint is" in ended[0].err
    assert ended[1].err == ""
    assert checkpoint.newest(tmp_path / "run").record["step"] == 6


def test_ranks_of_different_commands_are_refused(tmp_path: Path):
    def work(ranks: Ranks) -> None:
        tiny.run(tmp_path / "run", *STEPS, f"train.learning_rate={0.001 * (1 + ranks.rank)}", ranks=ranks)

    ended = ranking.forked(2, tmp_path, work)
    assert [each.code for each in ended] == [3, 3], ended
    assert "rank 1 has other settings, data or versions than rank 0" in ended[0].err
    assert not (tmp_path / "run" / "run.json").exists()


def test_ranks_that_hold_other_weights_are_refused(tmp_path: Path, monkeypatch):
    build = tiny.DenoiseTask.build

    def work(ranks: Ranks) -> None:
        def strayed(self):
            net = build(self)
            with torch.no_grad():
                next(net.parameters()).view(-1)[0] += ranks.rank
            return net

        tiny.DenoiseTask.build = strayed  # in the rank's own process
        tiny.run(tmp_path / "run", *STEPS, ranks=ranks)

    ended = ranking.forked(2, tmp_path, work)
    assert [each.code for each in ended] == [3, 3], ended
    assert "rank 1 has other weights than rank 0" in ended[0].err


def test_a_held_folder_is_refused_for_all_ranks_in_one_line(tmp_path: Path):
    with loop.files.held(tmp_path / "run"):
        ended = ranking.forked(2, tmp_path, lambda ranks: tiny.run(tmp_path / "run", *STEPS, ranks=ranks))
    assert [each.code for each in ended] == [3, 3], ended
    assert "another process is working in this folder" in ended[0].err
    assert ended[1].err == ""


def test_a_batch_that_ranks_cannot_share_is_refused_before_anything_is_written(tmp_path: Path):
    ended = ranking.forked(3, tmp_path, lambda ranks: tiny.run(tmp_path / "run", *STEPS, ranks=ranks))
    assert [each.code for each in ended] == [2, 2, 2], ended
    assert "train.batch: 4 rows do not divide by 3 ranks; use 3 or 6" in ended[0].err
    assert not (tmp_path / "run").exists()


def test_parts_of_a_step_are_not_part_of_what_a_run_is(tmp_path: Path):
    """A checkpoint says it where it is used, and is silent as before where it is not."""
    tiny.run(tmp_path / "run", *EIGHT, "train.steps=4")
    assert "accumulate" not in checkpoint.newest(tmp_path / "run").file("model").about["config"]["train"]
    with pytest.raises(Stopped):
        tiny.run(tmp_path / "other", *EIGHT, "train.steps=8", "train.accumulate=2", stop=ranking.Stop(4))
    assert checkpoint.newest(tmp_path / "other").file("model").about["config"]["train"]["accumulate"] == 2
    assert tiny.run(tmp_path / "other", *EIGHT, "train.steps=8", "train.accumulate=4").steps == 8


def test_ranks_save_and_draw_by_one_clock_and_the_first_does_it(tmp_path: Path):
    def work(ranks: Ranks) -> list[int]:
        drawn: list[int] = []
        task = tiny.task("train.steps=3", "train.save_minutes=1e-6", "train.grid_minutes=1e-6")
        loop.train(task, tiny.Blobs(), tmp_path / "run", StopSignals(), after=lambda folder, step: drawn.append(step), ranks=ranks)
        return drawn

    ended = ranking.forked(2, tmp_path, work)
    assert [(each.code, each.value) for each in ended] == [(0, [1, 2, 3, 3]), (0, [])], ended
    assert [folder.name for folder in checkpoint.committed(tmp_path / "run")] == ["step-00000003", "step-00000002"]
