"""The exported graph is the model: it agrees with torch at every batch size, and a graph that does not is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import galaxysd
from galaxysd.cli import main
from galaxysd.errors import GalaxySDError, Unavailable
from tests import tiny

pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime (galaxysd[export])")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "run"
    tiny.run(out, "train.steps=40", "train.learning_rate=3e-3")
    return out


def test_the_command_writes_a_graph_that_agrees(run: Path, tmp_path: Path, capsys):
    import onnx
    import onnxruntime

    assert main(["export", str(run), "--onnx", "--json", "--out", str(tmp_path / "out")]) == 0
    parity = json.loads((tmp_path / "out/parity.json").read_text())
    assert parity["verdict"] == "passed"
    assert {case["batch"] for case in parity["cases"]} == {1, 4, 16}
    assert all(case["output_std"] >= 0.1 for case in parity["cases"])
    model = onnx.load(tmp_path / "out/denoiser.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    session = onnxruntime.InferenceSession(tmp_path / "out/denoiser.onnx", providers=["CPUExecutionProvider"])
    with np.load(tmp_path / "out/goldens.npz", allow_pickle=False) as goldens:
        assert sorted(goldens) == ["features", "sigma", "x", "x0"]
        (x0,) = session.run(None, {name: goldens[name] for name in ("x", "sigma", "features")})
        assert np.abs(x0 - goldens["x0"]).max() < 1e-4


def test_a_graph_that_does_not_agree_is_refused(run: Path, tmp_path: Path, monkeypatch):
    from galaxysd.export import onnx as exporting

    compare = exporting.compare

    def planted(generator, session, batches=(1, 4)):
        with torch.no_grad():
            generator.denoiser.net.head.bias[0] += 0.01  # the graph is now of stale weights
        return compare(generator, session, batches)

    monkeypatch.setattr(exporting, "compare", planted)
    with pytest.raises(GalaxySDError, match="does not agree with torch"):
        exporting.denoiser_graph(galaxysd.load(run, dtype="fp32"), tmp_path / "out")
    assert json.loads((tmp_path / "out/parity.json").read_text())["verdict"] == "failed"


def test_a_full_disk_leaves_an_empty_folder_and_the_same_command_goes_on(run: Path, tmp_path: Path, monkeypatch):
    from galaxysd.export import onnx as exporting

    def full(path, value):
        raise Unavailable(f"{path}: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(exporting.files, "commit_json", full)
        assert main(["export", str(run), "--onnx", "--out", str(tmp_path / "out")]) == 4
    assert list((tmp_path / "out").iterdir()) == []
    assert main(["export", str(run), "--onnx", "--out", str(tmp_path / "out")]) == 0


def test_tensorrt_is_not_there_yet(run: Path, tmp_path: Path, capsys):
    from galaxysd.cli import export_main

    assert main(["export", str(run), "--trt", "--out", str(tmp_path / "out")]) == 4
    assert "does not build TensorRT engines yet" in capsys.readouterr().err
    assert callable(export_main)
