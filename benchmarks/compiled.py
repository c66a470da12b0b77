"""Networks under torch.compile as further contestants: each within a limit of time, and why one is absent."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

import torch

from benchmarks.contest import Contest
from benchmarks.peers import words
from benchmarks.unets import wrapped
from galaxysd.diffusion.denoiser import Denoiser
from galaxysd.model.layers import laid_out

COMPILED, TUNED = "compiled", "max-autotune"


class Overdue(BaseException):
    """The compiler was not done in time: no Exception, which it would take for its own failure."""


def forms(name: str, among: Iterable[str]) -> list[str]:
    """The forms of a network that take part: eager, and those compiled."""
    return [each for each in among if each.partition(", ")[0] == name]


def those(
    sides: Mapping[str, Denoiser], limit: float | None, contestants: Callable[[dict[str, Denoiser]], Contest]
) -> tuple[Contest, dict[str, float], dict[str, str]]:
    """Each network compiled: the contestants, the seconds until each first ran, and why others are absent. None without a limit."""
    fast: Contest = {}
    took, absent = {}, {}
    for side, each in sides.items() if limit is not None else ():
        cuda = next(each.net.parameters()).is_cuda
        for mode in (COMPILED, TUNED) if cuda and side == "plain" else (COMPILED,):
            name, began = f"{side}, {mode}", time.monotonic()
            net = torch.compile(laid_out(each.net, each.layout), mode=TUNED if mode == TUNED else None)
            (call,) = contestants({name: wrapped(net, each)}).values()  # type: ignore[arg-type]
            try:
                with within(limit or 0.0):
                    call()
            except Overdue:
                absent[name] = f"not compiled within {limit:g} s"
            except RuntimeError as error:  # what the compiler cannot do is said in the row, and the others go on
                absent[name] = words(error)
            else:
                fast[name], took[name] = call, round(time.monotonic() - began, 1)
    return fast, took, absent


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises Overdue in the main thread when what is inside takes longer; a timer that ran before goes on."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Overdue

    began, handler = time.monotonic(), signal.signal(signal.SIGALRM, late)
    left, every = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - began)), every)
