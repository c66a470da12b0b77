"""`python -m benchmarks presets`: counts agree with a real network and with the page, rates follow from ceilings by arithmetic."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks import costs, presets, rows
from benchmarks.__main__ import main
from galaxysd import config as configs
from galaxysd.train.plan import plan
from tests.test_benchmarks_pace import pace_row
from tests.test_benchmarks_rows import kernel_row

PAGE = Path(__file__).parent.parent / "docs" / "presets.md"


@pytest.fixture(scope="module")
def smoke() -> costs.Cost:
    return costs.cost(configs.load("smoke-32"))


@pytest.mark.parametrize("name", configs.presets())
def test_the_page_says_what_the_presets_are(name):
    """What the page says of a preset is what the command prints; memory may differ between versions of torch, by little."""
    (line,) = list(presets.counted([costs.cost(configs.load(name))]))[2:]
    cells = [each.strip() for each in line.strip("|").split("|")]
    (written,) = [
        [each.strip() for each in row.strip("|\n").split("|")] for row in PAGE.read_text().splitlines() if row.startswith(f"| `{name}` |")
    ][:1]
    assert written[:5] == cells[:5]
    for mine, theirs in zip(cells[5:], written[5:], strict=True):
        found, said = ([float(number) for number in re.findall(r"[\d.]+", each)] for each in (mine, theirs))
        assert said == pytest.approx(found, rel=0.05, abs=1)
        assert re.sub(r"[\d.]+", "", mine) == re.sub(r"[\d.]+", "", theirs)  # the same units


def test_counts_are_those_of_a_dry_run(smoke):
    found = plan(configs.load("smoke-32"), torch.device("cpu"))
    assert smoke.parameters == found["parameters"]
    assert smoke.gflop == pytest.approx(found["gflop_forward_per_image"], abs=6e-4)
    kept = found["memory_mb"]["activations kept for backward"]
    state = smoke.parameters * costs.STATE / 2**20
    assert kept + state < smoke.train_held / 2**20 < 1.2 * (kept + state) + 4 * smoke.parameters / 2**20


@pytest.mark.parametrize("name", ["smoke-32", "judge-32"])
def test_memory_counted_without_data_is_that_of_a_real_step(name):
    config = configs.load(name)
    counted, real = costs.passed(config), costs.passed(config, device="cpu")
    for batch in (2, 6):
        for training in (True, False):
            assert costs.held(counted, batch, training) == pytest.approx(costs.held(real, batch, training), rel=0.01)


def test_bytes_grow_with_the_batch_as_two_batches_say():
    each = costs.passed(configs.load("smoke-32"))
    image, step = costs.traffic(each, training=True)
    with costs.Traffic() as moved:
        each.loss(16).backward()
    assert moved.total == pytest.approx(16 * image + step, rel=0.01)
    assert image > 1.5 * costs.traffic(each, training=False)[0]


def test_rates_by_hand(smoke):
    seconds = 3 * smoke.gflop / 2e3 + (smoke.train_bytes + smoke.step_bytes / 32) / 50e9
    assert smoke.train_rate(2.0, 50.0) == pytest.approx(1 / seconds)
    assert smoke.sample_rate(2.0, 50.0) == pytest.approx(smoke.sample_rate(2.0, 50.0, 1) / smoke.passes)
    assert smoke.sample_rate(2.0, 50.0, 1) == pytest.approx(1 / (smoke.gflop / 2e3 + smoke.forward_bytes / 50e9))
    assert smoke.train_rate(2.0, 1e12) == pytest.approx(2e3 / (3 * smoke.gflop))


def test_expected_stands_beside_measured(tmp_path, capsys):
    assert main(["presets", "--only", "smoke-32", "--only", "judge-32", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "CPU: not measured yet" in said
    assert "GPU: not measured on a GPU yet." in said
    rows.append(tmp_path / "pace-cpu.jsonl", pace_row())
    for name, value, unit in (("matmul", 700.0, "TFLOP/s"), ("copy", 4000.0, "GB/s")):
        base = {key: kernel_row()[key] for key in rows.EVERY if key != "kind"}
        rows.append(tmp_path / "kernels-gpu.jsonl", base | {"kind": "ceiling", "name": name, "value": value, "unit": unit})
    assert main(["presets", "--only", "smoke-32", "--only", "judge-32", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    cost = costs.cost(configs.load("smoke-32"))
    assert f"| `smoke-32` | {cost.train_rate(0.04, 10.0):.3g} | 32 | 0.04, 10 (`smoke-32`) | – | not measured | – |" in said
    assert f"| `smoke-32` | {cost.train_rate(700, 4000):.3g} | not measured | 700, 4e+03 (a matrix product) |" in said
    assert said.count("| `judge-32` | – | not measured | – | – | not measured | – | 1 | – |") == 2  # in float32, which no row is in


def test_a_card_by_its_ceilings(capsys, smoke):
    assert main(["presets", "--only", "smoke-32", "--tflops", "100", "--gb-per-s", "1000"]) == 0
    assert f"| `smoke-32` | {smoke.train_rate(100, 1000):.3g} | {smoke.sample_rate(100, 1000):.3g} | 57 |" in capsys.readouterr().out
    assert main(["presets", "--tflops", "100"]) == 2
    assert main(["presets", "--tflops", "100", "--gb-per-s", "0"]) == 2
    assert main(["presets", "--only", "smoke-23"]) == 2
    assert "--only smoke-23: no such preset; did you mean smoke-32?" in capsys.readouterr().err
