"""A bundle that is not what its record says is refused with the reason, and nothing of it is deserialised."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.other_side import SIDE, module

pytest.importorskip("onnxruntime", reason="needs onnx and onnxruntime (galaxysd[export])")
onnx = pytest.importorskip("onnx", reason="needs onnx and onnxruntime (galaxysd[export])")


@pytest.fixture(scope="module")
def runner() -> Any:
    return module("run_bundle")


def model(nodes: list[Any], weights: list[Any]) -> Any:
    kind, shape = onnx.TensorProto.FLOAT, ["batch", 1]
    given, made = (onnx.helper.make_tensor_value_info(name, kind, shape) for name in ("images", "out"))
    graph = onnx.helper.make_graph(nodes, "small", [given], [made], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def written(folder: Path, content: dict[str, bytes]) -> Path:
    """A folder of files with its record."""
    folder.mkdir()
    for name, each in content.items():
        (folder / name).write_bytes(each)
    recorded(folder)
    return folder


def recorded(folder: Path) -> None:
    entries = {
        path.name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in folder.iterdir()
        if path.name != "checksums.json"
    }
    (folder / "checksums.json").write_text(json.dumps({"format": 1, "files": entries}))


GRAPH = {"file": "classifier.onnx", "inputs": ["images"], "outputs": ["out"]}
ABOUT = {
    "format": 1,
    "kind": "classifier",
    "graphs": {"classifier": GRAPH},
    "frame": {"kind": "flux", "size": 1, "bands": ["r"], "pixel_scale": None},
    "stretch": {"kind": "flux", "softening": [1.0], "gain": [1.0], "offset": [0.0]},
    "tolerance": {"measure": "largest", "limit": 1e-4},
    "batches": [1],
}
LABELS = {"questions": [{"name": "smooth", "answers": ["yes"], "parents": []}], "aliases": {}}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    two = onnx.numpy_helper.from_array(np.full((1, 1), 2, np.float32), "two")
    graph = model([onnx.helper.make_node("Mul", ["images", "two"], ["out"])], [two])
    said = {"bundle.json": json.dumps(ABOUT).encode(), "labels.json": json.dumps(LABELS).encode()}
    return written(tmp_path / "bundle", said | {"classifier.onnx": graph.SerializeToString()})


def test_a_whole_bundle_is_opened(runner, bundle: Path):
    graph = runner.Graph(runner.Bundle(bundle), "classifier", "cpu", 1)
    assert graph(np.ones((3, 1))).tolist() == [[2], [2], [2]]


def flipped(bundle: Path) -> None:
    content = bytearray((bundle / "classifier.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "classifier.onnx").write_bytes(content)


def linked(bundle: Path) -> None:
    moved = bundle.parent / "elsewhere.onnx"
    (bundle / "classifier.onnx").rename(moved)
    (bundle / "classifier.onnx").symlink_to(moved)


def linked_record(bundle: Path) -> None:
    (bundle / "checksums.json").rename(bundle.parent / "record")
    (bundle / "checksums.json").symlink_to(bundle.parent / "record")


def renamed(name: str) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        record = json.loads((bundle / "checksums.json").read_text())
        record["files"][name] = record["files"]["classifier.onnx"]
        (bundle / "checksums.json").write_text(json.dumps(record))

    return change


def other(name: str, **changes: Any) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        value = json.loads((bundle / name).read_text())
        (bundle / name).write_text(json.dumps(value | changes))
        if name != "checksums.json":
            recorded(bundle)

    return change


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flipped, "SHA-256 .* damaged or replaced"),
    "truncated": (lambda bundle: os.truncate(bundle / "classifier.onnx", 50), "50 bytes, checksums.json says"),
    "a missing file": (lambda bundle: (bundle / "classifier.onnx").unlink(), "classifier.onnx is missing"),
    "an extra file": (lambda bundle: (bundle / "more.txt").write_text("x"), "more.txt is not in checksums.json"),
    "a hidden file": (lambda bundle: (bundle / ".more").write_text("x"), ".more is not in checksums.json"),
    "a folder": (lambda bundle: (bundle / "__pycache__").mkdir(), "__pycache__: not a plain file"),
    "a pipe": (lambda bundle: os.mkfifo(bundle / "pipe"), "pipe: not a plain file"),
    "a symbolic link": (linked, "a symbolic link; a bundle holds plain files only"),
    "the record is a link": (linked_record, "cannot be opened"),
    "no record": (lambda bundle: (bundle / "checksums.json").unlink(), "cannot be opened"),
    "the record is no JSON": (lambda bundle: (bundle / "checksums.json").write_text("{"), "not valid JSON"),
    "the record is deep": (lambda bundle: (bundle / "checksums.json").write_text("[" * 100_000), "not valid JSON"),
    "a path upward": (renamed("../classifier.onnx"), "a path out of the bundle's folder"),
    "a path of the root": (renamed("/etc/passwd"), "a path out of the bundle's folder"),
    "a path inside": (renamed("inside/classifier.onnx"), "a path out of the bundle's folder"),
    "a strange record": (other("checksums.json", files={"x": {"size": -1, "sha256": "0" * 64}}), "has no size and SHA-256"),
    "another record format": (other("checksums.json", format=2), "record format 2, this runner reads 1"),
    "another bundle format": (other("bundle.json", format=2), "bundle format 2, this runner reads 1"),
    "another kind": (other("bundle.json", kind="engine"), "a bundle of 'engine'"),
    "no graph": (other("bundle.json", graphs={}), "lacks graphs.classifier"),
    "no frame": (other("bundle.json", frame=None), "lacks frame.kind"),
    "a tolerance in words": (other("bundle.json", tolerance={"measure": "largest", "limit": "none"}), "tolerance.limit is 'none'"),
    "a graph elsewhere": (other("bundle.json", graphs={"classifier": GRAPH | {"file": "../x.onnx"}}), "x.onnx is needed and not in"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_as_recorded_is_refused_before_it_is_read(runner, bundle: Path, case: str, monkeypatch):
    change, reason = HOSTILE[case]
    change(bundle)

    def opened(*args: object, **options: object) -> None:
        raise AssertionError("deserialised")

    monkeypatch.setattr(runner.onnxruntime, "InferenceSession", opened)
    monkeypatch.setattr(runner.np, "load", opened)
    with pytest.raises(runner.Refused, match=reason):
        runner.Graph(runner.Bundle(bundle), "classifier", "cpu", 1)


def elsewhere(tensor: Any) -> Any:
    onnx.external_data_helper.set_external_data(tensor, location="../../secret", length=4)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return tensor


def two() -> Any:
    return onnx.numpy_helper.from_array(np.full((1, 1), 2, np.float32), "two")


def in_a_branch() -> Any:
    then = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["two"], ["then"])], "then", [], [], [elsewhere(two())])
    return model([onnx.helper.make_node("If", ["images"], ["out"], then_branch=then, else_branch=then)], [])


EXTERNAL = {
    "a weight": lambda: model([onnx.helper.make_node("Mul", ["images", "two"], ["out"])], [elsewhere(two())]),
    "a constant": lambda: model([onnx.helper.make_node("Constant", [], ["out"], value=elsewhere(two()))], []),
    "a weight of a branch": in_a_branch,
}


@pytest.mark.parametrize("case", EXTERNAL)
def test_weights_in_files_elsewhere_are_refused_before_the_graph_is_read(runner, bundle: Path, case: str, monkeypatch):
    (bundle / "classifier.onnx").write_bytes(EXTERNAL[case]().SerializeToString())
    recorded(bundle)
    monkeypatch.setattr(runner.onnxruntime, "InferenceSession", None)
    with pytest.raises(runner.Refused, match="keeps weights in other files"):
        runner.Graph(runner.Bundle(bundle), "classifier", "cpu", 1)


@pytest.mark.parametrize("content", [b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x3a\x7f\x01", b"\x3b", b"\x38\x01"])
def test_what_is_no_graph_is_refused(runner, bundle: Path, content: bytes):
    (bundle / "classifier.onnx").write_bytes(content)
    recorded(bundle)
    with pytest.raises(runner.Refused, match="not an ONNX graph"):
        runner.Graph(runner.Bundle(bundle), "classifier", "cpu", 1)


def test_a_file_changed_between_the_check_and_the_reading_is_refused(runner, bundle: Path):
    opened = runner.Bundle(bundle)
    flipped(bundle)
    with pytest.raises(runner.Refused, match="changed while the bundle was being read"):
        opened.bytes("classifier.onnx")


@pytest.mark.parametrize("kind", ["objects", "no archive", "half an archive", "one array"])
def test_goldens_that_could_hold_code_are_not_loaded(runner, bundle: Path, kind: str):
    with (bundle / "goldens.npz").open("wb") as file:
        if kind == "objects":
            np.savez(file, x=np.array([{}], dtype=object))
        elif kind == "one array":
            np.save(file, np.zeros(3))
        else:
            file.write({"no archive": b"\x80\x04.", "half an archive": b"PK\x03\x04half"}[kind])
    other("bundle.json", tolerance={"measure": "largest", "limit": 1e-4})(bundle)
    with pytest.raises(runner.Refused, match=r"not an .npz of plain arrays"):
        runner.Check(runner.Bundle(bundle))


@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".fits"])
@pytest.mark.parametrize("damage", ["garbage", "half", "empty"])
def test_damaged_images_are_refused_in_words(runner, tmp_path: Path, ending: str, damage: str):
    for name in {".parquet": ["pyarrow"], ".fits": ["astropy"]}.get(ending, []):
        pytest.importorskip(name)
    whole, path = tmp_path / f"whole{ending}", tmp_path / f"images{ending}"
    write[ending](whole, np.zeros((4, 3, 8, 8), np.float32))
    assert sum(len(each) for each in runner.images_of(whole, 2)) == (1 if ending == ".fits" else 4)
    content = whole.read_bytes()
    path.write_bytes({"garbage": b"no galaxies at all", "half": content[: len(content) // 2], "empty": b""}[damage])
    with pytest.raises(runner.Refused, match=path.name):
        list(runner.images_of(path, 2))


def test_a_packed_archive_is_refused_before_it_is_unpacked(runner, tmp_path: Path):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((1000, 3, 8, 8), np.float32))
    with pytest.raises(runner.Refused, match="is compressed, which could unpack to any size"):
        list(runner.images_of(tmp_path / "bomb.npz", 2))


def a_shard(path: Path, images: np.ndarray) -> None:
    import pyarrow
    import pyarrow.parquet

    shape = list(images.shape[1:])
    rows = {"image": [each.tobytes() for each in images], "image_shape": [shape] * len(images), "image_dtype": ["<f4"] * len(images)}
    pyarrow.parquet.write_table(pyarrow.table(rows), path)


def a_galaxy(path: Path, images: np.ndarray) -> None:
    from astropy.io import fits

    fits.HDUList([fits.PrimaryHDU(), *(fits.ImageHDU(band) for band in images[0])]).writeto(path)


write = {".npy": np.save, ".npz": lambda path, images: np.savez(path, images=images), ".parquet": a_shard, ".fits": a_galaxy}


def test_a_bundle_whose_export_failed_is_refused(runner, bundle: Path):
    (bundle / "parity.json").write_text(json.dumps({"verdict": "failed"}))
    recorded(bundle)
    with pytest.raises(runner.Refused, match="its graphs part from the model"):
        runner.Bundle(bundle).passed()


def test_a_provider_that_is_not_there_is_refused_and_never_replaced(runner, bundle: Path, monkeypatch):
    opened = runner.Bundle(bundle)
    with pytest.raises(runner.Refused, match="this onnxruntime has no CUDAExecutionProvider") as refused:
        runner.Graph(opened, "classifier", "cuda", 1)
    assert refused.value.code == 4
    # onnxruntime-gpu on a machine without a driver: the provider is offered, and the session quietly runs on the CPU.
    session = runner.onnxruntime.InferenceSession
    monkeypatch.setattr(runner.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(
        runner.onnxruntime,
        "InferenceSession",
        lambda content, options, providers: session(content, options, providers=["CPUExecutionProvider"]),
    )
    with pytest.raises(runner.Refused, match="runs on CPUExecutionProvider, CUDAExecutionProvider was asked for"):
        runner.Graph(opened, "classifier", "cuda", 1)


def test_a_machine_without_its_packages_is_told_what_to_install(bundle: Path):
    done = subprocess.run([sys.executable, "-S", "-E", SIDE / "run_bundle.py", bundle], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert done.stderr == "run_bundle: numpy is not installed; pip install -r requirements.txt\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--out", "{bundle}/galaxies"), "inside the bundle"),
        (("--out", "{taken}"), "already there, and nothing is overwritten"),
        (("--n", "0"), "--n 0: at least 1"),
        (("--seed", str(1 << 63)), "seeds lie between"),
        (("--guidance", "nan"), "a finite strength is needed"),
    ],
)
def test_flags_that_cannot_be_met_are_refused(runner, bundle: Path, tmp_path: Path, capsys, words: tuple[str, ...], reason: str):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine").write_text("keep")
    told = [word.format(bundle=bundle, taken=tmp_path / "taken") for word in words]
    assert runner.main([str(bundle), "--images", "x.npy", *told]) == 2
    assert reason in capsys.readouterr().err
    assert sorted(path.name for path in bundle.iterdir()) == ["bundle.json", "checksums.json", "classifier.onnx", "labels.json"]
