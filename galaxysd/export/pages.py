"""The two pages of a bundle: what the model is, and how to run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CARD = """# {name}

{does} Precision {precision}, profile {profile} (ONNX opset {opset}).

- **Images**: {kind} of {size} x {size} pixels, bands {bands}{scale}.
- **Labels**: the questions of labels.json ({questions}).
- **Model**: SHA-256 `{sha256}`, after {seen}.
- **Trained on**: {data}.
- **Made by**: galaxysd {galaxysd}, torch {torch}.

## Limits

- What the model draws or says is what its training galaxies were: {data}. On other sky it has shown nothing.
- `parity.json` says how far these graphs are from torch on the machine that exported them; `run_bundle.py` says so for yours, every time.
- Licence: BSD-3-Clause, in LICENSE.
"""

README = """# A bundle of {name}

Runs without galaxysd and without torch:

```console
$ pip install -r requirements.txt
$ python run_bundle.py . --check
{examples}```

`python run_bundle.py --help` names every flag. Parquet and FITS need `requirements-io.txt`. Results go to a folder outside the bundle:
`checksums.json` names every file in here, and the runner opens nothing when one is changed, missing or added. A checksum says that a bundle
is whole and not who made it: for one that you did not export, take the runner from where you trust it.
"""

EXAMPLES = {
    "denoiser": '$ python run_bundle.py . --n 16 --seed 0 --ask "edge-on" --out ../galaxies\n',
    "classifier": "$ python run_bundle.py . --images ../galaxies --out ../votes\n",
}
DOES = {
    "denoiser": "Draws galaxies from what volunteers would say of them.",
    "classifier": "Says how volunteers would vote on a galaxy: expected fractions, Dirichlet concentrations, an embedding.",
}


def card(about: Mapping[str, Any], header: Mapping[str, Any]) -> str:
    """MODEL_CARD.md: `about` is bundle.json, `header` the checkpoint's description."""
    frame, made = about["frame"], about["made_by"]
    return CARD.format(
        name=about["name"],
        does=DOES[about["kind"]],
        precision=about["precision"],
        profile=about["profile"],
        opset=about["opset"],
        kind="linear flux in " + frame["unit"] if frame["kind"] == "flux" else "8-bit colour",
        size=frame["size"],
        bands=" ".join(frame["bands"]),
        scale=f", {frame['pixel_scale']:g} arcsec a pixel" if frame["pixel_scale"] else "",
        questions=frame["schema"],
        sha256=about["model_sha256"],
        seen=f"{header['images']} images" if "images" in header else "an unknown number of images",
        data=trained_on(header.get("card", {}).get("data", header.get("trained_on"))),
        galaxysd=made["galaxysd"],
        torch=made["torch"],
    )


def trained_on(data: Any) -> str:
    """What a checkpoint says of its galaxies, in a line."""
    if not isinstance(data, Mapping):
        return "data that its checkpoint does not name"
    sources = data["mixed"] if isinstance(data.get("mixed"), list) else [data]
    return "; ".join(_source(each) for each in sources)


def _source(data: Mapping[str, Any]) -> str:
    if {"n", "simulated", "seed"} <= data.keys():
        return f"{data['n']} simulated galaxies of `{data['simulated']}`, seed {data['seed']}"
    return ", ".join(f"{name} {value}" for name, value in data.items() if isinstance(value, (str, int, float)))


def readme(about: Mapping[str, Any]) -> str:
    """README.md of a bundle."""
    return README.format(name=about["name"], examples=EXAMPLES[about["kind"]])
