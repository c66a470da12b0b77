"""A job's galaxies are those that `galaxysd sample` draws; a recipe's are the same, drawn when they are wanted."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import torch

from galaxysd.cli import main
from galaxysd.data import readers
from galaxysd.jobs import plan as plans
from galaxysd.jobs.sampling import Drawn, Sampler
from tests import jobbing

ASK = ("--ask", "edge-on")


def test_as_sample_draws_them(model, tmp_path: Path, forked):
    job = jobbing.planned(model, tmp_path / "job", 40, *ASK)
    assert jobbing.run(job, "--workers", "1") == 0
    jobbing.union(job)
    words = ["sample", str(model), "--n", "40", "--seed", "3", *jobbing.QUICK, *ASK, "--out", str(tmp_path / "set")]
    assert main(words) == 0
    mine, theirs = readers.open_set(job).read(), readers.open_set(tmp_path / "set").read()
    assert mine.ids == theirs.ids
    assert torch.equal(mine.images, theirs.images)
    assert torch.equal(mine.cond_counts, theirs.cond_counts)


def test_a_recipe_is_the_table_without_images_and_draws_them(model, tmp_path: Path, forked):
    jobs = [jobbing.planned(model, tmp_path / store, 40, *ASK, "--store", store) for store in plans.STORES]
    for job in jobs:
        assert jobbing.run(job, "--workers", "1") == 0
        jobbing.union(job)
    pixels, recipe = ([pq.read_table(job / "data" / f"shard-{k:05d}.parquet") for k in range(2)] for job in jobs)
    for whole, bare in zip(pixels, recipe, strict=True):
        assert bare.equals(whole.drop_columns(["image", "image_dtype", "image_shape"]))
    drawn, stored = Drawn(jobs[1]), readers.open_set(jobs[0])
    assert list(drawn.chunk_rows) == list(stored.chunk_rows)
    assert torch.equal(drawn.load(1).images, stored.load(1).images)
    batch = next(readers.batches(drawn, readers.Order.of(drawn, 0), 0, 8))
    assert torch.equal(batch.images, stored.read().images[batch.index])


def test_a_recipe_of_a_billion_is_planned_and_read_anywhere(model, tmp_path: Path, command):
    job = tmp_path / "job"
    words = ("--store", "recipe", "--balance", "spiral-arm-count")
    jobbing.planned(model, job, 10**9, *words, shard_rows=65_536)
    assert sum(path.stat().st_size for path in job.iterdir()) < 1 << 20
    plan = plans.read(job)
    assert plan.shards == 15_259
    table = Sampler(job, plan).make(plan.shards - 1, lambda _: None).table
    assert table.num_rows == 10**9 - 15_258 * 65_536
    assert table["index"][-1].as_py() == 10**9 - 1
    assert table.nbytes < 64 << 20
    code, said, _ = command("jobs", "status", str(job))
    assert code == 0
    assert "0 of 1,000,000,000 galaxies (0.0%), 0 of 15,259 shards" in said
