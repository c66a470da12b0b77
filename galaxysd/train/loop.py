"""The training loop, for any task: batches in a seeded order, steps, a log, checkpoints, and a resume that is bit-exact.

A step is a function of (weights, step number): which galaxies, symmetries, dropped conditions and noise it sees are drawn from
counters. So a checkpoint is weights, moments and a number, and a run that was killed and run again ends in the same bytes.

Of several ranks each takes its rows of every batch; the first alone holds the folder, writes and prints.
"""

from __future__ import annotations

import math
import platform
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import galaxysd
from galaxysd import checkpoint, files, host
from galaxysd.config import Config
from galaxysd.data.galaxies import Galaxies
from galaxysd.data.readers import GalaxySet, Source
from galaxysd.diffusion.denoiser import resolve_layout
from galaxysd.distributed import ALONE, Ranks, Share
from galaxysd.errors import GalaxySDError, Mismatch, Stopped, Unavailable
from galaxysd.model.layers import laid_out, recomputing
from galaxysd.runlog import Log, Mute, Progress, StopSignals
from galaxysd.train import folder, plan
from galaxysd.train.compiling import compiled, resolve_compile
from galaxysd.train.feed import Feed, Part, placed
from galaxysd.train.step import Numbers, Optimiser


class Task(Protocol):
    """What is learned: a network and its loss. The generator and the classifier are two of these.

    `prepare` makes of some rows of a batch, on the CPU and ahead of time, what the module that `objective` gives turns into their loss.
    """

    kind: str
    blocks: tuple[type[nn.Module], ...]  # what its network repeats
    config: Config
    device: torch.device
    dtype: torch.dtype

    def build(self) -> nn.Module: ...
    def about(self) -> dict[str, Any]: ...
    def prepare(self, galaxies: Galaxies, step: int, share: Share) -> Part: ...
    def objective(self, net: nn.Module, layout: torch.memory_format) -> nn.Module: ...


@dataclass(frozen=True)
class Piece:
    """One call's share of a run: from `began`, for `minutes`; 0 goes on to the end. It changes no byte of what the run ends in."""

    minutes: float = 0.0
    began: float = field(default_factory=time.monotonic)
    cpu_began: float = field(default_factory=host.cpu_seconds)

    def __post_init__(self) -> None:
        if not 0 <= self.minutes < math.inf:
            raise GalaxySDError(f"--piece {self.minutes:g}: minutes after which this call stops; give a positive number")

    @property
    def over(self) -> bool:
        return self.minutes > 0 and time.monotonic() - self.began >= 60 * self.minutes


@dataclass(frozen=True)
class Spent:
    """What a run took so far, over all its calls: the work that its newest checkpoint holds."""

    cpu_seconds: float = 0.0  # of all threads and of processes that rendered, from the start of each call
    calls: int = 0
    machines: tuple[str, ...] = ()  # by name of processor or card

    @classmethod
    def of(cls, record: dict[str, Any]) -> Spent:
        return cls(float(record.get("cpu_seconds", record["seconds"])), int(record.get("calls", 1)), tuple(record.get("machines", ())))

    def more(self, cpu_seconds: float, machine: str) -> Spent:
        machines = self.machines if machine in self.machines else (*self.machines, machine)
        return Spent(self.cpu_seconds + cpu_seconds, self.calls + 1, machines)

    def to_json(self) -> dict[str, Any]:
        return {"cpu_seconds": round(self.cpu_seconds, 3), "calls": self.calls, "machines": list(self.machines)}


@dataclass(frozen=True)
class Result:
    """What a finished run left: its newest checkpoint, and how far it came."""

    run: Path
    checkpoint: Path
    steps: int
    images: int
    seconds: float
    loss: float
    device: str
    spent: Spent


class NonFinite(GalaxySDError):
    """The loss or a gradient stopped being a number."""


class OutOfMemory(Unavailable):
    """A step asks for more than the device has."""


def train(
    task: Task,
    source: Source,
    out: Path,
    stop: StopSignals,
    *,
    after: Callable[[Path, int], object] | None = None,
    piece: Piece | None = None,
    ranks: Ranks = ALONE,
) -> Result:
    """Trains until the first of the config's limits, or of this call's piece; continues what `out` holds when it is the same run."""
    config = task.config.train
    if not (config.steps or config.images or config.minutes):
        raise ranks.alike(GalaxySDError("nothing says when to stop: give --steps, --images or --minutes"))
    shares = ranks.shares(config.batch, config.accumulate)
    with ExitStack() as hold:
        ranks.first(lambda: folder.take(out, hold))
        return _Run(task, source, out, stop, after, piece or Piece(), ranks, shares).go()


def _shown(after: Callable[[Path, int], object], saved: Path, step: int) -> None:
    after(saved, step)


class _Run:
    """One run in one folder, as one rank sees it."""

    def __init__(
        self,
        task: Task,
        source: Source,
        out: Path,
        stop: StopSignals,
        after: Callable[[Path, int], object] | None,
        piece: Piece,
        ranks: Ranks,
        shares: list[Share],
    ) -> None:
        self.task, self.source, self.out, self.stop, self.after, self.piece = task, source, out, stop, after, piece
        self.ranks, self.shares = ranks, shares
        self.config = task.config.train
        self.threads = self.config.threads or torch.get_num_threads()
        self.layout = resolve_layout(self.config.layout, task.device, task.dtype)
        self.compiles = resolve_compile(self.config.compile, task.device)
        self.trained_on = ranks.first(source.describe)
        self.step, self.seconds, self.loss, self.norm = 0, 0.0, float("nan"), float("nan")
        self.numbers = Numbers()
        self.stopping = self.over = False  # asked to stop, or at the end of the piece, on any rank
        self.before = Spent()  # in earlier calls
        self.net: nn.Module
        self.learner: nn.Module
        self.optimiser: Optimiser

    def description(self) -> dict[str, Any]:
        """What must be the same for a folder to be continued: not ranks, parts of a step or what is computed again, which save memory."""
        config = self.task.config
        return {
            "kind": self.task.kind,
            "config": replace(config, train=replace(config.train, accumulate=1, recompute=False)).to_json(),
            "trained_on": self.trained_on,
            "dtype": str(self.task.dtype).removeprefix("torch."),
            "layout": "nhwc" if self.layout is torch.channels_last else "nchw",
            "device": self.task.device.type,
            "threads": self.threads,
            **({"compiled": True} if self.compiles else {}),  # not said of others: earlier runs were none, and go on
            **self.task.about(),
        }

    def go(self) -> Result:
        own = {"chunks": list(self.source.chunk_rows), **self.description(), "threads": 0, "config": self.task.config.to_json()}
        self.ranks.same("settings, data or versions", own)
        self.threads, self.compiles = self.ranks.first(self._claim)
        # Bytes are promised to one rank; of several, none takes more threads than it was started with.
        torch.set_num_threads(self.threads if self.ranks.world == 1 else min(self.threads, torch.get_num_threads()))
        self.net = laid_out(self.task.build(), self.layout)
        if self.config.recompute:
            recomputing(self.net)
        self.optimiser = Optimiser(self.net, self.config)
        with Log(self.out / "log.jsonl") if self.ranks.leads else Mute() as log:
            self._resume(log)
            objective = self.task.objective(self.net, self.layout)
            self.learner = self.ranks.learner(compiled(objective, self.task.blocks, self.task.device) if self.compiles else objective)
            if self.done() < 1:
                self._steps(log)
            saved = self.save()
            log.write(step=self.step, images=self.images, loss=self.loss, seconds=round(self.seconds, 1), saved=saved.name)
        if self.done() < 1:
            why = f"after a piece of {self.piece.minutes:g} minutes, " if self.over and not self.stopping else ""
            raise self.ranks.alike(
                Stopped(
                    f"{self.out}: {why}stopped at step {self.step} and saved {saved.name} ({self.done():.0%} of the run); "
                    "the same command goes on from there"
                )
            )
        self._after(saved)
        spent = Spent.of(self.ranks.first(lambda: checkpoint.verify(saved)))
        return Result(self.out, saved, self.step, self.images, self.seconds, self.loss, self.task.device.type, spent)

    def _steps(self, log: Log | Mute) -> None:
        """Steps until a limit is reached or a stop is asked for."""
        began, last_save, last_grid = time.monotonic() - self.seconds, time.monotonic(), time.monotonic()
        feed = Feed(self.task, self.source, self.config.seed, self.shares, self.layout, self.task.device, self.ranks.world)
        stream, first = feed.start(self.step), self.step
        meter = Progress("train", total=self._total(), done=self.images, unit="img") if self.ranks.leads else Mute()
        with closing(stream), meter as progress:
            self._look()
            while self.done() < 1 and not (self.stopping or self.over):
                self._step(next(stream))
                if self.compiles and self.step == first + 1:
                    self._read()
                    log.write(step=self.step, first_step_seconds=round(time.monotonic() - self.seconds - began, 1))
                self.seconds, save, grid = self._look(*(time.monotonic() - since for since in (began, last_save, last_grid)))
                if self.step % max(self.config.log_steps, 1) == 0:
                    self._read()
                    log.write(step=self.step, images=self.images, loss=self.loss, gradient=self.norm, seconds=round(self.seconds, 1))
                progress.update(self.config.batch, note=f"loss {self.loss:.3f}")
                if 0 < 60 * self.config.save_minutes < save or (self.config.save_steps and self.step % self.config.save_steps == 0):
                    self.save()
                    last_save = time.monotonic()
                if self.after and 0 < 60 * self.config.grid_minutes < grid:
                    self._after(self.save())
                    last_grid = time.monotonic()

    def _step(self, parts: list[Part]) -> None:
        try:
            loss = self._gradients(parts)
            self.numbers.add(loss, self.optimiser.step(self.images, self.done(), loss))
        except torch.OutOfMemoryError as error:
            rows, said = self.shares[0].rows, str(error).splitlines()[0]
            raise OutOfMemory(
                f"{self.out}: step {self.step} at {rows} images a time does not fit into {self.task.device} ({said}); "
                f"the same command goes on with {plan.less_memory(self.config, rows)}"
            ) from error
        self.step += 1

    def _gradients(self, parts: list[Part]) -> Tensor:
        """Leaves the mean gradient of a batch in the weights, of the rows of all ranks; gives the mean loss of this one's."""
        many, losses = len(parts), []
        for number, part in enumerate(parts):

            def loss(part: Part = part) -> Tensor:
                value: Tensor = self.learner(*placed(part, self.task.device))
                return value if many == 1 else value / many

            losses.append(self.ranks.backward(self.learner, loss, last=number == many - 1))
        return losses[0] if many == 1 else torch.stack(losses).sum()

    def _read(self) -> None:
        """Waits for the numbers of the steps since the last look; all ranks refuse the first that is none, before anything is saved."""
        if not len(self.numbers):
            return
        losses, norms = self.numbers.read()
        table = torch.stack((self.ranks.mean(losses), norms), 1)
        bad = (~torch.isfinite(table)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise self._none(("loss", "gradient")[column], self.step - len(table) + row, float(table[row, column]))
        self.loss, self.norm = table[-1].tolist()

    def _look(self, *passed: float) -> list[float]:
        """Looks whether to stop, which all ranks do after the same step; gives the seconds `passed` by the slowest clock."""
        # A piece is over only after a step: the shortest one gets on.
        mine = (self.stop.requested or self.ranks.orphaned, bool(passed) and self.piece.over, *passed)
        stopping, over, *passed_by_all = self.ranks.most(mine)
        self.stopping, self.over = bool(stopping), bool(over)
        return passed_by_all

    def _after(self, saved: Path) -> None:
        """Shows what a checkpoint draws; the others wait for it."""
        after = self.after
        if after is not None:
            self.ranks.first(lambda: _shown(after, saved, self.step))

    @property
    def images(self) -> int:
        return self.step * self.config.batch

    def done(self) -> float:
        """How much of the run is behind, by whichever limit is nearest; 1 and more is finished."""
        config = self.config
        shares = [
            self.step / config.steps if config.steps else 0.0,
            self.images / config.images if config.images else 0.0,
            self.seconds / (60 * config.minutes) if config.minutes else 0.0,
        ]
        return max(shares)

    def _total(self) -> int | None:
        limits = [self.config.steps * self.config.batch, self.config.images]
        return min((limit for limit in limits if limit), default=None)

    def _claim(self) -> tuple[int, bool]:
        """Writes what this run is, or compares with what the folder says it is; how many threads it was begun with, and if compiled."""
        path = self.out / "run.json"
        if not path.exists():
            folder.refuse_foreign(self.out)
            versions = {"galaxysd": galaxysd.__version__, "torch": torch.__version__, "python": platform.python_version()}
            if isinstance(self.source, GalaxySet):
                # Their digest stands in `trained_on`: who wonders whether a galaxy was trained on can look.
                text = "\n".join(self.source.hashed_ids())
                files.commit(self.out / "trained_on.ids", lambda file: file.write(text.encode()))
            files.commit_json(path, {"run": self.description(), "versions": versions, "machine": host.processor(self.task.device.type)})
            return self.threads, self.compiles
        record = files.read_json(path)
        theirs = record.get("run") if isinstance(record, dict) else None
        if not isinstance(theirs, dict):
            raise Mismatch(f"{path}: does not say what run this is; the file is damaged, use another --out")
        # Decided when the run began, for sums depend on it.
        if not self.config.threads and isinstance(theirs.get("threads"), int):
            self.threads = theirs["threads"]
        if self.config.compile == "auto":
            self.compiles = "compiled" in theirs
        for name, here, there in folder.differences(self.description(), theirs):
            raise Mismatch(f"{self.out}: holds another run: {name} is {there!r} there and {here!r} here; use another --out")
        return self.threads, self.compiles

    def _resume(self, log: Log | Mute) -> None:
        """Takes the newest good checkpoint, which the first rank chooses; afterwards all ranks hold the same weights."""
        name, record, refused = self.ranks.first(self._newest)
        if name:
            found = checkpoint.Restored(self.out / "checkpoints" / name, record, tuple(refused))
            self.ranks.together(lambda: self._restore(found))
            log.truncate(self.step)
            log.write(resumed=self.step, refused=list(found.refused))
        if self.ranks.world > 1:
            self.ranks.same("weights", checkpoint.content_digest({n: t.cpu() for n, t in self.optimiser.state().items()}))

    def _newest(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        found = checkpoint.newest(self.out)
        if found is None:
            return "", {}, ()
        for refusal in found.refused:
            print(f"galaxysd: {refusal}; going on from {found.folder.name}", file=sys.stderr)
        return found.folder.name, found.record, found.refused

    def _restore(self, found: checkpoint.Restored) -> None:
        averaged, state = found.file("model").tensors, found.file("training").tensors
        checkpoint.agree(self.net, averaged, found.folder)
        self.optimiser.restore(averaged, state)
        self.step, self.seconds, self.before = int(found.record["step"]), float(found.record["seconds"]), Spent.of(found.record)

    def save(self) -> Path:
        """Commits a checkpoint, by the first rank while the others wait; gives its folder."""
        self._read()
        cpu = self.ranks.total(host.cpu_seconds() - self.piece.cpu_began)
        return self.out / "checkpoints" / self.ranks.first(lambda: self._save(cpu).name)

    def _save(self, cpu: float) -> Path:
        about = {
            "kind": self.task.kind,
            "config": self.task.config.to_json(),
            "trained_on": self.trained_on,
            "step": self.step,
            "images": self.images,
            **self.task.about(),
        }
        model = checkpoint.packed(self.optimiser.averaged(), about)
        training = checkpoint.packed(self.optimiser.state(), {**about, "kind": "training"})
        spent = self.before.more(cpu, host.processor(self.task.device.type))
        return checkpoint.save(self.out, self.step, model, training, {"seconds": self.seconds, **spent.to_json()})

    def _none(self, what: str, step: int, value: float) -> GalaxySDError:
        good = checkpoint.newest(self.out)
        last = f"the last good checkpoint is {good.folder}" if good else "no checkpoint had been saved"
        return self.ranks.alike(
            NonFinite(
                f"{self.out}: the {what} of step {step} is {value}; nothing of this step was kept, nor of what followed until step "
                f"{self.step}, {last}; lower train.learning_rate or look at the data of this step"
            )
        )
