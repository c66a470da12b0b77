"""`galaxysd data`: arguments, exit codes and what is printed."""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from galaxysd.data import command


def call(*words: str) -> int | None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    content = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(content, "PNG")
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"image": [content.getvalue(), b"no"], "bar_yes": [3, 4], "mood": ["a", "b"]}), path)
    return path


def test_import_says_what_became_of_the_table(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert call("import", str(table), "--images", "image", "--labels", "bar_yes", "--labels", "mood", "--out", str(out)) == 0
    told = capsys.readouterr().out
    assert f"{out}: 1 of 2 galaxies" in told
    assert "votes: bar_yes" in told
    assert "kept as they are, not votes: mood" in told
    assert "left out: 1 rows" in told
    assert "1 x neither JPEG nor PNG" in told


def test_import_as_json(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("import", str(table), "--images", "image", "--out", str(tmp_path / "set"), "--json")
    report = json.loads(capsys.readouterr().out)
    assert (report["kept"], report["rejected"][0]["row"]) == (1, 1)


def test_check_leaves_with_0_or_2(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", str(written)) == 0
    told = capsys.readouterr().out
    assert "52 synthetic galaxies in 4 shards, flux" in told
    assert "every byte as written" in told
    (written / "data" / "shard-00003.parquet").unlink()
    assert call("check", str(written)) == 2
    assert "problem: " in capsys.readouterr().out
    assert call("check", str(written), "--json") == 2
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_help_needs_no_torch() -> None:
    code = "import sys, galaxysd.data.command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
