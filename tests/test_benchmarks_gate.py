"""The compile gate: sm_90's rows compile to what they should, every row has a case and every case a row, and each fault is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import aot, compiling, gate
from benchmarks.__main__ import main
from galaxysd.kernels import launching
from galaxysd.kernels.cases import CASES, Shape

ROOT = Path(__file__).parent.parent


def compiles(*words: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks compile` in a process where kernels are compiled, not interpreted."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks", "compile", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.mark.timeout(300)  # three quarters of a minute on two quiet cores, and cores are not always quiet
def test_every_bf16_row_of_sm_90_compiles_without_faults():
    done = compiles("--capability", "90", "--dtype", "bf16", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    found = json.loads(done.stdout)
    assert found["faults"] == []
    rows = {
        (each["compiled"]["row"]["op"], each["compiled"]["row"]["shape"], each["compiled"]["row"]["dtype"]) for each in found["results"]
    }
    assert rows == {where[:3] for where in launching.rows() if where[2] == "bf16" and where[3] == 90}


@pytest.mark.parametrize("capability", launching.capabilities())
def test_every_row_has_a_case_and_every_case_a_row(capability):
    found, missing = gate.recorded([capability], "all")
    assert not missing
    assert not gate.unused(found, [capability])
    few, _ = gate.recorded([capability])
    assert not gate.unused(few, [capability])
    assert len(few) < len(found)


def test_a_row_without_a_case_and_a_case_without_a_row_are_faults(monkeypatch):
    table = dict(launching.rows())
    where = next(each for each in table if each[0] == "norm_apply" and each[3] == 90)
    stray = replace(table.pop(where), shape="of no map")
    monkeypatch.setattr(launching, "rows", lambda: table | {gate.key(stray): stray})
    found, missing = gate.recorded([90])
    assert any("norm" in each and str(where) in each for each in missing)
    assert any("of no map" in each and "no case uses this row" in each for each in gate.unused(found, [90]))


def test_the_heaviest_form_of_a_row_is_taken():
    shape = gate.shapes(CASES["norm"])[0]
    found = [
        gate.Form(each, name)
        for name in ("norm", "norm-dropout", "norm-adaptive")
        for each in gate.launches(CASES[name], shape, torch.bfloat16, 90)
    ]
    assert {each.case for each in gate.heaviest(found) if each.launch.row.op == "norm_forward"} == {"norm-dropout"}


def test_shapes_meet_every_class():
    assert {shape.second for shape in gate.shapes(CASES["norm-cat"])} == {64}
    assert {shape.height for shape in gate.shapes(CASES["norm"])} == set(gate.MAPS)
    assert Shape(2, 32, 32, 512, 4) in gate.shapes(CASES["attention"])
    assert Shape(2, 8, 8, 64, 4) in gate.shapes(CASES["attention"], every=True)


def result(kernel="_apply", op="norm_apply", capability=90, dtype="bf16", **changes):
    row = launching.Row(op, "any", dtype, capability, {}, 4, 1)
    fine = aot.Compiled(kernel, row, 64, spills=0, stack=0, wide_loads=8, narrow_loads=0, matrix={}, shared=1024, seconds=1.0)
    return gate.Result("norm", replace(fine, **changes))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (result(), []),
        (result(spills=3), ["3 spills"]),
        (result(stack=16), ["16 bytes of stack"]),
        (result(shared=300_000), ["300000 bytes of shared memory"]),
        (result(wide_loads=0), ["no wide loads"]),
        (result(kernel="_merge", wide_loads=0), []),
        (result(op="attention_tiled_forward", matrix={"HGMMA": 8}), []),
        (result(op="attention_tiled_forward", matrix={"HMMA": 8}), ["no HGMMA"]),
        (result(op="attention_tiled_forward", matrix={"HMMA": 8}, capability=80), []),
        (result(op="attention_tiled_forward", dtype="fp32"), []),
    ],
)
def test_each_fault_is_seen(made, words):
    found = made.faults
    assert len(found) == len(words)
    assert all(word in said for word, said in zip(words, found, strict=True))
    line = list(gate.table([made]))[1]
    assert (line.endswith("ok")) == (not words)


def test_faults_end_with_1_and_are_said(monkeypatch, capsys):
    monkeypatch.setattr(launching, "INTERPRETED", False)
    monkeypatch.setattr(compiling.gate, "gate", lambda *_: gate.Gate([result(spills=3)], ["norm_apply: 3 spills"]))
    assert main(["compile", "--capability", "90"]) == 1
    said = capsys.readouterr()
    assert "norm_apply: 3 spills" in said.out
    assert said.err == "benchmarks compile: 1 faults\n"


def test_what_cannot_be_compiled_is_said(monkeypatch, capsys):
    monkeypatch.setattr(launching, "INTERPRETED", True)
    assert main(["compile"]) == 4
    assert "TRITON_INTERPRET is set" in capsys.readouterr().err
    monkeypatch.setattr(launching, "INTERPRETED", False)
    assert main(["compile", "--capability", "75"]) == 2
    assert "they have 80, 89, 90, 100, 120" in capsys.readouterr().err


def test_a_kernel_that_does_not_compile_at_a_size_of_one_is_a_fault(monkeypatch):
    """Seen from a compiler that refuses one kernel; the real one is asked by the first test of this file."""

    def refuse(launch):
        if launch.kernel.__name__ == "_merge":
            raise ValueError("at 12:4:\n'int' object has no attribute 'to'")

    monkeypatch.setattr(aot, "compile_launch", refuse)
    monkeypatch.setattr(gate, "EDGES", gate.EDGES[:2])
    assert gate.edge_faults(90) == ["norm-adaptive 1x1x1x200/1 _merge: does not compile: 'int' object has no attribute 'to'"]
