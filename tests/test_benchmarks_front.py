"""`python -m benchmarks` from outside: it starts with six packages, and says what a machine without a GPU cannot measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gate, gpu, profile, rows, tune
from benchmarks.__main__ import VERBS, main
from galaxysd.kernels import launching
from tests.test_benchmarks_pace import pace_row

ROOT = Path(__file__).parent.parent
# Finds none of the packages of the extras, which a GPU machine does not have, nor an installation of galaxysd.
BARE = """
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
extras = {"PIL", "astropy", "tqdm", "matplotlib", "scipy", "photutils", "statmorph", "ray", "onnx", "onnxruntime", "onnxscript"}
extras |= {"tensorrt", "timm", "hypothesis", "pytest_benchmark", "pytest_timeout"}
class Bare:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in extras else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Bare]
from benchmarks.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a CUDA device")


def bare(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", BARE, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)


@without_gpu
def test_a_smoke_run_needs_no_extras_and_leaves_no_rows():
    before = {path: path.read_bytes() for path in rows.RESULTS.glob("kernels-*.jsonl")} if rows.RESULTS.exists() else {}
    began = time.perf_counter()
    done = bare("kernels", "--smoke")
    assert done.returncode == 0, done.stderr[-2000:]
    assert time.perf_counter() - began < 60
    assert "no CUDA device" in done.stdout
    assert "the ratios decide nothing" in done.stdout
    assert "eager" in done.stdout
    after = {path: path.read_bytes() for path in rows.RESULTS.glob("kernels-*.jsonl")} if rows.RESULTS.exists() else {}
    assert after == before


def test_help_names_every_verb():
    done = bare("--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)
    assert bare("mesure").returncode == 2


@without_gpu
@pytest.mark.parametrize(("verb", "words"), [("gpu", "no CUDA device"), ("tune", "no CUDA device")])
def test_what_needs_a_gpu_explains_itself(verb, words, capsys):
    assert main([verb]) == 4
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_bad_values_are_refused(capsys):
    assert main(["gpu", "--minutes", "0"]) == 2
    assert main(["tune", "--op", "norm_aply"]) == 2
    assert "did you mean norm_apply?" in capsys.readouterr().err


@pytest.fixture
def plan(tmp_path):
    here = rows.provenance()
    return gpu.Plan(tmp_path / "kernels-gpu.jsonl", time.monotonic() + 600, here["commit"], here["card"])


def test_a_step_that_fails_is_recorded_and_the_next_goes_on(plan, monkeypatch):
    monkeypatch.setattr(rows, "_git", lambda *words: "" if words[0] == "status" else plan.commit)
    ran = []

    def fine(given):
        ran.append("fine")
        return "all well"

    def broken(given):
        ran.append("broken")
        raise RuntimeError("no such kernel")

    assert gpu.carried_out(plan, {"broken": broken, "fine": fine}) == (["broken"], [])
    kept = rows.read(plan.file)
    assert [(row["name"], row["ok"], row["said"]) for row in kept] == [
        ("broken", False, "RuntimeError: no such kernel"),
        ("fine", True, "all well"),
    ]
    # The same command again: what is done is not done again, what failed is tried.
    assert gpu.carried_out(plan, {"broken": broken, "fine": fine}) == (["broken"], [])
    assert ran == ["broken", "fine", "broken"]


def test_when_the_time_is_up_the_rest_is_named(plan):
    def slow(given):
        given.need(1e9)

    assert gpu.carried_out(plan, {"slow": slow, "tests": lambda _: "done"}) == ([], ["slow"])
    plan.until = 0
    assert gpu.carried_out(plan, {"late": lambda _: pytest.fail("it ran")}) == ([], ["late"])


def test_steps_at_full_width_leave_rows_and_are_not_measured_again(plan, monkeypatch):
    asked = []

    def measure(verb, preset, *rest, **named):
        asked.append((verb, preset))
        return pace_row(name=verb, preset=preset, card=plan.card, commit=plan.commit)

    monkeypatch.setattr(gpu.pace, "measure", measure)
    assert "train, `base-64`" in gpu.paces(plan)
    assert gpu.paces(plan) == "known"
    assert asked == [("train", "base-64"), ("sample", "base-64")]
    assert [row["name"] for row in rows.read(plan.file.parent / "pace-gpu.jsonl")] == ["train", "sample"]


def test_what_is_lacking_are_the_shapes_without_a_row_for_the_files_as_they_are():
    every = gpu.lacking([], "a card")
    row = {"kind": "kernel", "card": "a card", "case": every[0].case, "shape": str(every[0].shape)}
    digest = rows.digest(gpu.CASES[every[0].case])
    assert gpu.lacking([row | {"digest": digest}], "a card") == every[1:]
    assert gpu.lacking([row | {"digest": "older"}], "a card") == every
    assert gpu.lacking([row | {"digest": digest}], "another") == every


def test_device_time_falls_into_three_shares():
    times = {"_one_pass": 2.0, "sm90_xmma_fprop_implicit_gemm": 5.0, "vectorized_elementwise_kernel": 1.0}
    assert profile.shares(times, {"_one_pass"}) == {"ours": 0.25, "convolutions": 0.625, "rest": 0.125}
    assert profile.shares({}, set()) == {"ours": 0.0, "convolutions": 0.0, "rest": 0.0}


def test_every_row_of_the_tables_can_be_searched():
    assert {row.op for row in launching.rows().values()} == set(tune.GRID)
    for row in launching.rows().values():
        assert set(tune.GRID[row.op]) <= set(row.blocks)
    row = next(row for row in launching.rows().values() if row.op == "norm_forward")
    found = tune.candidates(row)
    assert row not in found
    assert {each.blocks["ROWS"] for each in found} == {row.blocks["ROWS"]}
    assert len({each.blocks["CHANNELS"] for each in found}) > 1


def test_a_preset_names_the_rows_it_takes():
    found = tune.searched("small-64", torch.bfloat16, 90)
    assert {"norm_forward", "norm_backward", "norm_apply"} <= {where[0] for where in found}
    assert all(where[2:] == ("bf16", 90) for where in found)


@pytest.mark.parametrize("file", sorted(launching.TABLES.glob("*.json")), ids=lambda path: path.stem)
def test_a_table_is_written_as_it_was_but_for_what_was_found(file):
    text = file.read_text()
    assert json.loads(tune.written(text, {})) == json.loads(text)
    first = launching.Row(**json.loads(text)[0])
    winner = launching.Row(first.op, first.shape, first.dtype, first.capability, first.blocks, 2 * first.warps, first.stages)
    changed = json.loads(tune.written(text, {gate.key(first): winner}))
    assert changed[0]["warps"] == 2 * first.warps
    assert changed[1:] == json.loads(text)[1:]


def test_a_candidate_is_taken_only_within():
    where, row = next(iter(launching.rows().items()))
    with tune.taken(launching.Row(row.op, row.shape, row.dtype, row.capability, row.blocks, 16, row.stages)):
        assert launching.rows()[where].warps == 16
    assert launching.rows()[where] is row
