"""Checkpoints: safetensors with everything needed to use the model in the header, committed by a record, read without trust.

A run keeps `checkpoints/step-00001200/{model,training}.safetensors` and `record.json`, which holds their digests and commits them. A
bundled or published model is one `.safetensors` file of the same kind as `model.safetensors`.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from galaxysd import files
from galaxysd.config import presets
from galaxysd.errors import BadInput, GalaxySDError, nearest

FORMAT = 1
HEADER_LIMIT, TENSOR_LIMIT = 4 << 20, 20_000
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
PRETRAINED = Path(__file__).with_name("pretrained")


@dataclass(frozen=True)
class Checkpoint:
    """A verified model: tensors by name, and the header's description of what they are."""

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any]  # kind, config, frame, stretch, trained_on, images, step
    digest: files.Digest


def packed(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """The bytes of a safetensors file: plain contiguous tensors, `about` as JSON in the header."""
    plain = {name: tensor.detach().to("cpu", copy=False).contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, **about, "tensors_sha256": content_digest(plain)}, sort_keys=True, allow_nan=False)
    return safetensors.torch.save(plain, metadata={"galaxysd": text})


def content_digest(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of names, dtypes, shapes and bytes: a model that travels without its record still knows what it was."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\0".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def check_header(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a safetensors header under limits and checks it against the file: gives (tensor entries, about)."""
    with path.open("rb") as file:
        size = path.stat().st_size
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if length < 2 or length > min(HEADER_LIMIT, size - 8):
            raise BadInput(
                f"{path}: a header of {length} bytes in a file of {size} (at most {HEADER_LIMIT}); not a checkpoint, or truncated"
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{path}: its header is not JSON ({error}); not a checkpoint, or damaged") from error
    if not isinstance(header, dict):
        raise BadInput(f"{path}: its header is not a table; not a checkpoint")
    try:
        about = json.loads(header.pop("__metadata__", {}).get("galaxysd", "null"))
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: the description in its header cannot be read ({error})") from error
    if not isinstance(about, dict) or not isinstance(about.get("kind"), str):
        raise BadInput(f"{path}: its header has no galaxysd description; this is not a checkpoint of galaxysd")
    if about.get("format") != FORMAT:
        raise BadInput(f"{path}: checkpoint format {about.get('format')!r}, this galaxysd reads {FORMAT}")
    if len(header) > TENSOR_LIMIT:
        raise BadInput(f"{path}: {len(header)} tensors, at most {TENSOR_LIMIT} are read")
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    end = 0
    for first, last, name in spans:
        if first != end:
            raise BadInput(f"{path}: tensor {name} starts at byte {first}, {end} expected; tensors overlap or leave a hole")
        end = last
    if 8 + length + end != size:
        raise BadInput(f"{path}: {size} bytes, its header describes {8 + length + end}; the file is truncated or has something appended")
    return header, about


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    try:
        (first, last), shape, dtype = entry["data_offsets"], entry["shape"], DTYPES[entry["dtype"]]
        whole = [*shape, first, last]
        plausible = all(type(each) is int and 0 <= each < 2**48 for each in whole)
        if not plausible or last - first != math.prod(shape) * dtype.itemsize:
            raise ValueError("its shape and its bytes do not agree")
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: tensor {name!r} has an impossible entry ({error})") from error
    return first, last, name


def read(path: Path, expected: files.Digest | None = None) -> Checkpoint:
    """Reads one file: header first, then bytes (against the record's digest where there is one), then every value is finite."""
    if not path.is_file():
        raise BadInput(f"{path}: no such checkpoint file")
    if expected is not None and path.stat().st_size != expected.size:
        raise BadInput(f"{path}: {path.stat().st_size} bytes, its record says {expected.size}; the file is truncated or replaced")
    _, about = check_header(path)
    for name in ("config", "frame", "stretch", "trained_on"):
        if not isinstance(about.get(name), dict):
            what = type(about.get(name)).__name__
            raise BadInput(f"{path}: {name} in its description is a {what}, a table expected; damaged, or not of galaxysd train")
    found = files.digest(path) if expected is None else expected
    content = files.read_verified(path, found)
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:  # its own reader is stricter than ours, for example about a name given twice
        raise BadInput(f"{path}: not readable as safetensors ({error}); not a checkpoint, or damaged") from error
    if about.get("tensors_sha256") != (own := content_digest(tensors)):
        told = str(about.get("tensors_sha256"))[:12]
        raise BadInput(f"{path}: its tensors have SHA-256 {own[:12]}..., its header says {told}...; the file is damaged")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"{path}: tensor {name} holds values that are not finite; the model is not usable")
    return Checkpoint(path, tensors, about, found)


def agree(net: nn.Module, tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Every name and shape of `tensors` must be the network's own, which may stand on the meta device."""
    wanted = net.state_dict()
    for name in sorted(wanted.keys() ^ tensors.keys()):
        side = "lacks" if name in wanted else "has an unknown tensor"
        raise BadInput(f"{where}: the checkpoint {side} {name}; its config describes another network")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise BadInput(f"{where}: {name} is {tuple(tensor.shape)}, its config asks for {tuple(wanted[name].shape)}")


def check_shapes(net: nn.Module, path: Path) -> None:
    """Compares a file's header with a network on the meta device, before either takes memory."""
    header, _ = check_header(path)
    agree(net, {name: torch.empty(entry["shape"], device="meta") for name, entry in header.items()}, path)


def fill(net: nn.Module, tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Puts tensors into a network, in the network's own dtype and memory layout."""
    agree(net, tensors, where)
    net.load_state_dict(dict(tensors))


def save(run: Path, step: int, model: bytes, training: bytes, note: Mapping[str, Any], keep: int = 2) -> Path:
    """Commits a checkpoint of a run; afterwards only the newest `keep` good ones remain, the previous one until this one is verified."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    if (folder / "record.json").exists():
        try:
            verify(folder)
            return folder
        except BadInput:
            folder.rename(folder.with_name(f"damaged-{secrets.token_hex(4)}-{folder.name}"))  # kept to look at; made again below
    for begun in run.glob("checkpoints/step-*"):
        if not (begun / "record.json").exists():
            shutil.rmtree(begun)  # begun and never committed: what a kill or a full disk left
    try:
        digests = {
            "model": files.commit(folder / "model.safetensors", lambda file: file.write(model)).to_json(),
            "training": files.commit(folder / "training.safetensors", lambda file: file.write(training)).to_json(),
        }
        files.commit_json(folder / "record.json", {"format": FORMAT, "step": step, "files": digests, **note})
    except GalaxySDError:
        shutil.rmtree(folder, ignore_errors=True)  # a full disk: half a checkpoint would only take more of it
        raise
    verify(folder)
    for old in committed(run)[keep:]:
        (old / "record.json").unlink()
        shutil.rmtree(old)
    return folder


def committed(run: Path) -> list[Path]:
    """The committed checkpoints of a run, newest first."""
    return sorted((path.parent for path in run.glob("checkpoints/step-*/record.json")), reverse=True)


def verify(folder: Path) -> dict[str, Any]:
    """Checks a checkpoint folder against its record; gives the record."""
    record = files.read_json(folder / "record.json")
    try:
        if record["format"] != FORMAT:
            raise BadInput(f"{folder}: checkpoint format {record['format']!r}, this galaxysd reads {FORMAT}")
        entries = {name: files.Digest(**entry) for name, entry in record["files"].items()}
        if entries.keys() != {"model", "training"}:
            raise BadInput(f"{folder}: its record names {sorted(entries)}, model and training expected")
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{folder}: its record lacks a field ({error}); the record is damaged") from error
    for name, expected in entries.items():
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            raise BadInput(f"{path}: missing, though its record is there")
        found = files.digest(path)
        if found != expected:
            mine, theirs = (f"{each.size} bytes, SHA-256 {str(each.sha256)[:12]}..." for each in (found, expected))
            raise BadInput(f"{path}: does not match its record ({mine}; recorded {theirs}); the file is damaged")
    return dict(record)


@dataclass(frozen=True)
class Restored:
    """The newest checkpoint of a run that verifies, with what was refused on the way to it."""

    folder: Path
    record: dict[str, Any]
    refused: tuple[str, ...]

    def file(self, name: str) -> Checkpoint:
        return read(self.folder / f"{name}.safetensors", files.Digest(**self.record["files"][name]))


def newest(run: Path) -> Restored | None:
    """The newest good checkpoint of a run; None when there never was one; an error when every one is damaged."""
    refused: list[str] = []
    for folder in committed(run):
        try:
            record = verify(folder)
            if folder.name != f"step-{record.get('step')!s:0>8}" or not isinstance(record.get("seconds"), (int, float)):
                raise BadInput(f"{folder}: its record says step {record.get('step')!r} after {record.get('seconds')!r} s; it is damaged")
            return Restored(folder, record, tuple(refused))
        except GalaxySDError as error:
            refused.append(str(error))
    if refused:
        raise BadInput(f"{run}: no checkpoint can be used; {'; '.join(refused)}")
    return None


def bundled() -> Iterator[str]:
    """Names of the models that ship."""
    return (path.stem for path in sorted(PRETRAINED.glob("*.safetensors")))


def locate(model: str | Path) -> tuple[Path, files.Digest | None, tuple[str, ...]]:
    """What a MODEL argument means (a run folder, a checkpoint, a bundled name): its file, its digest where recorded, warnings."""
    path = Path(model)
    if path.is_file():
        if path.name == "model.safetensors" and (path.parent / "record.json").is_file():
            path = path.parent  # its digest is known
        else:
            return path, None, ()
    if (path / "record.json").is_file():
        record = verify(path)
        return path / "model.safetensors", files.Digest(**record["files"]["model"]), ()
    if path.is_dir():
        found = newest(path)
        if found is None:
            raise BadInput(f"{path}: no checkpoint in this folder yet; is it a run of galaxysd train?")
        return found.folder / "model.safetensors", files.Digest(**found.record["files"]["model"]), found.refused
    if str(model) in (names := list(bundled())):
        return PRETRAINED / f"{model}.safetensors", None, ()
    what = f"{model}: no such run folder, checkpoint or bundled model"
    if model in presets():
        raise BadInput(f"{what}, but a preset: galaxysd train --preset {model} makes one; bundled: {', '.join(names)}")
    close = nearest(str(model), names).partition("; known")[0]
    raise BadInput(f"{what}{close}; bundled: {', '.join(names)}")
