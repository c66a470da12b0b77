"""simulate(): the same bytes whoever asks, streams that do not touch each other, and the source that training reads."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from galaxysd import seeds
from galaxysd.data.galaxies import NUMERIC
from galaxysd.data.readers import Order, batches
from galaxysd.errors import GalaxySDError
from galaxysd.simulate import populations, survey
from galaxysd.simulate.survey import SimulatedSource, frame, simulate


@pytest.mark.parametrize("preset", ["atlas", "survey", "tutorial"])
def test_an_image_is_the_same_bytes_in_any_company(preset):
    every = simulate(preset, 3, range(70), 32)
    some = simulate(preset, 3, torch.tensor([69, 0, 33, 32]), 32)
    pick = torch.tensor([69, 0, 33, 32])
    for name in ("images", "counts", "numeric", "index"):
        assert torch.equal(getattr(some, name), getattr(every, name)[pick]), name
    assert some.ids == [every.ids[i] for i in pick.tolist()] == [f"sim-{preset}-3-{i}" for i in pick.tolist()]


def test_threads_change_no_byte():
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(simulate("survey", 4, range(32), 64).images)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_a_source_renders_on_its_device_and_brings_the_images_back(monkeypatch):
    """Where it was rendered is not part of what it is."""
    here, asked, render = SimulatedSource("tutorial", 5, 0, 8, 16), [], survey.simulate

    def spied(preset, seed, index, size, device, **more):
        asked.append(device)
        return render(preset, seed, index, size, "cpu", **more)

    monkeypatch.setattr(survey, "simulate", spied)
    there = dataclasses.replace(here, device="cuda")
    assert torch.equal(there.load(0).images, here.load(0).images)
    assert asked == ["cuda", "cpu"]
    assert there.describe() == here.describe()


@pytest.mark.gpu
def test_a_gpu_renders_what_a_cpu_does():
    here = SimulatedSource("survey", 5, 0, 64, 32)
    there = dataclasses.replace(here, device="cuda").load(0)
    assert there.images.device.type == "cpu"
    assert torch.equal(there.counts, here.load(0).counts)
    assert torch.allclose(there.images, here.load(0).images, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("stream", "changes"), [("votes", "counts"), ("sky", "images"), ("texture", "images")])
def test_streams_are_separate(stream, changes, monkeypatch):
    """With another key for one purpose, what it drives changes and nothing else does."""
    before = simulate("tutorial", 5, range(32), 32)
    key = seeds.key
    monkeypatch.setattr(seeds, "key", lambda seed, purpose: key(seed + (purpose == stream), purpose))
    after = simulate("tutorial", 5, range(32), 32)
    for name in ("images", "counts", "numeric"):
        assert torch.equal(getattr(before, name), getattr(after, name)) == (name != changes), name


def test_frame_keeps_the_field_of_view():
    for preset, view in (("survey", 51.2), ("tutorial", 40.0)):
        for size in (32, 64, 128):
            found = frame(preset, size)
            assert found.pixel_scale == pytest.approx(view / size)
            assert found.kind == "flux"
            assert found.size == size
            assert found.bands == ("g", "r", "i")
    assert frame("survey", 32).sky_rms[1] == pytest.approx(2 * frame("survey", 64).sky_rms[1])


@pytest.mark.parametrize("preset", ["atlas", "survey", "tutorial"])
def test_one_galaxy_has_the_same_flux_at_any_size(preset):
    """Pixels twice as wide hold the same light: thin discs, cusps and lanes thinner than a grid point included."""
    small, large = (simulate(preset, 6, range(128), size, noise=False).images.sum((2, 3)) for size in (32, 64))
    assert float((small / large - 1).abs().max()) < 0.015


def test_numbers_describe_the_image():
    galaxies = simulate("survey", 7, range(64), 64)
    column = dict(zip(NUMERIC, galaxies.numeric.T, strict=True))
    assert float(column["magnitude"].max()) < 17
    assert bool((column["r90_pixels"] >= 5.5 / 0.8 - 1e-4).all())
    corner = galaxies.images[:, 1, :12, :12].flatten(1)
    middle = corner.median(1, keepdim=True).values
    found = 1.4826 * (corner - middle).abs().median(1).values
    assert float((found / column["sky_noise"]).median()) == pytest.approx(1, abs=0.1)
    assert float(column["psf_fwhm_pixels"].mean()) == pytest.approx(1.3 / 0.8, abs=0.06)


def test_source_reads_in_chunks_and_batches():
    source = SimulatedSource("tutorial", 8, 10, 50, 16, chunk=20)
    assert list(source.chunk_rows) == [20, 20, 10]
    assert source.load(1).index.tolist() == list(range(30, 50))
    assert source.describe() == {"simulated": "tutorial", "seed": 8, "first": 10, "n": 50, "size": 16}
    order = Order(source.chunk_rows, seed=0)
    seen = next(batches(source, order, 0, 50))
    assert sorted(seen.index.tolist()) == list(range(10, 60))


def test_bad_requests_are_refused():
    with pytest.raises(GalaxySDError, match="size: 8 pixels; stamps are 16 to 512"):
        frame("survey", 8)
    with pytest.raises(GalaxySDError, match="index: empty"):
        simulate("survey", 0, [], 32)
    with pytest.raises(GalaxySDError, match="simulated galaxies: 0 from number 0"):
        SimulatedSource("survey", 0, 0, 0, 32)


def test_alignment_is_known_of_every_population():
    assert set(populations.ALIGNED) == set(populations.FIELD_OF_VIEW) == set(populations.POPULATIONS)
