"""Kills a trainer, again and again, at random moments, and says where it died: at a step or inside a save.

Children are forked from a process that has imported everything once. A kill is either timed from outside, or struck by the child
itself at a drawn system call of its commit routine: the moments that matter most are short, and a clock seldom hits them.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from galaxysd import checkpoint, files
from galaxysd.train.step import Optimiser
from tests import tiny

CALLS = ("fsync", "link", "replace", "unlink", "rename")


@dataclass
class Kills:
    """What happened over a series of killed runs."""

    phases: Counter[str] = field(default_factory=Counter)
    digests: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def total(self) -> int:
        return sum(self.phases.values())


def weights_digest(run: Path) -> str:
    """The digest of everything a finished run holds: averaged weights, weights and moments."""
    found = checkpoint.newest(run)
    assert found is not None
    return f"{files.digest(found.folder / 'model.safetensors').sha256}:{files.digest(found.folder / 'training.safetensors').sha256}"


def kill_until(wanted: int, folder: Path, settings: tuple[str, ...], seed: int, seconds: float) -> Kills:
    """Runs the tiny trainer to its end over and over, killing it `wanted` times in all; each child gets up to about `seconds`."""
    draw, kills = random.Random(seed), Kills()
    while kills.total < wanted:
        out = folder / f"run-{kills.runs}"
        while not _one(out, settings, draw, kills, seconds, kills.total < wanted):
            pass
        kills.digests.append(weights_digest(out))
        kills.runs += 1
    return kills


def kill_one_run(out: Path, settings: tuple[str, ...], times: int, seed: int) -> int:
    """One run that dies `times` times, each after a drawn number of steps, before it may finish; gives how often it died."""
    draw, died = random.Random(seed), 0
    for _ in range(times):
        child = os.fork()
        if child == 0:
            _child(out, settings, mmap.mmap(-1, 1), strike=0, steps=draw.randrange(1, 6))
        _, status = os.waitpid(child, 0)
        died += os.WIFSIGNALED(status)
    _one(out, settings, draw, Kills(), 1.0, kill=False)
    return died


def _one(out: Path, settings: tuple[str, ...], draw: random.Random, kills: Kills, seconds: float, kill: bool) -> bool:
    """One child. True when it reached the end."""
    phase = mmap.mmap(-1, 1)
    strike = draw.randrange(1, 14) if kill and draw.random() < 0.5 else 0
    child = os.fork()
    if child == 0:
        _child(out, settings, phase, strike)
    if kill and not strike:
        _wait(child, draw.uniform(0.0, seconds))
    elif not kill:
        _wait(child, 60.0)
    else:
        _wait(child, 20 * seconds)
    ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"the trainer died of signal {os.WTERMSIG(status)}"
        kills.phases["save" if phase[0] else "step"] += 1
        return False
    assert os.WEXITSTATUS(status) == 0, f"the trainer left with {os.WEXITSTATUS(status)}"
    return True


def _wait(child: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.002)


def _child(out: Path, settings: tuple[str, ...], phase: mmap.mmap, strike: int, steps: int = 0) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    left = strike

    def counted(call):
        def made(*arguments, **options):
            nonlocal left
            if phase[0] and left:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return made

    save = checkpoint.save

    def saving(*arguments, **options):
        phase[0] = 1
        try:
            return save(*arguments, **options)
        finally:
            phase[0] = 0

    step = Optimiser.step

    def stepping(self, *arguments):
        nonlocal steps
        norm = step(self, *arguments)
        steps -= 1
        if steps == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return norm

    checkpoint.save, Optimiser.step = saving, stepping
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    code = 1
    try:
        tiny.run(out, *settings)
        code = 0
    finally:
        os._exit(code)
