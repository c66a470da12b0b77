"""The figures of an export: seconds of a bundle with its parity, seconds to the first galaxy, pace beside torch, memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import galaxysd
from tests.perturbed import perturbed

pytestmark = [pytest.mark.proof_export, pytest.mark.timeout(720)]
pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime (galaxysd[export])")


def export(model: str | Path, out: Path, *words: str) -> tuple[dict[str, Any], float]:
    """Exports by the command, as a user does, on as many threads as torch takes; gives its parity and its seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "galaxysd", "export", str(model), "--onnx", "--json", *words, "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), time.perf_counter() - began


def run(bundle: Path, *words: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, bundle / "run_bundle.py", bundle, "--json", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("smoke")
    model = perturbed("smoke-32", folder / "smoke-32.safetensors")
    export(model, folder / "bundle")
    return model, folder / "bundle"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("profile", ["portable", "standard"])
def test_every_form_of_the_models_that_ship(tmp_path: Path, report, profile: str, precision: str):
    for name in ("demo-32", "first-judge"):
        parity, _ = export(name, tmp_path / name, "--profile", profile, "--precision", precision)
        worst = max(case["error"] for case in parity["cases"])
        report(f"{name}, {profile}, {precision}: largest error ({parity['tolerance']['measure']})", worst, n=len(parity["cases"]))
        assert parity["verdict"] == "passed"


def test_small_64_with_its_parity_within_a_minute(tmp_path: Path, report):
    model = perturbed("small-64", tmp_path / "small-64.safetensors")
    parity, seconds = export(model, tmp_path / "bundle")
    report("seconds of the export of small-64 with its parity", seconds, n=1)
    report("largest error of small-64 over the row's spread", max(case["error"] for case in parity["cases"]), n=len(parity["cases"]))
    assert seconds < 60


def test_the_first_galaxy_within_three_seconds(smoke: tuple[Path, Path], tmp_path: Path, report):
    seconds = []
    for turn in range(5):
        began = time.perf_counter()
        found = run(smoke[1], "--out", tmp_path / str(turn))
        started = time.perf_counter() - began - found["seconds"]["all"]  # of the interpreter, before it can look at a clock
        seconds.append(started + found["seconds"]["first_galaxy"])
    report("seconds from start to the first galaxy of smoke-32, best of 5", min(seconds), n=5)
    assert min(seconds) < 3


def test_as_fast_as_torch_on_this_cpu(smoke: tuple[Path, Path], tmp_path: Path, report):
    model, rounds = galaxysd.load(smoke[0], dtype="fp32", device="cpu"), 5
    torch.set_num_threads(1)
    ratios = []
    for turn in range(rounds):
        began = time.perf_counter()
        model.sample(None, 64, seed=turn)
        ours = time.perf_counter() - began
        found = run(smoke[1], "--n", 64, "--seed", turn, "--batch", 16, "--threads", 1, "--png", 0, "--out", tmp_path / str(turn))
        ratios.append(ours / found["seconds"]["drawing"])
    report("runner's images a second over torch's in float32, one thread, median", float(np.median(ratios)), n=rounds)
    assert np.median(ratios) >= 1


def test_memory_does_not_grow_with_the_number_classified(tmp_path: Path, report):
    export("first-judge", tmp_path / "classifier")
    peaks = []
    for n in (2048, 16384):
        stamps = np.lib.format.open_memmap(tmp_path / f"{n}.npy", mode="w+", dtype=np.float32, shape=(n, 3, 32, 32))
        stamps[:] = 0.1
        del stamps
        code = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        command = [tmp_path / "classifier/run_bundle.py", tmp_path / "classifier", "--images", tmp_path / f"{n}.npy"]
        words = [sys.executable, *map(str, command), "--batch", "64", "--out", str(tmp_path / f"votes-{n}")]
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    report("peak MB of classifying 2,048 and 16,384 galaxies", f"{peaks[0]:.0f}, {peaks[1]:.0f}", n=2)
    assert peaks[1] < peaks[0] + 10
