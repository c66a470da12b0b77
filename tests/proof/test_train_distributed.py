"""Training on several ranks, however many they are now and whoever of them is killed, is the run of one rank, up to rounding."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path

import pytest

from galaxysd import checkpoint, runlog
from galaxysd.distributed import Ranks
from galaxysd.train.step import Optimiser
from tests import killing, ranking, tiny

pytestmark = pytest.mark.proof_train

SETTINGS = ("train.batch=8", "train.log_steps=1", "train.save_steps=4")


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in runlog.read(out / "log.jsonl") if "gradient" in row]


def spied(out: Path, steps: int, last: int, *settings: str):
    """Work of a rank: a run of `steps` that is stopped after step `last`; the ids of the galaxies it was shown go to a file."""

    def work(ranks: Ranks) -> None:
        prepare, advance, shown, read = tiny.DenoiseTask.prepare, Optimiser.step, out.with_name(f"{out.name}.ids"), {}

        def spying(task, galaxies, step, share):
            places = (share.places() + step * share.batch).tolist()
            read.setdefault(step, []).extend(f"{place} {name}\n" for place, name in zip(places, galaxies.ids, strict=True))
            return prepare(task, galaxies, step, share)

        def stepping(optimiser, images, progress, loss):
            with shown.open("a") as file:  # of the steps that were taken: a few more are read ahead
                file.write("".join(read.pop(images // optimiser.config.batch)))
            return advance(optimiser, images, progress, loss)

        tiny.DenoiseTask.prepare, Optimiser.step = spying, stepping  # in the rank's own process
        stop = ranking.Stop(last - len(losses(out)) if (out / "log.jsonl").exists() else last)
        tiny.run(out, *SETTINGS, f"train.steps={steps}", *settings, stop=stop, ranks=ranks)

    return work


def stream(out: Path) -> str:
    """The digest of the ids in the order of their positions in the run; a position that was taken twice stands twice."""
    rows = [line.split() for line in out.with_name(f"{out.name}.ids").read_text().splitlines()]
    ordered = sorted(rows, key=lambda row: int(row[0]))
    return hashlib.sha256("\n".join(map(" ".join, ordered)).encode()).hexdigest()


def test_one_two_four_one(tmp_path: Path, report):
    """Ranks change from 1 to 2 to 4 to 1: the galaxies come in one order, the losses of 40 steps agree within 1e-6."""
    straight, out = tmp_path / "straight", tmp_path / "run"
    assert [each.code for each in ranking.forked(1, tmp_path / "ranks", spied(straight, 40, 99), 400)] == [0]
    for world, last, code in ((1, 10, 75), (2, 20, 75), (4, 30, 75), (1, 99, 0)):
        ended = ranking.forked(world, tmp_path / "ranks", spied(out, 40, last), 400)
        assert [each.code for each in ended] == [code] * world, ended
        assert checkpoint.newest(out).record["step"] == min(last, 40)
    assert stream(out) == stream(straight)
    apart = max(abs(mine / theirs - 1) for mine, theirs in zip(losses(out), losses(straight), strict=True))
    report("ranks 1 -> 2 -> 4 -> 1: largest relative difference of a loss from one rank's", apart, n=40)
    assert len(losses(out)) == 40
    assert apart <= 1e-6


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (4, 1), (2, 4), (8, 1), (1, 8)])
def test_forty_steps_of_ranks_and_parts(tmp_path: Path, report, world: int, accumulate: int):
    straight, out = tmp_path / "straight", tmp_path / "run"
    assert [each.code for each in ranking.forked(1, tmp_path / "ranks", spied(straight, 40, 99), 400)] == [0]
    ended = ranking.forked(world, tmp_path / "ranks", spied(out, 40, 99, f"train.accumulate={accumulate}"), 400)
    assert [each.code for each in ended] == [0] * world, ended
    assert stream(out) == stream(straight)
    apart = max(abs(mine / theirs - 1) for mine, theirs in zip(losses(out), losses(straight), strict=True))
    report(f"{world} ranks of {accumulate} parts: largest relative difference of a loss from one rank's", apart, n=40)
    assert apart <= 1e-6


def test_bfloat16_agrees_to_its_rounding(tmp_path: Path, report):
    straight, out = tmp_path / "straight", tmp_path / "run"
    for folder, world in ((straight, 1), (out, 2)):
        ended = ranking.forked(world, tmp_path / "ranks", spied(folder, 40, 99, "train.dtype='bf16'"), 400)
        assert [each.code for each in ended] == [0] * world, ended
    apart = max(abs(mine / theirs - 1) for mine, theirs in zip(losses(out), losses(straight), strict=True))
    report("2 ranks in bfloat16: largest relative difference of a loss from one rank's", apart, n=40)
    assert apart <= 1e-3


def test_ranks_are_killed_and_torchrun_restarts_them(tmp_path: Path, tier, report):
    """Each run loses a drawn rank after a drawn step; torchrun restarts both, and the run ends in the bytes of an undisturbed one."""
    draw, n, same = random.Random(7), tier("ranks-killed"), 0
    whole = tmp_path / "whole"
    ranking.forked(2, tmp_path / "ranks", lambda ranks: tiny.run(whole, *SETTINGS, "train.steps=24", ranks=ranks).steps)
    for number in range(n):
        out, fall = tmp_path / f"run-{number}", f"{draw.randrange(2)}:{draw.randrange(1, 23)}"
        started = ranking.torchrun(2, "tests.ranking", str(out), *SETTINGS, "train.steps=24", restarts=1, FALL=fall)
        said, _ = started.communicate(timeout=200)
        assert started.returncode == 0, said
        assert "exitcode: -9" in said
        assert not ranking.survivors(out)
        same += killing.weights_digest(out) == killing.weights_digest(whole)
    report.rate("runs of two ranks, one of them killed -9, that end in the undisturbed digest", same, n)
    assert same == n


def test_torchrun_is_killed_and_nothing_stays_behind(tmp_path: Path, tier, report):
    """Without its starter every rank stops within seconds; the same command goes on, and ends in the bytes of an undisturbed run."""
    n, slowest = tier("torchruns-killed"), 0.0
    out, whole = tmp_path / "run", tmp_path / "whole"
    words = ("tests.ranking", str(out), *SETTINGS, "train.steps=100000", "train.warmup_images=0", "train.decay=0.0")
    for _ in range(n):
        before = len(ranking.steps(out))
        started = ranking.torchrun(2, *words)
        ranking.until(lambda before=before: len(ranking.steps(out)) > before + 5, started)
        started.kill()
        began = time.monotonic()
        while ranking.survivors(out):
            assert time.monotonic() - began < 30, "ranks still run 30 s after their torchrun was killed"
            time.sleep(0.05)
        slowest = max(slowest, time.monotonic() - began)
        started.communicate()
        assert checkpoint.newest(out).record["step"] == ranking.steps(out)[-1]  # stopped as on a signal: nothing was lost
    report("seconds after which no rank is left of a torchrun that was killed -9, at most", slowest, n=n)
    step = checkpoint.newest(out).record["step"]
    settings = (*SETTINGS, "train.steps=100000", "train.warmup_images=0", "train.decay=0.0")
    ended = ranking.forked(2, tmp_path / "ranks", lambda ranks: tiny.run(whole, *settings, stop=ranking.Stop(step), ranks=ranks))
    assert [each.code for each in ended] == [75, 75]
    assert killing.weights_digest(out) == killing.weights_digest(whole)
