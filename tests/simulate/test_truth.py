"""Twins in pixels: equal outside the mask, different inside, the same sky; and the truth that a set carries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from galaxysd.data.readers import open_set
from galaxysd.data.shards import SetWriter
from galaxysd.errors import BadInput
from galaxysd.simulate import render, truth
from galaxysd.simulate.latents import FEATURES, has, without
from galaxysd.simulate.recipe import Recipe, draw
from galaxysd.simulate.survey import SimulatedSource, simulate

SIZE, PIXEL = 64, 0.625


def with_feature(name: str, count: int = 6):
    """Galaxies that have it, all on the finer grid of lanes or none."""
    lat = draw("atlas", 8, range(2048))
    return lat.rows(torch.nonzero(has(lat, name) & ((lat.fine > 0) == (name == "dust-lane")))[:count, 0])


def grid_of(lat, optics):
    ((_, grid),) = render.grids(lat, SIZE, PIXEL, optics)
    return grid


@pytest.mark.parametrize("name", FEATURES)
def test_before_the_atmosphere_twins_are_equal_outside_the_mask(name):
    lat = with_feature(name)
    optics = render.Optics.of(lat, PIXEL)
    grid = grid_of(lat, optics)
    one, other = (render.light(each, 8, grid, optics) for each in (lat, without(lat, [name])))
    flux = render.clean(lat, SIZE, PIXEL, 8)
    mask = truth.truth(lat, flux, SIZE, PIXEL, 8, optics).masks[:, list(FEATURES).index(name)]
    assert bool(mask.flatten(1).any(1).all())
    assert float(mask.float().mean()) < 0.6
    margin = (grid.side - grid.over * SIZE) // 2
    inner = slice(margin, margin + grid.over * SIZE)
    fine = mask.repeat_interleave(grid.over, 1).repeat_interleave(grid.over, 2)[:, None]
    same = (one == other)[..., inner, inner]
    assert bool(same.masked_fill(fine, True).all())
    if name != "field":  # whose stars are points, not light on the grid
        assert not bool(same.masked_fill(~fine, True).flatten(1).all(1).any())


@pytest.mark.parametrize("name", ["bar", "arms", "ring", "dust-lane", "merger"])
def test_after_it_they_differ_by_what_it_spreads(name):
    """The difference of the images is the image of the difference."""
    lat = with_feature(name)
    optics = render.Optics.of(lat, PIXEL)
    grid = grid_of(lat, optics)
    twin = without(lat, [name])
    difference = render.light(lat, 8, grid, optics) - render.light(twin, 8, grid, optics)
    dark = without(lat, ["field"])
    dark = replace(dark, star_flux=torch.zeros_like(dark.star_flux))
    spread = render.observed(difference, dark, grid, optics)
    found = render.clean(lat, SIZE, PIXEL, 8) - render.clean(twin, SIZE, PIXEL, 8)
    assert float((found - spread).abs().max()) < 1e-4 * float(found.abs().max())


def test_twins_have_the_same_sky():
    lat = draw("atlas", 8, range(256))
    rows = torch.nonzero(has(lat, "bar"))[:8, 0]
    galaxies, twins = (simulate(each, 8, rows, SIZE) for each in ("atlas", Recipe("atlas", without=("bar",))))
    flux, twin_flux = (simulate(each, 8, rows, SIZE, noise=False).images for each in ("atlas", Recipe("atlas", without=("bar",))))
    noise, twin_noise = galaxies.images - flux, twins.images - twin_flux
    far = (flux - twin_flux).abs() < 1e-4
    assert 0.5 < float(far.float().mean()) < 1
    assert float((noise - twin_noise)[far].abs().max()) < 1e-3
    assert float(noise[far].std()) > 0.02
    assert bool((galaxies.counts != twins.counts).any())  # the crowd sees no bar


def test_boxes_and_segments_name_what_is_there():
    lat = draw("atlas", 9, range(64))
    flux = render.clean(lat, SIZE, PIXEL, 9)
    found = truth.truth(lat, flux, SIZE, PIXEL, 9, render.Optics.of(lat, PIXEL))
    for row, boxes in enumerate(found.boxes):
        for name, (x0, y0, x1, y1) in boxes.items():
            assert bool(has(lat.rows(torch.tensor([row])), name))
            mask = found.masks[row, list(FEATURES).index(name)]
            assert 0 <= x0 < x1 <= SIZE
            assert bool(mask[y0:y1, x0:x1].any())
        present = {number for number, part in enumerate(truth.COMPONENTS.values(), 1) if bool(part.present(lat.rows(torch.tensor([row]))))}
        assert set(found.segmentation[row].unique().tolist()) <= present | {0}
    galaxies = lat.kind != truth.STAR
    middle = found.segmentation[galaxies, 30:34, 30:34].flatten(1)
    assert float((middle > 0).float().mean()) > 0.98
    assert bool((found.segmentation[~galaxies] == 0).all())


def test_a_box_is_the_smallest():
    mask = torch.zeros(9, 9, dtype=torch.bool)
    assert truth.bounds(mask) is None
    mask[2:5, 3:8] = True
    assert truth.bounds(mask) == [3, 2, 8, 5]


def test_the_truth_comes_back_from_a_set(tmp_path):
    source = SimulatedSource("atlas", 3, 0, 64, 32, chunk=64, with_truth=True)
    with SetWriter(tmp_path / "set", source.frame, {"made_by": "test", **source.describe()}, 64) as writer:
        writer.write(0, source.load(0))
        writer.finish()
    found, lat = open_set(tmp_path / "set").load(0), draw("atlas", 3, range(64))
    clean = simulate("atlas", 3, range(64), 32, noise=False).images
    known = truth.read(found.extra, 32)
    made = simulate("atlas", 3, range(64), 32, with_truth=True, noise=False)
    assert torch.equal(known.flux, clean)
    assert known.segmentation.dtype == torch.uint8
    assert [each.tobytes() for each in known.segmentation.numpy()] == made.extra["segmentation"]
    for number, name in enumerate(FEATURES):
        there = has(lat, name)
        assert found.extra[f"has_{name.replace('-', '_')}"] == there.tolist()
        # What lies outside the stamp has no mask.
        assert name in ("field", "trail") or torch.equal(known.masks[:, number].any(-1).any(-1), there), name
        assert all(bool(there[row]) for row in range(64) if name in known.boxes[row])
    assert truth.columns(known) == {name: found.extra[name] for name in truth.columns(known)}
    with pytest.raises(BadInput, match="no column clean; simulate it with --truth"):
        truth.read({}, 32)
