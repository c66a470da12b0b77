"""The doctor tells the truth: what it tries is tried, a "no" has its advice, and it leaves nothing behind."""

from __future__ import annotations

import builtins
import collections
import json
import sys
import types

import pytest
import torch

from galaxysd import cli, doctor


def named(findings, name):
    (found,) = [each for each in findings if each.name == name]
    return found


def test_the_report_covers_the_machine_and_every_no_has_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "WRITTEN", doctor.MEBIBYTE)
    findings = list(doctor.examine(tmp_path))
    assert [each.name for each in findings] == [
        "torch", "CUDA", "bf16", "Triton", "ONNX Runtime", "no clash", "TensorRT", "writing", "free disk",
    ]  # fmt: skip
    assert all(each.ok or each.advice for each in findings)
    assert named(findings, "torch").found.startswith(torch.__version__)
    assert named(findings, "CUDA").ok == torch.cuda.is_available()
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_words_or_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda folder: iter([doctor.Finding("sky", False, "cloudy", "wait")]))
    assert cli.main(["doctor", "--at", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == ["no", "sky", "cloudy"]
    assert said[2].split() == ["->", "wait"]
    assert cli.main(["doctor", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["findings"] == [{"name": "sky", "ok": False, "found": "cloudy", "advice": "wait"}]
    assert shown["machine"]["versions"]["torch"] == torch.__version__


def test_a_folder_that_is_not_there_is_named(tmp_path, capsys):
    assert cli.main(["doctor", "--at", str(tmp_path / "none")]) == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_without_torch_it_still_answers(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for look in (doctor.look_torch, doctor.look_cuda, doctor.look_bf16, doctor.look_triton):
        found = look()
        assert not found.ok
        assert "torch" in found.found
        assert found.advice


def test_onnxruntime_runs_a_model_and_names_the_provider_that_did():
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    found = doctor.look_onnxruntime()
    assert found.ok
    assert "CPU is active" in found.found or "CUDA is active" in found.found


def fake_runtime(monkeypatch, providers, answer, versions):
    class Answer(list):
        def tolist(self):
            return list(self)

    class Session:
        def __init__(self, model, options, providers):
            assert model == doctor.NEGATE

        def run(self, wanted, given):
            return [Answer(answer)]

        def get_providers(self):
            return providers

    module = types.ModuleType("onnxruntime")
    module.__version__, module.InferenceSession, module.SessionOptions = "9.9", Session, types.SimpleNamespace
    module.get_available_providers = lambda: ["CUDAExecutionProvider", *providers]
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(doctor, "version", versions.get)


def test_a_gpu_runtime_that_fell_back_to_the_cpu_is_a_no(monkeypatch):
    fake_runtime(monkeypatch, ["CPUExecutionProvider"], [-1, -2], {"onnxruntime-gpu": "9.9", "onnx": "1", "onnxscript": "1"})
    found = doctor.look_onnxruntime()
    assert not found.ok
    assert "CPU is active" in found.found
    assert "CUDA" in found.advice


def test_a_runtime_that_computes_nonsense_is_a_no(monkeypatch):
    fake_runtime(monkeypatch, ["AzureExecutionProvider", "CPUExecutionProvider"], [0, 0], {})
    found = doctor.look_onnxruntime()
    assert not found.ok
    assert "[0, 0]" in found.found


def test_both_runtimes_in_one_environment_are_a_clash(monkeypatch):
    monkeypatch.setattr(doctor, "version", {"onnxruntime": "1", "onnxruntime-gpu": "1"}.get)
    found = doctor.look_clash()
    assert not found.ok
    assert "pip uninstall" in found.advice


def test_a_library_that_does_not_load_is_told_from_one_that_is_absent(monkeypatch):
    def broken(name):
        raise ImportError("libnvinfer.so.11: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    assert doctor.look_tensorrt().found == "tensorrt: libnvinfer.so.11: cannot open shared object file"


def test_a_folder_one_may_not_write_to_and_a_full_disk_are_noes(monkeypatch, tmp_path):
    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refused)
    found = doctor.look_write_speed(tmp_path)
    assert not found.ok
    assert "Permission denied" in found.found
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: usage(1e9))
    assert not doctor.look_disk(tmp_path).ok
    assert doctor.look_disk(tmp_path).found == "1.0 GB"
