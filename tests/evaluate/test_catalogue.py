from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from galaxysd.data.galaxies import Frame, Galaxies
from galaxysd.errors import Unavailable
from galaxysd.evaluate import catalogue
from galaxysd.evaluate.features import InMemory

Draw = Callable[..., Galaxies]


def test_what_is_not_installed_is_named(survey: Draw, frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None if name == "statmorph" else object())
    source = InMemory(survey(4, 1), frame)
    with pytest.raises(Unavailable, match=r"statmorph not installed \(pip install 'galaxysd\[eval\]'\)"):
        catalogue.compare(source, source, 4)


@pytest.mark.timeout(600)  # statmorph takes up to a second a galaxy
def test_gaussians_have_their_size_and_round_ones_their_concentration(survey: Draw, frame: Frame) -> None:
    pytest.importorskip("statmorph", reason="needs photutils and statmorph: the extra [eval]")
    rows = 24
    real = survey(rows, 2)
    real.images[5] = 0.0
    new = replace(survey(rows, 1, "new", larger=1.3), counts=real.counts)
    found = catalogue.compare(InMemory(new, frame), InMemory(real, frame), rows)
    assert found["flagged"]["held_out"]["hits"] >= 1
    assert found["flagged"]["generated"]["rows"] == rows
    size = found["quantities"]["rhalf_circ"]
    assert size["median"]["generated"] == pytest.approx(1.3 * size["median"]["held_out"], rel=0.1)
    assert size["wasserstein"]["beyond_floor"]
    for index in found["quantities"]["sersic_n"]["median"].values():
        assert index == pytest.approx(0.5, abs=0.1)  # a Gaussian's
    flag, *quantities = catalogue._one(real.images[5, 1].numpy(), 0.02)
    assert flag == catalogue.WORST
    assert all(each != each for each in quantities)  # NaN: nothing there
