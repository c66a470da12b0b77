"""The models that ship: small, made of simulated galaxies alone, each with its card and a page that speaks of this very file."""

from __future__ import annotations

from pathlib import Path

import pytest

from galaxysd import checkpoint
from galaxysd.cli import main
from galaxysd.data import readers

PAGES = Path(__file__).parents[1] / "docs" / "models"
LARGEST = {"first-judge": 500_000, "demo-32": 6_000_000}  # bytes


def test_they_are_those_that_the_documents_name():
    assert set(checkpoint.bundled()) == set(LARGEST) == {page.stem for page in PAGES.glob("*.md")}


@pytest.mark.parametrize("name", LARGEST)
def test_a_page_is_of_the_file_that_ships(name):
    path = checkpoint.PRETRAINED / f"{name}.safetensors"
    found = checkpoint.read(path)
    assert found.digest.size <= LARGEST[name]
    card, page = found.about["card"], (PAGES / f"{name}.md").read_text()
    for said in (found.digest.sha256, f"{found.digest.size} bytes", f"`{card['command']}`", f"{card['images']} images"):
        assert said in page
    sources = card["data"].get("mixed", [card["data"]])
    assert {source["simulated"] for source in sources} <= {"atlas", "survey", "tutorial"}


def test_galaxies_straight_after_an_installation(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "demo-32", "--ask", "barred spiral, 2 arms", "--n", "2"]) == 0
    out = Path("galaxies/demo-32-barred-spiral-2-arms-seed-0")
    assert f"2 galaxies in {out}" in capsys.readouterr().out
    assert readers.open_set(out).read().images.shape == (2, 3, 32, 32)
    assert (out / "grid.png").stat().st_size > 500
