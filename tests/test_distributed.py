"""What ranks tell each other: everyone's error when it is one's, nothing when there is one rank, no waiting for the dead."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from galaxysd import checkpoint, distributed, runlog
from galaxysd.distributed import ALONE, Ranks, Share
from galaxysd.errors import BadInput, GalaxySDError, Mismatch, Stopped, Unavailable
from tests import killing, ranking, tiny

CALLS = ("init_process_group", "destroy_process_group", "new_group", "all_reduce", "broadcast", "all_gather", "barrier")


class Of(Ranks):
    """A rank that has nobody to talk to."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (1, 4), (2, 1), (2, 3), (4, 3), (12, 1)])
def test_shares_tile_the_batch_in_the_order_of_ranks(world: int, accumulate: int):
    shares = [share for rank in range(world) for share in Of(rank, world).shares(12, accumulate)]
    assert len(shares) == world * accumulate
    assert {(share.rows, share.batch) for share in shares} == {(12 // (world * accumulate), 12)}
    assert torch.cat([share.places() for share in shares]).tolist() == list(range(12))


@pytest.mark.parametrize(
    ("batch", "world", "accumulate", "words"),
    [
        (6, 4, 1, "train.batch: 6 rows do not divide by 4 ranks; use 4 or 8, or another number"),
        (6, 1, 4, "train.batch: 6 rows do not divide by train.accumulate 4; use 4 or 8"),
        (64, 3, 4, "train.batch: 64 rows do not divide by 3 ranks x train.accumulate 4; use 60 or 72"),
        (2, 4, 1, "train.batch: 2 rows do not divide by 4 ranks; use 4, or another number"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(batch: int, world: int, accumulate: int, words: str):
    for rank in (0, world - 1):
        with pytest.raises(GalaxySDError, match=words) as refused:
            Of(rank, world).shares(batch, accumulate)
        assert refused.value.told == (rank > 0)  # one rank says it


@pytest.mark.parametrize(
    ("told", "device", "kind", "words"),
    [
        ({"WORLD_SIZE": "2"}, "cpu", BadInput, "RANK: '' in the environment, a number expected"),
        ({"WORLD_SIZE": "0"}, "cpu", BadInput, "WORLD_SIZE: '0' in the environment"),
        ({"WORLD_SIZE": "two"}, "cpu", BadInput, "WORLD_SIZE: 'two' in the environment, a number expected"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"}, "cpu", BadInput, "RANK: 2, and WORLD_SIZE is 2"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
            "cpu",
            Unavailable,
            "rank 0: the 2 ranks did not find each other .*MASTER_ADDR",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
            "cuda:1",
            GalaxySDError,
            "--device cuda:1: each of several ranks takes its own",
        ),
        ({"WORLD_SIZE": "99", "RANK": "98", "LOCAL_RANK": "98"}, "cuda", Unavailable, r"99 ranks or more on a machine with \d+ cards"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(monkeypatch, told: dict[str, str], device: str, kind: type, words: str):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kind, match=words), distributed.ranks(device):
        pass
    assert not dist.is_initialized()


def test_one_rank_makes_no_call_of_torch_distributed(monkeypatch, tmp_path: Path):
    for name in CALLS:
        monkeypatch.setattr(dist, name, None)
    monkeypatch.setattr(distributed, "DistributedDataParallel", None)
    for world in (None, "1"):
        if world:
            monkeypatch.setenv("WORLD_SIZE", world)
        with distributed.ranks() as ranks:
            assert ranks is ALONE
            tiny.run(tmp_path / f"run-{world}", "train.steps=2", "train.accumulate=2", ranks=ranks)


def test_what_ranks_tell_each_other(tmp_path: Path):
    def work(ranks: Ranks):
        order = []
        given = ranks.first(lambda: {"from": ranks.rank, "text": "é" * 300})
        own = ranks.together(lambda: ranks.rank)
        ranks.in_turn(lambda: (time.sleep(0.3 if ranks.leads else 0), order.append(time.monotonic())))
        ranks.same("words", {"a": 1, "b": [2.5]})
        most = ranks.most([ranks.rank, -ranks.rank, 1e300])
        return given, own, most, ranks.total(ranks.rank + 0.5), float(ranks.mean(torch.tensor(ranks.rank + 1.0))), order[0]

    ended = ranking.forked(3, tmp_path, work)
    assert [each.code for each in ended] == [0, 0, 0], ended
    for rank, each in enumerate(ended):
        given, own, most, total, mean, _ = each.value
        assert given == {"from": 0, "text": "é" * 300}
        assert (own, most, total, mean) == (rank, [2, 0, 1e300], 4.5, 2.0)
    assert all(each.value[-1] >= ended[0].value[-1] for each in ended)  # the first rank did it before the others


def refuse(kind: type[GalaxySDError], words: str):
    raise kind(words)


@pytest.mark.parametrize(
    ("work", "code", "who", "words"),
    [
        (lambda ranks: ranks.first(lambda: refuse(Mismatch, "held by another")), 3, 0, "held by another"),
        (lambda ranks: ranks.first(lambda: refuse(Stopped, "a piece is over")), 75, 0, "a piece is over"),
        (lambda ranks: ranks.together(lambda: ranks.rank == 1 and refuse(Unavailable, "no such card here")), 4, 1, "no such card here"),
        (lambda ranks: ranks.together(lambda: refuse(BadInput, "no such preset")), 2, 0, "no such preset"),
        (lambda ranks: ranks.same("data", ranks.rank == 1), 3, 0, "rank 1 has other data than rank 0; give every rank the same"),
    ],
)
def test_one_ranks_error_is_everyones_and_said_once(tmp_path: Path, work, code: int, who: int, words: str):
    ended = ranking.forked(2, tmp_path, work)
    assert [each.code for each in ended] == [code, code], ended
    assert words in ended[who].err
    assert ended[1 - who].err == ""


@pytest.mark.parametrize("where", ["first", "most", "backward"])
def test_nobody_waits_for_the_dead(tmp_path: Path, where: str):
    """Rank 1 dies in the middle of things: the others leave within seconds with a sentence, not after the ten minutes of a step."""

    def work(ranks: Ranks):
        net = ranks.learner(torch.nn.Linear(2, 1))
        if ranks.rank == 1:
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        if where == "backward":
            ranks.backward(net, lambda: net(torch.ones(1, 2)).sum(), last=True)
        return ranks.most([1.0]) if where == "most" else ranks.together(lambda: 1)

    for _ in range(8 if where == "backward" else 1):  # its group once waited, now and then, for a thread that waited for it
        ended = ranking.forked(3 if where == "first" else 2, tmp_path, work, seconds=90)
        assert [each.code for each in ended] == [4, -signal.SIGKILL, 4][: len(ended)], ended
        assert "rank 0: another rank is gone or silent (" in ended[0].err
        assert all(each.err == "" for each in ended[2:])


def test_restarted_ranks_do_not_read_where_those_before_them_were(tmp_path: Path):
    def work(late: float) -> int:
        time.sleep(late * int(os.environ["RANK"]))  # the other is asked for before it has said where it is
        with distributed.ranks() as ranks:
            return int(ranks.total(1))

    store = ranking.launchers_store()
    for restart in range(2):
        ended = ranking.processes(2, tmp_path, lambda late=0.7 * restart: work(late), store=store, restart=restart)
        assert [(each.code, each.value) for each in ended] == [(0, 2), (0, 2)], ended


def test_parts_of_a_step_are_exchanged_once(tmp_path: Path):
    def work(ranks: Ranks) -> list[float]:
        plain = torch.nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            plain.weight.fill_(0)
        net, found = ranks.learner(plain), []
        for part, last in ((1.0, False), (2.0, False), (4.0, True)):
            ranks.backward(net, lambda part=part: net(torch.full((1, 1), part * (1 + ranks.rank))).sum(), last)
            found.append(float(plain.weight.grad))
        return found

    # Each adds up its own until the last part, and then holds the mean of both.
    assert [each.value for each in ranking.forked(2, tmp_path, work)] == [[1.0, 3.0, 10.5], [2.0, 6.0, 10.5]]


def test_a_bug_on_one_rank_ends_all_and_is_printed_there(tmp_path: Path):
    def work(ranks: Ranks):
        if ranks.rank == 1:
            raise ZeroDivisionError("a bug of ours")
        return ranks.most([1.0])

    ended = ranking.forked(2, tmp_path, work)
    assert [each.code for each in ended] == [4, 1]
    assert "ZeroDivisionError: a bug of ours" in ended[1].err
    assert "another rank is gone" in ended[0].err


def test_a_rank_whose_starter_died_says_so(tmp_path: Path):
    def work(ranks: Ranks):
        before, ranks.parent = ranks.orphaned, 0
        return before, ranks.orphaned

    assert [each.value for each in ranking.forked(2, tmp_path, work)] == [[False, True]] * 2


def test_a_share_that_is_all():
    assert Share.whole(3).places().tolist() == [0, 1, 2]


SETTINGS = ("train.batch=8", "train.log_steps=1", "train.save_steps=4")


def test_a_killed_rank_is_restarted_by_torchrun_and_the_run_ends_in_the_same_bytes(tmp_path: Path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    ranking.forked(2, tmp_path / "ranks", lambda ranks: tiny.run(whole, *SETTINGS, "train.steps=12", ranks=ranks).steps)
    started = ranking.torchrun(2, "tests.ranking", str(out), *SETTINGS, "train.steps=12", restarts=1, FALL="1:6")
    said, _ = started.communicate(timeout=100)
    assert started.returncode == 0, said
    assert "exitcode: -9" in said
    assert set(ranking.codes(out)) - {(0, 4)} == {(0, 0), (1, 0)}  # rank 0 left the dead one, unless torchrun ended it first
    assert [row["resumed"] for row in runlog.read(out / "log.jsonl") if "resumed" in row] == [4]
    assert killing.weights_digest(out) == killing.weights_digest(whole)
    assert not ranking.survivors(tmp_path)


def test_a_sigterm_to_torchrun_ends_all_ranks_with_75_and_they_go_on(tmp_path: Path):
    out, whole = tmp_path / "run", tmp_path / "whole"
    started = ranking.torchrun(2, "tests.ranking", str(out), *SETTINGS, "train.steps=100000", "train.warmup_images=0", "train.decay=0.0")
    ranking.until(lambda: len(ranking.steps(out)) > 2, started)
    started.terminate()
    said, _ = started.communicate(timeout=100)
    assert sorted(ranking.codes(out)) == [(0, 75), (1, 75)], said
    assert not ranking.survivors(tmp_path)
    step = checkpoint.newest(out).record["step"]
    assert f"stopped at step {step} and saved" in said
    assert ranking.steps(out)[-1] == step  # nothing done was lost
    settings = (*SETTINGS, "train.steps=100000", "train.warmup_images=0", "train.decay=0.0")
    for folder, begun in ((out, step), (whole, 0)):
        stop = ranking.Stop(step + 3 - begun)
        ended = ranking.forked(2, tmp_path / "ranks", lambda ranks, at=folder, s=stop: tiny.run(at, *settings, stop=s, ranks=ranks).steps)
        assert [each.code for each in ended] == [75, 75], ended
        assert checkpoint.newest(folder).record["step"] == step + 3
    assert killing.weights_digest(out) == killing.weights_digest(whole)
