"""Units of work drawn side by side by threads; when memory runs out, fewer at a time: a unit's bytes know nothing of its company."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from galaxysd.errors import Unavailable

Unit = TypeVar("Unit")


def together(draw: Callable[[Unit], Tensor], units: Sequence[Unit], crew: int, name: Callable[[Unit], str]) -> tuple[list[Tensor], int]:
    """Draws units on up to `crew` threads: the images of each, in order, and how many at once there is memory for.

    Each unit is a call of its own. Units are never joined into a wider one to fill a GPU: another batch size can mean other kernels
    there, with other roundings, and a galaxy would then depend on how many were asked for.
    """
    found: dict[int, Tensor] = {}
    while missing := [place for place in range(len(units)) if place not in found]:
        at_once = min(crew, len(missing))
        lacking = _attempt(draw, units, missing, at_once, found)
        if not lacking:
            continue
        place, wanted = lacking[0]
        if at_once == 1:
            raise Unavailable(
                f"{name(units[place])}: does not fit in memory by itself ({wanted}); free what else uses the device, or take one with more "
                "memory: a galaxy keeps its bytes only in a unit of this size, so it is not made smaller"
            )
        crew = at_once // 2
        print(f"galaxysd: out of memory with {at_once} units at once ({wanted}); {crew} from here on, to the same bytes", file=sys.stderr)
    return [found[place] for place in range(len(units))], crew


def _attempt(
    draw: Callable[[Unit], Tensor], units: Sequence[Unit], missing: list[int], at_once: int, found: dict[int, Tensor]
) -> list[tuple[int, str]]:
    """Draws the missing units into `found`; gives those there was no memory for.

    Their errors are let go with this frame: they hold the tensors of the failed calls.
    """
    lacking = []
    with ThreadPoolExecutor(at_once) as pool:
        drawn = {place: pool.submit(draw, units[place]) for place in missing}
        for place, each in drawn.items():
            try:
                found[place] = each.result()
            except torch.OutOfMemoryError as error:
                lacking.append((place, asked_for(error)))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # what is wrong with one is said at once
                raise
    return lacking


def asked_for(error: torch.OutOfMemoryError) -> str:
    """How much memory was wanted, in torch's words."""
    said = re.search(r"Tried to allocate ([\d.]+ \w+)", str(error))
    return f"asked for {said[1]}" if said else str(error).splitlines()[0]
