"""Kernels with one thing wrong: the checks that pass for the real ones must fail for each.

A mutated copy of `galaxysd.kernels` is imported under another name, its ops in another namespace, and put through the same checks.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

import galaxysd.kernels
from galaxysd.kernels.cases import Shape
from tests.kernels import attend_checks, checks
from tests.kernels.bf16_dot import bf16_dot  # noqa: F401  (a fixture)

KERNELS = Path(galaxysd.kernels.__file__).parent
SMALL, LARGE = Shape(2, 7, 9, 48, 6), Shape(1, 34, 33, 32, 4)  # one pass; two passes
CAT = Shape(2, 6, 5, 24, 4, 8)
CHUNKS = Shape(1, 23, 23, 200, 1)  # more partials than are merged at once


def norm(case: str, shape: Shape, dtype: torch.dtype = torch.float32, offset: float = 0.0) -> Callable[[ModuleType], None]:
    """The check of a norm's case, its input moved away from zero."""

    def judge(cases: ModuleType) -> None:
        given = cases.CASES[case].inputs(shape, dtype, checks.DEVICE, checks.normal(0))
        given["x"] = given["x"] + offset
        checks.check(cases.CASES[case], shape, dtype, given, loose=max(1.0, offset * 0.05))

    return judge


def strided(cases: ModuleType) -> None:
    """The gradient of a slice of channels, as a concatenation's backward hands it over."""
    case = cases.CASES["norm"]
    given = case.inputs(SMALL, torch.float32, checks.DEVICE, checks.normal(0))
    wide = checks.normal(1)("wide", (2, 96, 7, 9)).to(checks.DEVICE, torch.float32).contiguous(memory_format=torch.channels_last)
    cotangent = wide[:, 48:]
    _, gradients = case.launched(given, SMALL, (cotangent,))
    _, slopes = checks.truth(case, given, SMALL, (cotangent,))
    assert checks.relative(gradients["x"], slopes["x"]) < 1e-4, "a strided gradient was read as a dense one"


def attention(check: str, *shape: int | bool) -> Callable[[ModuleType], None]:
    def judge(cases: ModuleType) -> None:
        attend = cases.attend
        getattr(attend_checks, check)(attend.launch_forward, attend.launch_backward, attend_checks.Shape(*shape), torch.float32)

    return judge


@dataclass(frozen=True)
class Mutation:
    """One edit of one file, and the check that has to notice."""

    what: str
    file: str
    old: str
    new: str
    check: Callable[[ModuleType], None]


SHORT, TILED = (2, 2, 16, 5, 3), (1, 1, 16, 13, 11)  # of an attention: batch, heads, their width, the map
LAST_KEYS = r' +scores = tl\.where\(keys\[None, :\] < n, scores, float\("-inf"\)\)\n'
MUTATIONS = [
    Mutation("a launcher that launches nothing", "launching.py", r"kernel\[\(programs,\)\]\(.*\)", "pass", norm("norm", SMALL)),
    Mutation(
        "E[x2] - E[x]2 in one pass",
        "norm_forward.py",
        r"by_group\(tl\.sum\(centred \* centred, 0\), PADDED, CHANNELS\) / count",
        "tl.maximum(by_group(tl.sum(h * h, 0), PADDED, CHANNELS) / count - mean * mean, 0.0)",
        norm("norm", SMALL, offset=1e3),
    ),
    Mutation(
        "E[x2] - E[x]2 in two passes",
        "norm_forward.py",
        r"tl\.sum\(centred \* centred, 0\), mask=channel < c",
        "tl.maximum(tl.sum(h * h, 0) - mean * mean * tl.minimum(ROWS, hw - chunk * ROWS).to(ACC), 0.0), mask=channel < c",
        norm("norm", LARGE, offset=1e4),
    ),
    Mutation(
        "a mask dropped: rows past the last count in the variance",
        "norm_forward.py",
        r"centred = tl\.where\(inside, h - by_channel\(mean, PADDED, CHANNELS\)\[None, :\], 0\.0\)",
        "centred = h - by_channel(mean, PADDED, CHANNELS)[None, :]",
        norm("norm", SMALL, offset=3.0),
    ),
    Mutation("stride coercion off", "norm_backward.py", r"    dy = dy\.contiguous\(.*\)\n", "", strided),
    Mutation("a term of dscale off", "norm_backward.py", r"weight \* s2 \+ bias \* s1", "weight * s2", norm("norm-adaptive", SMALL)),
    Mutation(
        "fp16 statistics",
        "launching.py",
        r"return torch\.promote_types\(dtype, torch\.float32\)",
        "return torch.float16",
        norm("norm", SMALL),
    ),
    Mutation("an addend ignored", "norm_backward.py", r"    if XADD:\n.*\n", "", norm("norm-add", SMALL)),
    Mutation("the second source's addend ignored", "norm_backward.py", r"        if OADD:\n.*\n", "", norm("norm-cat", CAT)),
    Mutation(
        "a residual not written",
        "norm_tiles.py|norm_forward.py",
        r"    tl\.store\(total_ptr \+ at, total, mask=first\)\n",
        "",
        norm("norm-add", SMALL),
    ),
    Mutation("m2 forgotten in dx", "norm_backward.py", r" - xhat \* m2\[None, :\]", "", norm("norm", SMALL)),
    Mutation("the sum of a chunk forgotten", "norm_backward.py", r"s1 \+= tl\.sum\(tl\.load", "s1 = tl.sum(tl.load", norm("norm", CHUNKS)),
    Mutation(
        "dropout not undone in backward",
        "norm_backward.py",
        r"g \* keep_gain, 0\.0\)\n    g =",
        "g, 0.0)\n    g =",
        norm("norm-dropout", SMALL),
    ),
    Mutation("delta missing, one program", "attend_short.py", r" - delta\[:, None\]", "", attention("check_attention", *SHORT)),
    Mutation("delta missing for queries", "attend_tiled.py", r" - delta\[:, None\]", "", attention("check_attention", *TILED)),
    Mutation("delta missing for keys", "attend_tiled.py", r" - delta\[None, :\]", "", attention("check_attention", *TILED)),
    Mutation("keys past the last not masked", "attend_short.py", LAST_KEYS, "", attention("check_attention", *SHORT)),
    Mutation("keys past the last not masked, tiled", "attend_tiled.py", LAST_KEYS, "", attention("check_attention", *TILED)),
    Mutation("attention's coercion off", "attend.py", r"    dout = dout\.contiguous\(.*\n", "", attention("check_strides", *SHORT)),
    Mutation(
        "a keys kernel not launched", "attend_tiled.py", r"launch\(wrap_triton\(_keys\), .*", "pass", attention("check_attention", *TILED)
    ),
    Mutation(
        "the norm of queries not in their gradient",
        "attend_short.py",
        r"dq = unit_gradient\(dq \* gain\[None, :\], q, D, ACC\)",
        "dq = dq * gain[None, :]",
        attention("check_attention", *SHORT, True),
    ),
]


def mutated(mutation: Mutation, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The cases of a copy of the kernels with the edit made."""
    name = f"mutated_{MUTATIONS.index(mutation)}"
    (folder / name / "launches").mkdir(parents=True)
    edits = 0
    for path in [*KERNELS.glob("*.py"), *KERNELS.glob("launches/*.json")]:
        text = path.read_text().replace("galaxysd.kernels", name).replace('"galaxysd::', f'"{name}::')
        if path.name in mutation.file.split("|"):
            text, found = re.subn(mutation.old, lambda _: mutation.new, text)
            edits += found
        (folder / name / path.relative_to(KERNELS)).write_text(text)
    assert edits, f"{mutation.file} no longer holds what {mutation.what!r} edits"
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    return importlib.import_module(f"{name}.cases")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # what is wrong may overflow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_mutation_is_noticed(mutation, tmp_path, monkeypatch, bf16_dot):  # noqa: F811
    mutation.check(galaxysd.kernels.cases)  # the real kernels pass
    cases = mutated(mutation, tmp_path, monkeypatch)
    with pytest.raises(AssertionError):
        mutation.check(cases)
    for module in [each for each in sys.modules if each.startswith(cases.__package__)]:
        del sys.modules[module]
