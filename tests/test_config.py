"""Settings: who overrides whom, and what is refused in words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from galaxysd import config
from galaxysd.errors import BadInput, GalaxySDError


def test_preset_then_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nbatch = 8\nlearning_rate = 1\n")
    found = config.load("smoke-32", file, ["train.batch=4", "model.channels=[64, 64]", "train.dtype=fp32", "train.flips=false"])
    assert found.name == "smoke-32"
    assert found.model.blocks == 1  # the preset
    assert found.train.learning_rate == 1.0  # the file, and an integer where a float is meant
    assert type(found.train.learning_rate) is float
    assert (found.train.batch, found.model.channels, found.train.dtype, found.train.flips) == (4, (64, 64), "fp32", False)


@pytest.mark.parametrize("name", config.presets())
def test_every_preset_survives_json(name: str) -> None:
    found = config.load(name)
    assert config.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_parts_of_a_step_are_said_only_where_there_are_some() -> None:
    """What was written before they could be set is what is written now."""
    assert "accumulate" not in config.load("smoke-32").to_json()["train"]
    found = config.load("smoke-32", overrides=["train.accumulate=4"])
    assert found.to_json()["train"]["accumulate"] == 4
    assert config.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.bacth=4", r"train\.bacth: no such setting; did you mean batch\?"),
        ("trian.batch=4", r"trian: no such setting; did you mean train\?"),
        ("train.batch", r"expected section\.key=value"),
        ("train.batch=big", r"train\.batch: 'big' is a str, int expected"),
        ("train.batch=0", r"train\.batch: 0; must be at least 1"),
        ("train.accumulate=0", r"train\.accumulate: 0; must be at least 1"),
        ("train.flips=1", r"train\.flips: 1 is a int, bool expected"),
        ("train=3", r"train\.: 3 is not a table|train: 3 is not a table|3 is not a table"),
        ("model.channels=[60]", r"60 is not a multiple of model\.group_width \(8\); use 64"),
        ("model.channels=[]", r"model\.channels: empty"),
        ("model.channels=7", r"model\.channels: 7 is not a list"),
        ("model.image_size=33", r"33 does not divide by 4 .*; use 36"),
        ("model.channels=[64,72]", r"72 at map side 8 has attention but is not a multiple of model\.head_width \(64\)"),
        ("train.dtype=bf15", r"train\.dtype: 'bf15'; did you mean bf16\?"),
        ("train.decay=-1", r"train\.decay: -1\.0; must not be negative"),
        ("train.minutes=nan", r"train\.minutes"),
        ("diffusion.sigma_min=0", r"sigma_min 0\.0 must be positive"),
        ("condition.drop_all=2", r"condition\.drop_all: 2\.0; must lie in \[0, 1\]"),
        ("sample.steps=0", r"sample: steps 0"),
        ("sample.steps=1_000_000_000", r"sample\.steps: 1000000000; must be at most 10000"),
        ("sample.unit=1_000_000_000", r"sample\.unit: 1000000000 images of 32 pixels hold"),
        ("model.blocks=1_000_000_000", r"model\.blocks: 1000000000; must be at most 64"),
        ("model.image_size=2**31", r"model\.image_size: '2\*\*31' is a str"),
        ("model.image_size=65536", r"model\.image_size: 65536; must be at most 8192"),
        ("model.channels=[4611686018427387904,64]", r"up to 4611686018427387904 channels; at most"),
        ("model.cond_width=1_099_511_627_776", r"model\.cond_width: .* must be at most"),
        ("train.learning_rate=1e999", r"train\.learning_rate: inf; a finite number"),
        ("diffusion.sigma_data=0", r"sigma_data 0\.0 must be positive"),
        ("diffusion.sigma_max=1e300", r"diffusion\.sigma_max: 1e\+300; must be at most 1e\+06"),
        ("diffusion.rho=0", r"rho 0\.0 lie in \[1, 100\]"),
        ("sample.interval=[1]", r"sample\.interval: 1 values, 2 expected"),
        ("schema_version=2", r"schema_version: 2, this galaxysd reads 1"),
    ],
)
def test_what_cannot_work_is_refused_in_words(override: str, words: str) -> None:
    with pytest.raises(GalaxySDError, match=words):
        config.load("smoke-32", overrides=[override])


def test_unknown_preset_and_broken_file(tmp_path: Path) -> None:
    with pytest.raises(GalaxySDError, match="did you mean smoke-32"):
        config.load("smoke32")
    with pytest.raises(BadInput, match="no such config file"):
        config.load(file=tmp_path / "a.toml")
    (tmp_path / "a.toml").write_text("[train")
    with pytest.raises(BadInput, match="not valid TOML"):
        config.load(file=tmp_path / "a.toml")


def test_code_in_a_setting_stays_text() -> None:
    with pytest.raises(GalaxySDError, match="is a str, int expected"):
        config.load("smoke-32", overrides=["train.batch=__import__('os').getpid()"])


def test_config_needs_no_torch() -> None:
    code = "import sys, galaxysd.config, galaxysd.files, galaxysd.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
