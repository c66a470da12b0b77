"""The launch tables and what is said where kernels cannot run."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from galaxysd.kernels import launching
from galaxysd.kernels.cases import CASES, Shape
from tests.kernels.checks import normal

CARD = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch):
    """A card of a compute capability, as torch would describe it."""

    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, minor))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some Card")
        launching.unready.cache_clear()

    yield pretend
    launching.unready.cache_clear()


def test_norms_have_the_same_classes_on_every_card_and_dtype():
    """Attention is split otherwise where shared memory is small; `python -m benchmarks compile` holds that every shape finds a row."""
    found: dict[tuple[str, int], set[tuple[str, str]]] = {}
    for op, shape, dtype, capability in launching.rows():
        if op.startswith("norm_"):
            found.setdefault((dtype, capability), set()).add((op, shape))
    assert set(found) == {(dtype, capability) for dtype in ("bf16", "fp16", "fp32") for capability in (80, 89, 90, 100, 120)}
    assert len(set(map(frozenset, found.values()))) == 1


def test_no_row_is_written_twice():
    written = sum(len(json.loads(table.read_text())) for table in launching.TABLES.glob("*.json"))
    assert written == len(launching.rows())


def test_a_card_with_rows_is_ready(card):
    card(9, 0)
    assert launching.unready(CARD) is None
    assert launching.capability_of(CARD) == 90


def test_a_card_without_rows_is_named_with_those_that_work(card):
    card(7, 5)
    with pytest.raises(RuntimeError, match=r"compute capability 7.5; kernels are built for 8.0, 8.9, 9.0, 10.0, 12.0.*plain torch"):
        launching.capability_of(CARD)


@pytest.mark.parametrize(
    ("version", "words"), [("", "not installed: pip install triton"), ("3.5.1", "Triton 3.5.1 is too old: 3.6 or later")]
)
def test_triton_missing_or_too_old_is_said(monkeypatch, card, version, words):
    card(9, 0)
    monkeypatch.setattr(launching, "triton", SimpleNamespace(__version__=version))
    with pytest.raises(RuntimeError, match=words):
        launching.capability_of(CARD)


def test_a_cpu_tensor_is_not_launched_outside_the_interpreter(monkeypatch):
    monkeypatch.setattr(launching, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="launched on cpu; they run on CUDA, or anywhere in Triton's interpreter"):
        launching.capability_of(torch.device("cpu"))


def test_recording_launches_nothing():
    case, shape = CASES["norm-adaptive"], Shape(2, 8, 8, 64, 4)
    given = case.inputs(shape, torch.bfloat16, "meta", lambda name, size: torch.empty(size, device="meta"))
    with launching.recorded(80) as launches:
        case.launched(given, shape, None)
    assert [(launch.kernel.__name__, launch.row.capability, launch.programs) for launch in launches] == [("_one_pass", 80, 2)]


def test_kernels_import_and_compute_on_a_machine_without_triton(tmp_path):
    """A stand-in that cannot be imported takes Triton's place."""
    (tmp_path / "triton.py").write_text("raise ImportError('no such package')")
    code = "import torch; from galaxysd.kernels import group_norm_silu, launching; w = torch.ones(8); "
    code += "print(group_norm_silu(torch.ones(1, 8, 2, 2), w, w, 2).sum().item(), repr(launching.triton.__version__))"
    environment = {"PYTHONPATH": f"{tmp_path}:.", "PATH": ""}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=100)
    assert out.stdout.split()[1] == "''"
    assert float(out.stdout.split()[0]) == pytest.approx(32 * 0.731058, rel=1e-4)


def test_draws_differ_by_name():
    assert not torch.equal(normal(0)("a", (3,)), normal(0)("b", (3,)))
