"""The curves of a run: what its log holds, drawn anew each time, and what they are computed from."""

from __future__ import annotations

from pathlib import Path

import pytest

from galaxysd.runlog import Log
from galaxysd.train import curves

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")


def run(folder: Path, steps: int) -> Path:
    with Log(folder / "log.jsonl") as log:
        for step in range(1, steps + 1):
            log.write(step=step, images=64 * step, loss=1 / step, gradient=0.1, seconds=0.5 * step)
        log.write(step=steps, images=64 * steps, loss=0.5, seconds=0.5 * steps, saved="step-00000001")
    return folder


def test_they_are_drawn_from_the_log_and_drawn_anew(tmp_path: Path):
    path = curves.write(run(tmp_path, 5))
    assert path == tmp_path / "curves.png"
    before = path.read_bytes()
    with Image.open(path) as image:
        assert image.width > 3 * image.height
        colours = image.convert("RGB").getcolors(1 << 24)
    blue = tuple(int(curves.BLUE[place : place + 2], 16) for place in (1, 3, 5))
    assert any(count > 500 and colour == blue for count, colour in colours)  # the smooth lines
    assert curves.write(run(tmp_path, 40)).read_bytes() != before


def test_a_run_too_short_for_a_line_has_none(tmp_path: Path):
    assert curves.write(run(tmp_path, 1)) is None
    assert not (tmp_path / "curves.png").exists()


def test_rates_are_of_the_time_between_two_logged_steps():
    rows = [
        {"images": 100, "seconds": 2.0},
        {"images": 300, "seconds": 4.0},
        {"images": 320, "seconds": 4.0},
        {"images": 420, "seconds": 5.0},
    ]
    assert curves.rates(rows) == [50.0, 100.0, 100.0, 120.0]


def test_a_smooth_line_keeps_straight_ones_and_both_ends():
    line = [float(each) for each in range(100)]
    assert curves.smooth(line) == pytest.approx(line)
    flat = curves.smooth([0.0, 1.0] * 50)
    assert flat[0] == 0.0
    assert flat[-1] == 1.0
    assert all(0.3 < each < 0.7 for each in flat[10:-10])
