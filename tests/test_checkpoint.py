"""Checkpoints are read without trust: what is damaged, hostile or of another model is named, and the good one before it loads."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch

from galaxysd import checkpoint, sample
from galaxysd.errors import BadInput, Unavailable
from galaxysd.model.classifier import load_judge
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
        (lambda a: a.update(kind="classifier"), "holds a classifier, a denoiser is needed here"),
        (lambda a: a.pop("config"), "config in its description is a NoneType, a table expected"),
        (lambda a: a.update(frame=[1]), "frame in its description is a list"),
        (lambda a: a["config"]["model"].update(blocks=10**9), r"model\.safetensors: model\.blocks: 1000000000; must be at most 64"),
        (lambda a: a["config"]["sample"].update(unit=10**9), "sample.unit: 1000000000 images of 8 pixels"),
        (lambda a: a["frame"].update(size=4096), "its config is of 3 x 8 pixels, its frame of 3 x 4096"),
        (lambda a: a["frame"].update(psf_fwhm=5), "psf_fwhm of a set: 5; one finite number for each"),
        (lambda a: a["frame"].update(kind="rgb"), "its frame holds rgb and its stretch is for flux"),
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
    with pytest.raises(BadInput, match=r"demo: no such run folder, .*; bundled: .*first-judge"):
        sample.load("demo")
    with pytest.raises(BadInput, match=r"small-64: no such .* model, but a preset: galaxysd train --preset small-64 makes one; bundled: "):
        sample.load("small-64")


def test_a_bundled_name_is_a_file_beside_the_judge(run: Path, monkeypatch, tmp_path: Path):
    """Of generators as of the judge."""
    (tmp_path / "tiny-8.safetensors").write_bytes((checkpoint.newest(run).folder / "model.safetensors").read_bytes())
    monkeypatch.setattr(checkpoint, "PRETRAINED", tmp_path)
    assert list(checkpoint.bundled()) == ["tiny-8"]
    assert sample.load("tiny-8").path == tmp_path / "tiny-8.safetensors"
    with pytest.raises(BadInput, match="holds a denoiser, a classifier is needed here"):
        load_judge("tiny-8")


def test_what_it_was_trained_on_travels_with_it(model: Path):
    found = checkpoint.read(model).about
    assert found["trained_on"] == {"blobs": 64}
    assert found["config"]["train"]["steps"] == 4
    assert found["stretch"]
    assert found["frame"]["bands"] == ["g", "r", "i"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h["__metadata__"].update(galaxysd="[" * 100_000), "the description in its header cannot be read"),
        (lambda h: h["__metadata__"].update(other=5), "not readable as safetensors"),
    ],
)
def test_a_header_that_only_one_of_two_readers_would_take(model: Path, tmp_path: Path, change, words: str):
    with pytest.raises(BadInput, match=words):
        checkpoint.read(rewritten(model, tmp_path / "model.safetensors", change))


def test_a_file_of_a_run_is_checked_against_its_record(run: Path, tmp_path: Path):
    """Also when the file itself is named: a flipped bit of a weight leaves a header without fault."""
    import shutil

    shutil.copytree(run, tmp_path / "run")
    path = checkpoint.committed(tmp_path / "run")[0] / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="does not match its record"):
        sample.load(path)


def test_a_record_of_another_step_is_damage(run: Path, tmp_path: Path):
    import shutil

    shutil.copytree(run, tmp_path / "run")
    path = checkpoint.committed(tmp_path / "run")[0] / "record.json"
    path.write_text(path.read_text().replace('"step": 4', '"step": 5'))
    found = checkpoint.newest(tmp_path / "run")
    assert found.record["step"] == 2
    assert "its record says step 5" in found.refused[0]


def test_a_full_disk_leaves_no_half_checkpoint_and_the_next_save_clears_what_a_kill_left(run: Path, tmp_path: Path, monkeypatch):
    import errno
    import shutil

    shutil.copytree(run, tmp_path / "run")
    left = tmp_path / "run" / "checkpoints" / "step-00000003"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    commit = checkpoint.files.commit

    def full(path, write, **options):
        if path.name == "training.safetensors":
            raise Unavailable(f"{path}: the disk is full") from OSError(errno.ENOSPC, "")
        return commit(path, write, **options)

    monkeypatch.setattr(checkpoint.files, "commit", full)
    with pytest.raises(Unavailable, match="the disk is full"):
        checkpoint.save(tmp_path / "run", 6, b"model", b"training", {"seconds": 0.0})
    assert sorted(path.name for path in left.parent.iterdir()) == ["step-00000002", "step-00000004"]


def test_the_previous_one_stays_until_the_new_one_is_verified(run: Path, tmp_path: Path, monkeypatch):
    """A disk that loses bits after they were written: the save says so, and nothing older was removed for it."""
    import shutil

    shutil.copytree(run, tmp_path / "run")
    before = checkpoint.committed(tmp_path / "run")
    commit_json = checkpoint.files.commit_json

    def worn(path, value, **options):
        (path.parent / "model.safetensors").write_bytes(b"x")
        return commit_json(path, value, **options)

    monkeypatch.setattr(checkpoint.files, "commit_json", worn)
    with pytest.raises(BadInput, match=r"step-00000006/model\.safetensors: does not match its record"):
        checkpoint.save(tmp_path / "run", 6, b"model", b"training", {"seconds": 0.0}, keep=1)
    assert set(before) <= set(checkpoint.committed(tmp_path / "run"))
    assert checkpoint.newest(tmp_path / "run").record["step"] == 4


def test_a_flipped_bit_where_no_record_is(model: Path, tmp_path: Path):
    """A published file travels alone: its header knows the digest of its tensors."""
    content = bytearray(model.read_bytes())
    content[-3] ^= 1  # one of the last bits of a weight: still finite, still the right shape
    path = tmp_path / "published.safetensors"
    path.write_bytes(model.read_bytes())
    assert checkpoint.read(path).tensors
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"its tensors have SHA-256 .*, its header says"):
        checkpoint.read(path)
