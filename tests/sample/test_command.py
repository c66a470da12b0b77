"""`galaxysd sample` as a person runs it: what it prints and writes, and one galaxy of a set drawn again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import galaxysd
from galaxysd.cli import main
from galaxysd.data import readers
from galaxysd.runlog import Progress
from galaxysd.sample import command
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("command") / "run"
    tiny.run(out, "train.steps=4")
    return out


def test_batch_changes_no_byte(run: Path, tmp_path: Path, capsys):
    for batch in ("16", "4"):
        words = ["sample", str(run), "--ask", "edge-on", "--n", "10", "--seed", "5", "--batch", batch, "--out", str(tmp_path / batch)]
        assert main(words) == 0
    assert "smooth-or-featured: filled in as smooth-or-featured_featured=0.95" in capsys.readouterr().out
    assert (tmp_path / "16/data/shard-00000.parquet").read_bytes() == (tmp_path / "4/data/shard-00000.parquet").read_bytes()


def test_one_galaxy_of_a_set_again(run: Path, tmp_path: Path):
    """Row i of what was asked, at index i, is galaxy i."""
    asked = tmp_path / "asked.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"magnitude": [16.0 + 0.1 * i for i in range(7)], "redshift": [None, *[0.05] * 6]}), asked)
    assert main(["sample", str(run), "--like", str(asked), "--seed", "2", "--out", str(tmp_path / "all")]) == 0
    assert (
        main(
            ["sample", str(run), "--like", str(tmp_path / "all"), "--first", "5", "--n", "1", "--seed", "2", "--out", str(tmp_path / "one")]
        )
        == 0
    )
    whole, one = readers.open_set(tmp_path / "all").read(), readers.open_set(tmp_path / "one").read()
    assert one.ids == [whole.ids[5]]
    assert torch.equal(one.images[0], whole.images[5])


def test_png_and_fits_stand_beside_the_set(run: Path, tmp_path: Path, capsys):
    pytest.importorskip("PIL", reason="needs Pillow (galaxysd[data])")
    pytest.importorskip("astropy", reason="needs astropy (galaxysd[data])")
    out = tmp_path / "set"
    capsys.readouterr()
    assert main(["sample", str(run), "--n", "3", "--numbers", "magnitude=16.5", "--png", "--fits", "--json", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert len(list((out / "png").glob("*.png"))) == len(list((out / "fits").glob("*.fits"))) == 3
    assert (out / "grid.png").stat().st_size > 100
    assert readers.open_set(out).read().cond_numeric[:, 1].tolist() == [16.5] * 3
    (out / "grid.png").unlink()
    next((out / "fits").glob("*.fits")).unlink()  # as a full disk leaves it: the same command goes on
    assert main(["sample", str(run), "--n", "3", "--numbers", "magnitude=16.5", "--png", "--fits", "--out", str(out)]) == 0
    assert len(list((out / "fits").glob("*.fits"))) == 3
    assert (out / "grid.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--n", "0"], "--n 0: give at least 1"),
        (["--batch", "0"], "--batch 0"),
        (["--votes", ""], "votes: empty"),
        (["--ask", ""], "ask: empty"),
        (["--votes", "barred"], "'barred' has no value"),
        (["--guidance", "nan"], "guidance: nan"),
        (["--workers", "0"], "--workers 0"),
        (["--first", str(1 << 63)], "indices end at"),
        (["--device", "cdua"], "device cdua: no such device; did you mean cuda"),
        (["--ask", "egde-on"], "did you mean edge-on"),
        (["--votes", "bar_yes=2"], "bar_yes: 2 is not a fraction"),
        (["--ask", "smooth", "--votes", "bar_yes=1"], "not allowed with"),
        (["--numbers", "mangitude=16"], "did you mean magnitude"),
        (["--sampler", "huen"], "did you mean .*heun"),
        (["--like", "nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_bad_requests_exit_2_with_one_line(run: Path, tmp_path: Path, capsys, words, said):
    capsys.readouterr()
    assert main(["sample", str(run), *words, "--out", str(tmp_path / "set")]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_without_a_folder_galaxies_go_to_one_named_after_them(run: Path, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["sample", str(run), "--ask", "Barred spiral, 2 arms", "--n", "2", "--seed", "3"]
    assert main(words) == 0
    out = Path("galaxies/run-barred-spiral-2-arms-seed-3")
    assert f"2 galaxies in {out} (a set, png/, grid.png)" in capsys.readouterr().out
    assert len(readers.open_set(out)) == 2
    before = (out / "grid.png").read_bytes()
    assert main(words) == 0  # the same command: all is there
    assert (out / "grid.png").read_bytes() == before
    assert main([*words, "--guidance", "3.5"]) == 3
    assert "holds another set" in capsys.readouterr().err


def test_a_guide_is_named_in_what_it_led(run: Path, tmp_path: Path, capsys):
    earlier = tmp_path / "earlier"
    tiny.run(earlier, "train.steps=2")
    words = ["sample", str(run), "--n", "3", "--guidance", "2", "--seed", "4"]
    assert main([*words, "--guide", str(earlier), "--out", str(tmp_path / "led")]) == 0
    assert main([*words, "--out", str(tmp_path / "own")]) == 0
    led, own = (readers.open_set(tmp_path / name) for name in ("led", "own"))
    assert led.provenance["guide_sha256"] == galaxysd.load(earlier).digest.sha256
    assert "guide_sha256" not in own.provenance
    assert not torch.equal(led.read().images, own.read().images)
    assert led.read().ids == own.read().ids
    assert main([*words, "--guide", str(run), "--out", str(tmp_path / "led")]) == 3  # another set
    other = tmp_path / "other"
    tiny.run(other, "train.steps=2", "diffusion.sigma_max=40.0")
    capsys.readouterr()
    assert main([*words, "--guide", str(other), "--out", str(tmp_path / "set")]) == 2
    assert "diffusion.sigma_max is 40.0, that of " in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_it_says_how_fast_it_is_and_what_was_there_is_no_speed(run: Path, tmp_path: Path, capsys, monkeypatch):
    """Off a terminal a line a minute, here after every unit, and one at the end."""
    monkeypatch.setattr(command, "Progress", lambda label, **words: Progress(label, every=0.0, **words))
    words = ["sample", str(run), "--n", "24", "--batch", "4", "--shard-rows", "8", "--out", str(tmp_path / "set")]
    assert main(words) == 0
    said = capsys.readouterr().err
    assert re.search(r"sample: 12 of 24 img \(50%\), [\d.e+,]+ img/s, \d+ s left", said)
    assert re.search(r"sample: 24 img after \d+ s, [\d.e+,]+ img/s", said)
    (tmp_path / "set/manifest.json").unlink()
    assert main(words) == 0
    assert re.search(r"sample: 24 img after \d+ s, 0 img/s", capsys.readouterr().err)
