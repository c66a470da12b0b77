"""Physical measurements by the field's own programs, photutils and statmorph, with their flags, on a fixed seeded subsample.

One recipe for both sets: sky from the border, sources above 1.5 sigma in the reference band, the one in the middle measured. Rows that
statmorph flags as bad (flag 2 and more) are left out on both sides, and how many they are is itself compared.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from galaxysd.errors import Unavailable
from galaxysd.evaluate import distances, features, morphology
from galaxysd.evaluate.features import Rows
from galaxysd.evaluate.intervals import Rate

QUANTITIES = ("gini", "m20", "concentration", "asymmetry", "smoothness", "ellipticity_asymmetry", "rhalf_circ", "sersic_n")
ABOVE_SKY, PIXELS = 1.5, 5  # of a source: standard deviations, connected pixels
BAD = 2  # statmorph's flag from which a measurement is not to be used; 4 is its worst, and ours for no source in the middle
WORST = 4
PIECE = 16


def absent() -> str | None:
    """What is not installed, in words; None when both programs are there."""
    gone = [name for name in ("photutils", "statmorph") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(gone)} not installed (pip install 'galaxysd[eval]')" if gone else None


def compare(generated: Rows, held_out: Rows, rows: int, seed: int = 0) -> dict[str, Any]:
    """Gives Wasserstein-1 of each quantity beside its floor, and the share of flagged rows of both sets, over `rows` of each."""
    reason = absent()
    if reason is not None:
        raise Unavailable(f"evaluate: {reason}")
    mine, theirs = (measure(of, rows, seed) for of in (generated, held_out))
    good = [table["flag"] < BAD for table in (mine, theirs)]
    quantities = {}
    for name in QUANTITIES:
        columns = [table[name][kept & table[name].isfinite()] for table, kept in zip((mine, theirs), good, strict=True)]
        w1 = distances.beside(distances.wasserstein, columns[0], columns[1], seed)
        medians = [float(column.quantile(0.5)) if len(column) else None for column in columns]
        quantities[name] = {
            "wasserstein": w1[0].to_json() if w1 else None,
            "median": dict(zip(("generated", "held_out"), medians, strict=True)),
        }
    flagged = {name: Rate(int((~kept).sum()), len(kept)) for name, kept in zip(("generated", "held_out"), good, strict=True)}
    return {
        "programs": {name: importlib.import_module(name).__version__ for name in ("photutils", "statmorph")},
        "band": generated.frame.bands[morphology.reference_band(generated.frame)],
        "relative_only": generated.frame.kind == "rgb",
        "flagged": {name: rate.to_json() for name, rate in flagged.items()},
        "quantities": quantities,
    }


def measure(source: Rows, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Gives each quantity, and `flag`, of a seeded sample of `rows` galaxies: float64 [rows], NaN where there is none."""
    band = morphology.reference_band(source.frame)
    pieces = [piece.double().numpy() for galaxies in features.stream(source, rows, seed) for piece in galaxies.images[:, band].split(PIECE)]
    workers = min(len(pieces), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        table = torch.tensor([row for part in pool.map(_measured, pieces) for row in part], dtype=torch.float64)
    return {name: table[:, place] for place, name in enumerate(("flag", *QUANTITIES))}


def _measured(images: Any) -> list[list[float]]:
    sky, noise = (each[:, 0].tolist() for each in morphology.local_sky(torch.from_numpy(images)[:, None]))
    return [_one(image - level, rms) for image, level, rms in zip(images, sky, noise, strict=True)]


def _one(light: Any, rms: float) -> list[float]:
    import numpy as np
    from photutils.segmentation import detect_sources
    from statmorph import SourceMorphology

    lost = [float(WORST), *[float("nan")] * len(QUANTITIES)]
    if not (np.isfinite(light).all() and rms > 0):
        return lost
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both warn of what the flag says
        found = detect_sources(light, ABOVE_SKY * rms, PIXELS)
        middle = light.shape[-1] // 2
        label = 0 if found is None else found.data[middle - 1 : middle + 1, middle - 1 : middle + 1].max()
        if label == 0:
            return lost
        segment = (found.data == label).astype(int)
        side = max(4, light.shape[-1] // 4)
        morph = SourceMorphology(light, segment, 1, weightmap=np.full(light.shape, rms), skybox_size=side)
        return [float(morph.flag), *(float(getattr(morph, name)) for name in QUANTITIES)]
