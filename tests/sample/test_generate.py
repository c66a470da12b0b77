"""Image i is the same bytes whatever batch, worker count, neighbours or order it is drawn in; and it is what was asked for."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import galaxysd
from galaxysd.data import conditions, readers
from galaxysd.errors import BadInput, GalaxySDError, Unavailable
from galaxysd.model.layers import Conv, Linear
from galaxysd.sample.command import draw_set
from galaxysd.sample.generate import Settings
from galaxysd.sample.requests import requested
from tests import tiny


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    out = tmp_path_factory.mktemp("generator") / "run"
    tiny.run(out, "train.steps=400", "train.learning_rate=5e-3")
    return galaxysd.load(out, dtype="fp32")


def draw(generator, rows, index, batch=64, workers=None, seed=3):
    settings = Settings.of(generator.config.sample)
    parts = list(generator.draw(rows, index, seed, settings, batch, workers))
    return {int(i): image.numpy().tobytes() for part in parts for i, image in zip(part.index, part.images, strict=True)}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_same_bytes_for_any_batch_workers_and_company(generator, dtype: str):
    model = galaxysd.load(generator.path, dtype=dtype)
    rows = requested("smooth", 13, 40, model.schema)[0]
    rows.counts[5:] = requested("edge-on", 8, 40, model.schema)[0].counts
    whole = draw(model, rows, torch.arange(13))
    assert len(set(whole.values())) == 13
    assert draw(model, rows, torch.arange(13), batch=4) == whole
    assert draw(model, rows, torch.arange(13), batch=1, workers=1) == whole
    assert draw(model, rows, torch.arange(13), workers=3) == whole
    some = torch.tensor([11, 2, 7])
    assert draw(model, rows.rows(some), some) == {int(i): whole[int(i)] for i in some}


def test_one_index_under_several_conditions_and_any_order(generator):
    """A sweep: the same noise under other votes. Each row is what it would be alone, in the order asked for."""
    index = torch.tensor([9, 3, 9, 3, 0])
    names = ("smooth", "smooth", "edge-on", "barred", "edge-on")
    rows = [requested(name, 1, 40, generator.schema)[0] for name in names]
    asked = type(rows[0])(torch.cat([row.counts for row in rows]), torch.cat([row.numeric for row in rows]))
    together = generator.sample(asked, seed=3, index=index)
    assert together.galaxies.index.tolist() == index.tolist()
    for place, row in enumerate(rows):
        alone = generator.sample(row, seed=3, index=index[place : place + 1])
        assert together.flux[place].tobytes() == alone.flux[0].tobytes()
    with pytest.raises(GalaxySDError, match="index: 2 galaxies, 5 are asked for"):
        generator.sample(asked, seed=3, index=index[:2])


def test_seed_condition_and_settings_each_change_the_image(generator):
    rows = requested("smooth", 2, 40, generator.schema)[0]
    base = draw(generator, rows, torch.arange(2))
    assert draw(generator, rows, torch.arange(2), seed=4) != base
    assert draw(generator, requested("edge-on", 2, 40, generator.schema)[0], torch.arange(2)) != base
    images = [generator.sample("smooth", 1, seed=3, **change).flux.tobytes() for change in ({}, {"steps": 4}, {"guidance": 3.0})]
    assert len(set(images)) == 3


def test_the_threads_of_the_process_are_left_as_they_were(generator):
    before = torch.get_num_threads()
    generator.sample(n=3)
    assert torch.get_num_threads() == before


def test_it_draws_what_it_learned(generator):
    """Blobs are bright in the middle, brighter in i than in g, and of about the flux they were trained on."""
    flux = generator.sample("smooth", 16, seed=1, steps=12).flux
    real = tiny.Blobs().load(0).images.numpy()
    assert flux[:, :, 3:5, 3:5].mean() > 3 * flux[:, :, 0].mean()
    assert (flux[:, 2].sum((1, 2)) > flux[:, 0].sum((1, 2))).all()
    assert 0.5 < np.median(flux.sum((1, 2, 3))) / np.median(real.sum((1, 2, 3))) < 2


def test_a_batch_in_every_form(generator):
    batch = generator.sample(
        {"magnitude": [16.2, None], "smooth-or-featured_smooth": [0.7, 0.2], "smooth-or-featured_featured": [0.3, 0.8]}
    )
    assert batch.flux.shape == (2, 3, 8, 8)
    assert batch.rgb.shape == (2, 8, 8, 3)
    assert batch.rgb.dtype == np.uint8
    row = batch.table.to_pylist()[0]
    assert row["is_synthetic"] is True
    assert row["cond_smooth-or-featured_smooth"] == pytest.approx(28)
    assert row["cond_bar_yes"] is None
    assert row["cond_magnitude"] == pytest.approx(16.2)
    assert batch.table.to_pylist()[1]["cond_magnitude"] is None


def test_astropy_forms(generator):
    pytest.importorskip("astropy", reason="needs astropy (galaxysd[data])")
    batch = generator.sample("smooth", 2, seed=9)
    data = batch.to_nddata()[1]
    assert np.array_equal(data.data, batch.flux[1])
    assert data.unit.to_string() == "nmgy"
    assert data.meta["synthetic"] is True
    for number, hdul in enumerate(batch.to_hdul()):
        with hdul:
            assert hdul[0].header["SYNTHET"] is True
            assert np.array_equal(hdul["R"].data, batch.flux[number, 1])


def test_a_set_that_was_interrupted_is_continued_to_the_same_bytes(generator, tmp_path: Path):
    rows = requested("smooth", 10, 40, generator.schema)[0]
    settings = Settings.of(generator.config.sample)
    draw_set(generator, rows, tmp_path / "whole", 1, settings, shard_rows=4)
    draw_set(generator, rows, tmp_path / "cut", 1, settings, shard_rows=4)
    kept = (tmp_path / "cut/data/shard-00000.parquet").stat().st_mtime_ns
    (tmp_path / "cut/manifest.json").unlink()
    (tmp_path / "cut/data/shard-00001.json").unlink()
    draw_set(generator, rows, tmp_path / "cut", 1, settings, shard_rows=4)
    whole, cut = (readers.open_set(tmp_path / name) for name in ("whole", "cut"))
    assert [record["sha256"] for record in whole.manifest["shards"]] == [record["sha256"] for record in cut.manifest["shards"]]
    assert (tmp_path / "cut/data/shard-00000.parquet").stat().st_mtime_ns == kept
    found = whole.read()
    assert found.ids[3].endswith("-1-3")
    assert torch.equal(found.cond_counts, rows.counts)
    assert whole.provenance["is_synthetic"] is True


@pytest.mark.parametrize(
    ("asked", "n", "words"),
    [
        ("barrd", 1, "no such answer; did you mean barred"),
        ("has-spiral-arms_yes=1.4", 1, "has-spiral-arms_yes.*1.4"),
        ("round", 1, "ambiguous: it can mean how-rounded_round or edge-on-bulge_round"),
        ({"colour": [1.0]}, None, "column 'colour' is neither an answer nor a number"),
        ({"bar_yes": [-1.0]}, None, "votes of bar go down to -1"),
        ({"bar_yes": ["many"]}, None, "column 'bar_yes' is not numeric"),
        ({"bar_yes": [3.0, 4.0]}, 5, "5 galaxies asked for, the table has 2 rows"),
        (None, 0, "n: 0; give at least 1"),
    ],
)
def test_what_cannot_be_asked_is_said(generator, asked, n, words: str):
    with pytest.raises(GalaxySDError, match=words):
        generator.sample(asked, n)


def test_unknown_sampler(generator):
    with pytest.raises(GalaxySDError, match="sampler huen: no such sampler; did you mean heun"):
        generator.sample(n=1, sampler="huen")


def test_a_column_that_could_mean_two_answers(generator):
    with pytest.raises(BadInput, match="neither an answer nor a number"):
        generator.sample({"round": [1.0]})


@pytest.mark.parametrize(
    ("asked", "changes", "words"),
    [
        ({"bar_yes": [1.0, 2.0], "bar_no": [1.0]}, {}, "columns of 1 and of 2 rows"),
        ({"bar_yes": [float("inf")]}, {}, "votes of bar are infinite in 1 rows"),
        ("smooth", {"guidance": float("nan")}, "guidance: nan .* must be finite"),
        ("smooth", {"guidance": 1e30}, r"draws pixels that are not finite with 3 steps of heun at guidance 1e\+30"),
    ],
)
def test_nothing_is_drawn_that_is_no_image(generator, asked, changes, words: str):
    with pytest.raises(GalaxySDError, match=words):
        generator.sample(asked, **changes)


@pytest.mark.parametrize(("device", "code"), [("cdua", 2), ("cuda:77", 4)])
def test_a_device_that_is_not_there(generator, device: str, code: int):
    with pytest.raises(GalaxySDError, match=f"device {device}: ") as caught:
        galaxysd.load(generator.path, device=device)
    assert caught.value.exit_code == code


def test_neighbours_that_nobody_asked_for_do_not_leak_into_an_image(generator):
    """A unit is padded to its full size and slot: galaxy 6 alone is computed as it is among others."""
    rows = requested("smooth", 8, 40, generator.schema)[0]
    whole = draw(generator, rows, torch.arange(8))
    shapes = []
    handle = generator.denoiser.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape[0]))
    try:
        alone = draw(generator, rows.rows(torch.tensor([6])), torch.tensor([6]))
    finally:
        handle.remove()
    assert alone == {6: whole[6]}
    unit = generator.config.sample.unit
    assert set(shapes) <= {unit, 2 * unit}


class Cramped:
    """The denoiser in memory that holds so many units at once: the call of one more raises what CUDA raises."""

    def __init__(self, denoiser, most: int) -> None:
        self.denoiser, self.most, self.now = denoiser, most, 0
        self.changed, self.thread = threading.Condition(), threading.local()

    def __call__(self, x, sigma, features):
        with self.changed:
            self.now += 1
            full = self.now > self.most
            self.changed.notify_all()
            if not full and not hasattr(self.thread, "known"):
                self.thread.known = True
                self.changed.wait_for(lambda: self.now > self.most, timeout=0.3)  # for the others of the crew
        try:
            if full:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total capacity of 4 GiB.")
            return self.denoiser(x, sigma, features)
        finally:
            with self.changed:
                self.now -= 1


def test_fewer_units_at_once_where_memory_runs_out_and_the_same_bytes(generator, capsys):
    rows = requested("smooth", 16, 40, generator.schema)[0]
    whole = draw(generator, rows, torch.arange(16), workers=4)
    capsys.readouterr()
    cramped = generator.guided_by(None)  # a copy
    cramped.evaluate = Cramped(generator.denoiser, 1)
    assert draw(cramped, rows, torch.arange(16), workers=4) == whole
    assert "out of memory with 4 units at once (asked for 3.50 GiB); 2 from here on, to the same bytes" in capsys.readouterr().err
    assert cramped.fits == 1
    assert draw(cramped, rows, torch.arange(16), workers=4) == whole
    assert capsys.readouterr().err == ""  # it is known by now
    assert generator.fits is None


def test_a_unit_too_large_for_memory_is_said(generator):
    cramped = generator.guided_by(None)
    cramped.evaluate = Cramped(generator.denoiser, 0)
    with pytest.raises(Unavailable, match=r"unit 2 \(galaxies 8 to 11\): does not fit in memory by itself \(asked for 3.50 GiB\); free"):
        cramped.sample("smooth", index=torch.tensor([9]))


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """A smaller and worse model of the same galaxies."""
    out = tmp_path_factory.mktemp("guide") / "run"
    tiny.run(out, "train.steps=20", "train.learning_rate=5e-3", "model.channels=[8,8]")
    return galaxysd.load(out, dtype="fp32")


def test_a_guide_leads_away_from_itself(generator, guide):
    asked = {"seed": 3, "guidance": 2.0}
    led = generator.sample("smooth", 5, guide=guide, **asked)
    assert led.flux.tobytes() != generator.sample("smooth", 5, **asked).flux.tobytes()
    assert led.flux.tobytes() == generator.sample("smooth", 5, guide=str(guide.path), **asked).flux.tobytes()
    assert led.provenance["guide_sha256"] == guide.digest.sha256
    assert led.provenance["model_sha256"] == generator.digest.sha256
    assert "guide_sha256" not in generator.sample("smooth", 1).provenance
    # What a guide of no difference leads away from is the model's own answer: the conditional model, to rounding.
    plain = generator.sample("smooth", 5, seed=3, guidance=1.0)
    own = generator.sample("smooth", 5, guide=generator, **asked)
    assert np.allclose(own.flux, plain.flux, rtol=1e-4, atol=1e-4)


def test_bytes_under_a_guide_are_those_of_any_batch_and_workers(generator, guide):
    led = generator.guided_by(guide)
    rows = requested("smooth", 9, 40, led.schema)[0]
    whole = draw(led, rows, torch.arange(9))
    assert draw(led, rows, torch.arange(9), batch=1, workers=1) == whole
    assert draw(led, rows, torch.arange(9), workers=3) == whole


def test_at_strength_one_no_guide_is_asked(generator, guide):
    def never(x, sigma, features):
        raise AssertionError("the guide was asked")

    silent = guide.guided_by(None)
    silent.evaluate = never
    plain = generator.sample("smooth", 2, seed=3, guidance=1.0)
    assert generator.sample("smooth", 2, seed=3, guidance=1.0, guide=silent).flux.tobytes() == plain.flux.tobytes()
    with pytest.raises(AssertionError, match="the guide was asked"):
        generator.sample("smooth", 2, seed=3, guidance=1.5, guide=silent)


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("frame", {"pixel_scale": 0.262}, r"frame.pixel_scale is 0.262, that of .* is 1.0; guide with a smaller or an earlier model"),
        ("stretch", {"gain": (1.0, 2.0, 3.0)}, r"stretch.gain is \(1.0, 2.0, 3.0\), that of .* is \("),
        ("diffusion", {"sigma_data": 0.7}, r"diffusion.sigma_data is 0.7, that of .* is 0.5"),
        ("condition", {"schema": "mine"}, r"condition.schema is mine, that of .* is gz2"),
    ],
)
def test_a_guide_of_other_galaxies_is_refused(generator, guide, part, change, words):
    other = guide.guided_by(None)
    if part in ("frame", "stretch"):
        setattr(other, part, replace(getattr(guide, part), **change))
    else:
        other.config = replace(guide.config, **{part: replace(getattr(guide.config, part), **change)})
    with pytest.raises(BadInput, match=f"guide .*: {words}"):
        generator.guided_by(other)


def test_a_guide_in_another_precision_is_refused_and_one_of_another_law_of_noise_is_not(generator, guide):
    with pytest.raises(BadInput, match=r"precision is bf16, that of .* is fp32; load both alike"):
        generator.sample("smooth", 1, guide=galaxysd.load(guide.path, dtype="bf16"))
    other = guide.guided_by(None)
    other.config = replace(guide.config, diffusion=replace(guide.config.diffusion, p_mean=-1.2))
    assert generator.guided_by(other).guide is other


def test_weights_are_cast_once(generator):
    """One frozen copy in the network's precision: no call casts a weight of a convolution or a linear layer."""
    model = galaxysd.load(generator.path, dtype="bf16")
    weights = {t.data_ptr() for m in model.denoiser.net.modules() if isinstance(m, (Conv, Linear)) for t in (m.weight, m.bias)}
    assert all(m.weight.dtype is torch.bfloat16 for m in model.denoiser.net.modules() if isinstance(m, (Conv, Linear)))
    assert all(parameter.dtype is torch.float32 for parameter in generator.denoiser.parameters())

    class Casts(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in weights:
                Casts.found += 1
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Casts():
        model.denoiser(torch.zeros(4, 3, 8, 8), torch.ones(4), torch.zeros(4, conditions.width(model.schema)))
        assert Casts.found == 0
        model.denoiser.net.stem(torch.zeros(1, 16, 4, 4))  # and this is one
    assert Casts.found == 2
