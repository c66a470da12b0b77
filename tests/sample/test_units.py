"""Units side by side: in order, fewer at once when memory runs out, and one that cannot fit is said."""

from __future__ import annotations

import threading

import pytest
import torch

from galaxysd.errors import BadInput, Unavailable
from galaxysd.sample.units import asked_for, together

WORDS = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB of which 15.50 MiB is free."


class Small:
    """Draws a unit into memory that holds `most` units at once, and keeps which it drew, and how many there were together."""

    def __init__(self, most: int) -> None:
        self.most, self.now, self.peak, self.drawn = most, 0, 0, []
        self.changed = threading.Condition()

    def __call__(self, unit: int) -> torch.Tensor:
        with self.changed:
            self.now += 1
            full = self.now > self.most
            self.peak = max(self.peak, self.now)
            self.changed.notify_all()
            # In memory until there is one too many, or surely none to come.
            self.changed.wait_for(lambda: self.peak > self.most, timeout=0.2)
            self.now -= 1
        if full:
            self.peak = 0
            raise torch.OutOfMemoryError(WORDS)
        self.drawn.append(unit)
        return torch.full((2,), float(unit))


def test_all_at_once_where_there_is_room(capsys):
    draw = Small(4)
    found, crew = together(draw, [5, 3, 8, 1], 4, str)
    assert [int(each[0]) for each in found] == [5, 3, 8, 1]
    assert (crew, draw.peak) == (4, 4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("most", "crew"), [(3, 2), (1, 1)])
def test_fewer_at_once_where_memory_runs_out(most: int, crew: int, capsys):
    draw = Small(most)
    found, fits = together(draw, list(range(6)), 4, str)
    assert [int(each[0]) for each in found] == list(range(6))
    assert sorted(draw.drawn) == list(range(6))  # what was drawn is not drawn again
    assert fits <= crew
    said = capsys.readouterr().err
    assert "out of memory with 4 units at once (asked for 20.00 MiB); 2 from here on, to the same bytes" in said


def test_a_unit_that_cannot_fit_is_named_with_what_it_asked_for():
    with pytest.raises(Unavailable, match=r"unit 7: does not fit in memory by itself \(asked for 20.00 MiB\); free") as caught:
        together(Small(0), [7, 9], 2, lambda unit: f"unit {unit}")
    assert caught.value.exit_code == 4


def test_another_error_is_no_lack_of_memory():
    def broken(unit: int) -> torch.Tensor:
        raise BadInput(f"unit {unit} is damaged")

    with pytest.raises(BadInput, match="unit 2 is damaged"):
        together(broken, [2, 3], 2, str)


def test_words_without_a_size_are_given_as_they_are():
    assert asked_for(torch.OutOfMemoryError("no room\nat all")) == "no room"
