"""Whatever is legal renders: galaxies at the ends of their bounds through every telescope, in pixels by R90, near and far."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxysd.simulate import recipe
from galaxysd.simulate.latents import EDGE_ON, KINDS
from galaxysd.simulate.recipe import Recipe
from galaxysd.simulate.survey import simulate
from galaxysd.simulate.telescopes import TELESCOPES
from galaxysd.simulate.traits import BOUNDS, HOSTS
from galaxysd.simulate.views import PIXELS, View

pytestmark = pytest.mark.proof_survey

SIZE, FIELD = 48, 20.0  # pixels, and arcsec for all of them: what VIS samples
SHARPEST = 0.8  # arcsec of seeing: what is sharper may fall below a pixel


@st.composite
def row(draw: st.DrawFn) -> dict[str, float]:
    """Traits of one galaxy, each at an end of its bounds or anywhere between."""
    kind = draw(st.integers(0, len(KINDS) - 1))
    found: dict[str, float] = {"kind": kind}
    for name, (low, high) in BOUNDS.items():
        low = {"seeing": SHARPEST, "inclination": 75.0 if kind == EDGE_ON else 0.0}.get(name, low)
        if name in ("kind", "arm_count") or (name in HOSTS and kind not in HOSTS[name]):
            continue
        if draw(st.booleans()):
            found[name] = draw(st.one_of(st.sampled_from([low, high]), st.floats(low, high)))
    if "arms" in found:
        found["arm_count"] = draw(st.integers(1, 5)) if found["arms"] > 0 else 0
    return found


@st.composite
def view(draw: st.DrawFn) -> View:
    redshift = st.one_of(st.none(), st.sampled_from([0.001, 3.0]), st.floats(0.001, 3))
    pixels = draw(st.sampled_from(PIXELS))
    # In pixels by R90 a galaxy brought near has pixels wider than any seeing.
    where = (FIELD, draw(redshift)) if pixels == "arcsec" else (None, None)
    return View(draw(st.sampled_from(sorted(TELESCOPES))), pixels, *where)


def test_extreme_galaxies_are_finite_in_every_view(tier, report):
    rendered = refused = 0

    @settings(max_examples=tier("extreme-galaxies"))
    @given(row(), view(), st.sampled_from(["atlas", "survey", "tutorial"]))
    def holds(galaxy: dict[str, float], through: View, preset: str) -> None:
        nonlocal rendered, refused
        galaxy = galaxy | {"r90": min(galaxy.get("r90", 9.0), FIELD / 2)}
        # A large galaxy in pixels by R90 has pixels wider than the seeing.
        coarse = through.pixels == "r90" and 3.2 * galaxy["r90"] / SIZE > 2.4 * min(through.through.fwhm)
        if coarse:
            refused += 1
            return
        found = simulate(Recipe(preset, fixed=recipe.fixed(galaxy)), 1, [3], SIZE, view=through)
        rendered += 1
        assert bool(found.images.isfinite().all())
        assert bool(found.numeric.isfinite().all())
        assert bool((found.counts >= 0).all())
        assert bool(found.counts.isfinite().all())
        assert float(found.counts[:, :3].sum()) >= 5

    holds()
    report.rate(
        "extreme galaxies in extreme views that render, finite; the others were refused for their pixels", rendered, rendered + refused
    )
    assert rendered > refused
