"""Many processes that train one model: those torchrun started, or this one alone, which then says nothing to anybody.

What ranks tell each other beside gradients is small: numbers, and JSON of the first rank. It goes over gloo between CPUs, so that
a rank that died is noticed at once, also where gradients travel by NCCL.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from galaxysd.errors import BadInput, GalaxySDError, Mismatch, Stopped, Unavailable

T = TypeVar("T")

START_LIMIT = datetime.timedelta(minutes=5)  # until all ranks are there
STEP_LIMIT = datetime.timedelta(minutes=10)  # a rank that neither dies nor answers for so long ends the others
WAIT_LIMIT = datetime.timedelta(days=7)  # the first rank may render, save and draw as long as it lives
# Our buffers are constants: nobody sends them. torch 2.13 gave the option its second name.
SYNC_BUFFERS = {"forward_sync_buffers", "broadcast_buffers"} & inspect.signature(DistributedDataParallel).parameters.keys()
OPTIONS: dict[str, Any] = {max(SYNC_BUFFERS): False}
# Groups live as long as the process: whoever frees one holds the interpreter while it waits for the group's threads, and a thread
# that just finished an exchange waits for the interpreter.
KEPT: list[Any] = []
KINDS = {kind.exit_code: kind for kind in (GalaxySDError, Mismatch, Unavailable, Stopped)}


class Lost(Unavailable):
    """Another rank is gone."""


@dataclass(frozen=True)
class Share:
    """Some rows of a batch: `rows` of its `batch`, from place `first` on."""

    batch: int
    first: int
    rows: int

    @classmethod
    def whole(cls, batch: int) -> Share:
        return cls(batch, 0, batch)

    def places(self) -> Tensor:
        """The places of the rows in the batch, int64 [rows]."""
        return torch.arange(self.first, self.first + self.rows)


class Ranks:
    """This process among those that train together. Here it is alone: every question is answered on the spot."""

    rank, world = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this is the one rank that writes and prints."""
        return self.rank == 0

    @property
    def orphaned(self) -> bool:
        """Whether what started this rank died without stopping it."""
        return False

    def shares(self, batch: int, accumulate: int) -> list[Share]:
        """This rank's rows of every batch, in as many parts as a step accumulates."""
        parts = self.world * accumulate
        if batch % parts:
            ranks = [f"{self.world} ranks"] if self.world > 1 else []
            of = " x ".join(ranks + ([f"train.accumulate {accumulate}"] if accumulate > 1 else []))
            near = sorted({max(batch // parts, 1) * parts, -(-batch // parts) * parts})
            use = " or ".join(map(str, near))
            raise self.alike(
                GalaxySDError(f"train.batch: {batch} rows do not divide by {of}; use {use}, or another number of ranks or parts")
            )
        rows = batch // parts
        return [Share(batch, (self.rank * accumulate + part) * rows, rows) for part in range(accumulate)]

    def first(self, work: Callable[[], T]) -> T:
        """What `work` gives the first rank, which alone does it, on every rank: plain JSON. Its error is everyone's."""
        return work()

    def together(self, work: Callable[[], T]) -> T:
        """What `work` gives this rank, once it succeeded on all: one rank's error is everyone's, and that rank says it."""
        return work()

    def in_turn(self, work: Callable[[], T]) -> T:
        """What `work` gives this rank: the first rank does it before the others begin."""
        return work()

    def same(self, what: str, value: Any) -> None:
        """Refuses to go on when `value` is not the same JSON on all ranks."""

    def most(self, values: Sequence[float]) -> list[float]:
        """The largest of each number over the ranks."""
        return list(values)

    def total(self, value: float) -> float:
        """The sum of a number over the ranks."""
        return value

    def mean(self, loss: Tensor) -> Tensor:
        """The mean of a number over the ranks."""
        return loss

    def learner(self, net: nn.Module) -> nn.Module:
        """The network as it is trained: its gradients are the mean over the ranks."""
        return net

    def backward(self, net: nn.Module, loss: Callable[[], Tensor], last: bool) -> Tensor:
        """Computes a loss and adds its gradients up; ranks exchange them when it is the `last` of a step. Gives the loss."""
        value = loss()
        value.backward()
        return value.detach()

    def alike(self, error: GalaxySDError) -> GalaxySDError:
        """An error that every rank raises, to be said by the first."""
        error.told = not self.leads
        return error


ALONE = Ranks()


class Group(Ranks):
    """One of several ranks, with the process group running."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.parent = os.getppid()
        self.patient = dist.new_group(backend="gloo", timeout=WAIT_LIMIT)
        KEPT.extend((dist.group.WORLD, self.patient))

    @property
    def orphaned(self) -> bool:
        return os.getppid() != self.parent

    def first(self, work: Callable[[], T]) -> T:
        if not self.leads:
            answer = json.loads(self._heard())
            if "error" in answer:
                raise self.alike(KINDS[answer["exit_code"]](answer["error"]))
            given: T = answer["value"]
            return given
        try:
            value = work()
        except GalaxySDError as error:
            with contextlib.suppress(Lost):  # who has left already needs no telling
                self._tell(json.dumps({"error": str(error), "exit_code": error.exit_code}))
            raise
        self._tell(json.dumps({"value": value}))
        return value

    def together(self, work: Callable[[], T]) -> T:
        failure: GalaxySDError | None = None
        try:
            value = work()
        except GalaxySDError as error:
            failure = error
        found = self._wait(torch.tensor([failure.exit_code if failure else 0]))
        failed = [rank for rank, code in enumerate(found) if code]
        if failure is not None:
            failure.told = self.rank != failed[0]
            raise failure
        if failed:
            elsewhere = KINDS[found[failed[0]]](f"rank {failed[0]} could not go on")
            elsewhere.told = True  # that rank says why
            raise elsewhere
        return value

    def in_turn(self, work: Callable[[], T]) -> T:
        held: list[T] = []
        self.first(lambda: held.append(work()))
        return self.together(lambda: held[0] if held else work())

    def same(self, what: str, value: Any) -> None:
        text = json.dumps(value, sort_keys=True)
        digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")
        found = self._wait(torch.tensor([digest]))
        others = [rank for rank, each in enumerate(found) if each != found[0]]
        if others:
            raise self.alike(
                Mismatch(f"rank {others[0]} has other {what} than rank 0; give every rank the same command, files and versions")
            )

    def most(self, values: Sequence[float]) -> list[float]:
        numbers = torch.tensor(values, dtype=torch.float64)
        with self._talking():
            dist.all_reduce(numbers, dist.ReduceOp.MAX)
        found: list[float] = numbers.tolist()
        return found

    def total(self, value: float) -> float:
        return float(self._sum(torch.tensor(value, dtype=torch.float64)))

    def mean(self, loss: Tensor) -> Tensor:
        return self._sum(loss.detach().to("cpu", torch.float64)) / self.world

    def learner(self, net: nn.Module) -> nn.Module:
        with self._talking():
            return DistributedDataParallel(net, **OPTIONS)

    def backward(self, net: nn.Module, loss: Callable[[], Tensor], last: bool) -> Tensor:
        assert isinstance(net, DistributedDataParallel), "what learner() gave"
        with self._talking(), contextlib.nullcontext() if last else net.no_sync():
            return super().backward(net, loss, last)

    def _sum(self, value: Tensor) -> Tensor:
        with self._talking():
            dist.all_reduce(value)
        return value

    def _tell(self, text: str) -> None:
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        self._sent(torch.tensor([len(content)]))
        self._sent(content)

    def _heard(self) -> bytes:
        length = self._sent(torch.zeros(1, dtype=torch.int64))
        return bytes(self._sent(torch.empty(int(length), dtype=torch.uint8)).tolist())

    def _sent(self, content: Tensor) -> Tensor:
        with self._talking():
            self._finish(dist.broadcast(content, 0, group=self.patient, async_op=True))
        return content

    def _wait(self, mine: Tensor) -> list[int]:
        """One whole number of every rank, as soon as all have come."""
        found = [torch.empty_like(mine) for _ in range(self.world)]
        with self._talking():
            self._finish(dist.all_gather(found, mine, group=self.patient, async_op=True))
        return [int(each) for each in found]

    def _finish(self, work: Any) -> None:
        """Waits where a signal is heard."""
        pause = 0.0005
        while not work.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        work.wait()

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):
                raise
            reason = str(error).partition("]")[2].strip().partition(". ")[0] or str(error)
            raise self.alike(
                Lost(
                    f"rank {self.rank}: another rank is gone or silent ({reason}); its own lines say why; "
                    "the same command goes on from the last checkpoint"
                )
            ) from error


@contextlib.contextmanager
def ranks(device: str = "cpu") -> Iterator[Ranks]:
    """The ranks of this command, by what torchrun says in the environment; the process group ends however the work ends."""
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield ALONE
        return
    rank, local = _number("RANK"), _number("LOCAL_RANK")
    if rank >= world:
        raise BadInput(f"RANK: {rank}, and WORLD_SIZE is {world}; ranks are counted from 0; let torchrun start them")
    try:
        _start(_backend(device, local), rank, world)
        yield Group(rank, world)
    except KeyboardInterrupt as error:
        if rank == 0:
            raise
        stopped = Stopped("interrupted")
        stopped.told = True
        raise stopped from error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
            time.sleep(0.05)  # lets the group's threads have the interpreter for the last time


def _start(backend: str, rank: int, world: int) -> None:
    """Starts the process group. Ranks that torchrun restarted must not read the addresses of those before them."""
    try:
        store, _, _ = next(rendezvous("env://", rank, world, timeout=START_LIMIT))
        began = dist.distributed_c10d.PrefixStore(f"galaxysd-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}-{world}", store)
        dist.init_process_group(backend, store=began, rank=rank, world_size=world, timeout=STEP_LIMIT)
    except (RuntimeError, ValueError) as error:  # ValueError: a part of the address is missing
        raise Unavailable(f"rank {rank}: the {world} ranks did not find each other ({error}); let torchrun start them") from error


def _backend(device: str, local: int) -> str:
    """Over what gradients travel; on cuda each rank of a machine takes a card of its own."""
    if not device.startswith("cuda"):
        return "gloo"
    if device != "cuda":
        raise GalaxySDError(f"--device {device}: each of several ranks takes its own card; give --device cuda")
    cards = torch.cuda.device_count()
    if local >= cards:
        raise Unavailable(f"LOCAL_RANK: {local + 1} ranks or more on a machine with {cards} cards; use torchrun --nproc-per-node {cards}")
    torch.cuda.set_device(local)
    return "cpu:gloo,cuda:nccl"


def _number(name: str, otherwise: int | None = None) -> int:
    text = os.environ.get(name, "" if otherwise is None else str(otherwise))
    if not text.isdecimal() or (name == "WORLD_SIZE" and int(text) < 1):
        raise BadInput(f"{name}: {text!r} in the environment, a number expected; let torchrun start the ranks, or unset WORLD_SIZE")
    return int(text)
