"""The export runs what it wrote: a bundle that parts from torch is refused, whatever is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from galaxysd.cli import main
from galaxysd.data import conditions
from galaxysd.data.schema import GZ2
from galaxysd.errors import GalaxySDError, Unavailable
from tests import tiny
from tests.perturbed import perturbed

onnx = pytest.importorskip("onnx", reason="needs onnx, onnxscript and onnxruntime (galaxysd[export])")
pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime (galaxysd[export])")

pytestmark = pytest.mark.timeout(400)  # tracing a model is slow where other work shares the cores
ONE_LEVEL = (*tiny.SETTINGS, "model.channels=[16]", "model.attention=[4]", "sample.steps=18")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return perturbed("smoke-32", tmp_path_factory.mktemp("model") / "tiny.safetensors", *ONE_LEVEL)


@pytest.fixture(scope="module")
def bundle(model: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "bundle"
    assert main(["export", str(model), "--onnx", "--out", str(out)]) == 0
    return out


@pytest.fixture
def traced(bundle: Path, monkeypatch) -> None:
    """The graph of the bundle instead of a trace, which takes most of an export."""
    from galaxysd.export import bundle as exporting

    monkeypatch.setattr(exporting.onnx, "graph", lambda module, example, form: onnx.load(bundle / "denoiser.onnx"))


def test_a_bundle_is_whole(bundle: Path):
    names = {path.name for path in bundle.iterdir()}
    assert names >= {"denoiser.onnx", "step.onnx", "goldens.npz", "bundle.json", "config.json", "labels.json", "parity.json"}
    assert names >= {"MODEL_CARD.md", "README.md", "LICENSE", "run_bundle.py", "requirements.txt", "requirements-io.txt"}
    assert set(json.loads((bundle / "checksums.json").read_text())["files"]) == names - {"checksums.json"}
    parity = json.loads((bundle / "parity.json").read_text())
    assert (parity["verdict"], parity["provider"]) == ("passed", "CPUExecutionProvider")
    assert {(case["unit"], case["what"]) for case in parity["cases"]} == {
        ("denoiser", "x0"), ("denoiser", "features"), ("denoiser", "images"), ("denoiser", "pixels"),
        ("step", "ahead"), ("step", "images"), ("step", "pixels"),
    }  # fmt: skip
    assert {case["batch"] for case in parity["cases"] if case["what"] in ("x0", "ahead")} == {1, 3, 8}
    assert all(case["output_std"] >= 0.1 and case["error"] <= 1e-4 for case in parity["cases"])
    for name in ("denoiser.onnx", "step.onnx"):
        graph = onnx.load(bundle / name).graph
        assert {node.domain for node in graph.node} == {""}
        assert all(each.type.tensor_type.shape.dim[0].dim_param for each in [*graph.input, *graph.output])  # any batch


def test_the_goldens_are_whole_images_of_eighteen_steps(bundle: Path):
    assert json.loads((bundle / "bundle.json").read_text())["sampling"]["steps"] == 18
    with np.load(bundle / "goldens.npz", allow_pickle=False) as goldens:
        assert goldens["drawn"].shape == goldens["pixels"].shape == (2, 3, 8, 8)
        assert not goldens["features"][0].any()  # one that asks for nothing, and others: every feature is heard in one of them
        assert goldens["features"].any(0).all()
        assert goldens["features"][1].any()


def weight(graph: Any, name: str) -> Any:
    return next(each for each in graph.initializer if each.name.endswith(name))


def changed(graph: Any, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = weight(graph, name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor)), tensor.name))


def swapped_channels(graph: Any) -> None:
    order = onnx.numpy_helper.from_array(np.array([2, 1, 0]), "order")
    for node in graph.node:
        node.input[:] = ["swapped" if name == "x" else name for name in node.input]
    graph.initializer.append(order)
    graph.node.insert(0, onnx.helper.make_node("Gather", ["x", "order"], ["swapped"], axis=1))


def missing_scale(graph: Any) -> None:
    """The network's input is no longer divided by the spread of the noise."""
    node = next(node for node in graph.node if node.op_type == "Mul" and "x" in node.input)
    node.CopyFrom(onnx.helper.make_node("Identity", ["x"], list(node.output)))


def wrong_epsilon(graph: Any) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "GroupNormalization" and attribute.name == "epsilon":
                assert attribute.f == pytest.approx(1e-5)
                attribute.f = 1e-3


def mask_ignored(graph: Any) -> None:
    """Whether a question was asked, and a number given, no longer reaches the network."""
    names = conditions.names(GZ2)
    known = [column for column, name in enumerate(names) if name.startswith("known ")]

    def without(value: np.ndarray) -> np.ndarray:
        value = value.copy()
        (value.T if value.shape[0] == len(names) else value)[:, known] = 0
        return value

    changed(graph, "condition_in.weight", without)


def stale_weight(graph: Any) -> None:
    changed(graph, "head.bias", lambda value: value + np.float32(0.001))


def not_a_number(graph: Any) -> None:
    changed(graph, "head.bias", lambda value: value * np.float32("nan"))


FAULTS = [not_a_number, swapped_channels, missing_scale, wrong_epsilon, mask_ignored, stale_weight]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_fails_the_gate(bundle: Path, tmp_path: Path, fault):
    from galaxysd.export.bundle import proven
    from galaxysd.export.step import step_graph

    folder = shutil.copytree(bundle, tmp_path / "bundle")
    (folder / "parity.json").unlink()
    graph = onnx.load(folder / "denoiser.onnx")
    fault(graph.graph)
    onnx.save(graph, folder / "denoiser.onnx")
    onnx.save(step_graph(graph), folder / "step.onnx")
    found = proven(folder)
    assert found["verdict"] == "failed"
    failed = {(case["unit"], case["what"]) for case in found["cases"] if not case["passed"]}
    assert failed >= {("denoiser", "x0"), ("denoiser", "images"), ("step", "ahead"), ("step", "images")}
    assert json.loads((folder / "parity.json").read_text())["verdict"] == "failed"


def test_a_step_that_forgets_its_guidance_fails_the_gate(bundle: Path, tmp_path: Path):
    from galaxysd.export.bundle import proven

    folder = shutil.copytree(bundle, tmp_path / "bundle")
    (folder / "parity.json").unlink()
    graph = onnx.load(folder / "step.onnx")
    for node in graph.graph.node:
        node.input[:] = ["strength" if name == "strength_after" else name for name in node.input]
    onnx.save(graph, folder / "step.onnx")
    found = proven(folder)
    assert {case["unit"] for case in found["cases"] if not case["passed"]} == {"step"}


@pytest.mark.parametrize("part", ["stretch", "scales"])
def test_a_wrong_description_fails_the_gate(bundle: Path, tmp_path: Path, part: str):
    from galaxysd.export.bundle import proven

    folder = shutil.copytree(bundle, tmp_path / "bundle")
    (folder / "parity.json").unlink()
    about = json.loads((folder / "bundle.json").read_text())
    if part == "stretch":
        about["stretch"]["gain"] = about["stretch"]["gain"][::-1]
    else:
        about["conditions"]["scales"]["magnitude"][2] *= 1.01
    (folder / "bundle.json").write_text(json.dumps(about))
    found = proven(folder)
    assert {case["what"] for case in found["cases"] if not case["passed"]} >= ({"pixels"} if part == "stretch" else {"features"})


@pytest.mark.usefixtures("traced")
def test_the_export_of_a_graph_that_parts_is_an_error(model: Path, tmp_path: Path, monkeypatch, capsys):
    from galaxysd.export import bundle as exporting

    commit = exporting.onnx.commit

    def stale(graph, path):
        stale_weight(graph.graph)
        commit(graph, path)

    monkeypatch.setattr(exporting.onnx, "commit", stale)
    assert main(["export", str(model), "--onnx", "--out", str(tmp_path / "out")]) == 2
    assert "do not agree with torch" in capsys.readouterr().err
    assert json.loads((tmp_path / "out/parity.json").read_text())["verdict"] == "failed"


def test_weights_that_say_nothing_are_refused(tmp_path: Path):
    from galaxysd.export.goldens import spoken

    with pytest.raises(GalaxySDError, match=r"spread by 0\.014, 0\.1 at least"):
        spoken({"x0": torch.tensor([0.01, 0.03])}, tmp_path)


def test_a_folder_with_something_in_it_is_refused(model: Path, tmp_path: Path, capsys):
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["export", str(model), "--onnx", "--out", str(tmp_path)]) == 2
    assert "not empty, and nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("traced")
def test_a_full_disk_leaves_an_empty_folder_and_the_same_command_goes_on(model: Path, tmp_path: Path, monkeypatch):
    from galaxysd.export import bundle as exporting

    def full(path, value):
        raise Unavailable(f"{path}: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(exporting.files, "commit_json", full)
        assert main(["export", str(model), "--onnx", "--out", str(tmp_path / "out")]) == 4
    assert list((tmp_path / "out").iterdir()) == []
    assert main(["export", str(model), "--onnx", "--out", str(tmp_path / "out")]) == 0


@pytest.mark.usefixtures("traced")
def test_without_tensorrt_everything_else_is_written(model: Path, tmp_path: Path, capsys, monkeypatch):
    from galaxysd.export import command

    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(model), "--trt", "--out", str(tmp_path / "out")]) == 4
    said = capsys.readouterr()
    assert "pip install 'galaxysd[trt]'" in said.err
    assert "passed" in said.out
    assert json.loads((tmp_path / "out/parity.json").read_text())["verdict"] == "passed"


def test_with_tensorrt_it_says_that_this_version_builds_no_engine(monkeypatch):
    from galaxysd.export import command

    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: object())
    assert "this version of galaxysd builds none" in command.no_engine()


@pytest.mark.parametrize(("profile", "precision"), [("standard", "fp32"), ("standard", "fp16"), ("portable", "fp16")])
def test_the_other_forms_agree_too(model: Path, tmp_path: Path, profile: str, precision: str):
    out = tmp_path / "out"
    assert main(["export", str(model), "--onnx", "--profile", profile, "--precision", precision, "--out", str(out)]) == 0
    graph = onnx.load(out / "denoiser.onnx")
    operators = {node.op_type for node in graph.graph.node}
    assert ("Attention" in operators, "Softmax" in operators) == ((True, False) if profile == "standard" else (False, True))
    assert "GroupNormalization" in operators
    kinds = {each.data_type for each in graph.graph.initializer if each.name.endswith("conv1.weight")}
    assert kinds == {onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.FLOAT}
    assert {node.domain for node in graph.graph.node} == {""}
