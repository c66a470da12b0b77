"""Checkpoints are read without trust: what is damaged, hostile or of another model is named, and the good one before it loads."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from galaxysd import checkpoint, sample
from galaxysd.errors import BadInput
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("models") / "run"
    tiny.run(out, "train.steps=4", "train.save_steps=2")
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    return checkpoint.newest(run).folder / "model.safetensors"


def rewritten(model: Path, out: Path, change) -> Path:
    """The file with its header changed by `change(header)`."""
    content = model.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    out.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return out


def about(change):
    """A change of galaxysd's own description within the header."""

    def made(header):
        found = json.loads(header["__metadata__"]["galaxysd"])
        change(found)
        header["__metadata__"]["galaxysd"] = json.dumps(found)

    return made


def first(header):
    return next(name for name in header if name != "__metadata__")


HOSTILE = {
    "an overlap": (lambda h: h[sorted(h)[3]].update(data_offsets=[0, 4]), "an impossible entry|overlap or leave a hole"),
    "a shape that is not its bytes": (lambda h: h[first(h)].update(shape=[7]), "its shape and its bytes do not agree"),
    "a huge shape": (lambda h: h[first(h)].update(shape=[2**50]), "its shape and its bytes do not agree"),
    "a negative offset": (lambda h: h[first(h)].update(data_offsets=[-4, 0]), "impossible entry"),
    "an unknown dtype": (lambda h: h[first(h)].update(dtype="C64"), "impossible entry"),
    "a missing tensor": (lambda h: h.pop(first(h)), "overlap or leave a hole|truncated or has something appended"),
    "no description": (lambda h: h.pop("__metadata__"), "no galaxysd description"),
    "another format": (about(lambda a: a.update(format=99)), "format 99, this galaxysd reads 1"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_hostile_header_is_refused(model: Path, tmp_path: Path, name: str):
    change, words = HOSTILE[name]
    path = rewritten(model, tmp_path / "model.safetensors", change)
    with pytest.raises(BadInput, match=words):
        checkpoint.read(path)


def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")
    with pytest.raises(BadInput, match="a header of 1099511627776 bytes"):
        checkpoint.read(path)


def test_more_tensors_than_allowed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(checkpoint, "TENSOR_LIMIT", 5)
    path = tmp_path / "model.safetensors"
    path.write_bytes(checkpoint.packed({str(n): torch.zeros(1) for n in range(6)}, {"kind": "denoiser"}))
    with pytest.raises(BadInput, match="6 tensors, at most 5"):
        checkpoint.read(path)


def test_values_that_are_not_finite(model: Path, tmp_path: Path):
    found = checkpoint.read(model)
    tensors = found.tensors | {"head.bias": torch.full_like(found.tensors["head.bias"], float("inf"))}
    path = tmp_path / "model.safetensors"
    path.write_bytes(checkpoint.packed(tensors, found.about))
    with pytest.raises(BadInput, match=r"head\.bias holds values that are not finite"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a["config"]["model"].update(channels=[8, 32]), "its config asks for"),
        (lambda a: a["config"]["model"].update(channels=[2**20, 2**21]), "its config asks for"),
        (lambda a: a["config"]["model"].update(blocks=2), "the checkpoint lacks"),
        (lambda a: a["config"]["model"].update(colour=1), "model.colour: no such setting"),
        (lambda a: a["config"].update(schema_version=7), "schema_version: 7, this galaxysd reads 1"),
        (lambda a: a["config"]["condition"].update(schema="gz9"), "gz9: no such label schema"),
        (lambda a: a.update(kind="classifier"), "holds a classifier, a denoiser is needed"),
    ],
)
def test_a_model_that_is_not_what_it_says(model: Path, tmp_path: Path, change, words: str):
    path = rewritten(model, tmp_path / "model.safetensors", about(change))
    with pytest.raises(Exception, match=words) as caught:
        sample.load(path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "append", "missing"])
def test_damage_is_named_and_the_previous_good_one_loads(run: Path, tmp_path: Path, damage: str, capsys):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = checkpoint.committed(copy)[0] / "model.safetensors"
    content = path.read_bytes()
    middle = len(content) // 2
    changed = {
        "flip": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
        "cut": content[:-9],
        "append": content + b"x",
    }
    path.unlink() if damage == "missing" else path.write_bytes(changed[damage])
    with pytest.raises(BadInput, match=r"step-00000004/model\.safetensors: "):
        sample.load(path.parent)
    assert sample.load(copy).path.parent.name == "step-00000002"
    assert "step-00000004/model.safetensors" in capsys.readouterr().err


def test_every_checkpoint_damaged(run: Path, tmp_path: Path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for folder in checkpoint.committed(copy):
        (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match="no checkpoint can be used"):
        sample.load(copy)


def test_a_stranger_of_another_kind(tmp_path: Path):
    path = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(BadInput, match="not a checkpoint of galaxysd"):
        sample.load(path)


def test_a_name_that_is_none():
    with pytest.raises(BadInput, match="first-jugde: no such run folder, checkpoint or bundled model; did you mean first-judge"):
        sample.load("first-jugde")


def test_what_it_was_trained_on_travels_with_it(model: Path):
    found = checkpoint.read(model).about
    assert found["trained_on"] == {"blobs": 64}
    assert found["config"]["train"]["steps"] == 4
    assert found["stretch"]
    assert found["frame"]["bands"] == ["g", "r", "i"]
