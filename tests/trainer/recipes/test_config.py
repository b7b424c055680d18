"""Configuration: files, overrides, refusals; the schedule against its formula; the documented keys."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from renderers import OptionError, UserError
from tests.trainer.recipes.run_samples import ROOT
from trainer.recipes import TrainConfig, default_learning_rate, learning_rate_at, load_config, resolve_learning_rate

NEEDED = {"shards": "s", "model": "m", "out": "o"}


def load(*overrides: str, file: Path | None = None) -> TrainConfig:
    return load_config(file, overrides, NEEDED)


def test_overrides_win_over_the_file_and_options_over_both(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "other"\nepochs = 3\nseed = 4\n[lora]\nrank = 8\nalpha = 16\n')
    config = load("seed=5", "lora.rank=2", "learning_rate=1e-4", 'sample.prompts=["a b", "c"]', file=file)
    assert (config.model, config.epochs, config.seed) == ("m", 3, 5)
    assert (config.lora.rank, config.lora.alpha) == (2, 16.0)
    assert config.learning_rate == 1e-4
    assert config.sample.prompts == ("a b", "c")


def test_values_are_toml_or_plain_text() -> None:
    config = load("shuffle=false", "device=cuda:1", "batch_tokens=512", "batch_size=none", "schedule=cosine")
    assert (config.shuffle, config.device, config.batch_tokens, config.batch_size) == (False, "cuda:1", 512, None)
    assert load().batch_size == 32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "learning_rat: unknown key; did you mean learning_rate?"),
        ("lora.rnk=1", "lora.rnk: unknown key; did you mean lora.rank?"),
        ("epochs=0", "epochs: input should be greater than or equal to 1; got 0"),
        ("schedule=step", "schedule: "),
        ("epochs", "epochs: expected key=value"),
        ("model.rank=1", "model.rank: model is a value, not a table"),
        ("lora=3", "lora: "),
    ],
)
def test_what_cannot_be_is_refused_by_key(override: str, message: str) -> None:
    fixed = {key: value for key, value in NEEDED.items() if key != "model"}
    with pytest.raises(OptionError, match=re.escape(message)):
        load_config(None, ["model=m", override], fixed)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(OptionError, match="model: expected a value; got none"):
        load_config(None, [], {"shards": "s", "out": "o", "model": None})


def test_a_file_that_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("epochs = ")
    with pytest.raises(UserError, match=r"run\.toml: expected TOML"):
        load(file=tmp_path / "run.toml")
    with pytest.raises(UserError, match=r"none\.toml: expected a TOML file"):
        load(file=tmp_path / "none.toml")


def plain_rate(step: int, steps: int, peak: float, config: TrainConfig) -> float:
    """Piece by piece: a ramp, then the shape between the peak and its floor."""
    warm, floor = config.warmup_steps, peak * config.min_lr_ratio
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / (steps - warm)
    shapes = {
        "constant": peak,
        "linear": peak + (floor - peak) * share,
        "cosine": floor + (peak - floor) * (1 + math.cos(math.pi * share)) / 2,
    }
    return shapes[config.schedule]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_the_schedule_is_its_formula(schedule: str, warmup: int) -> None:
    config = load(f"schedule={schedule}", f"warmup_steps={warmup}", "min_lr_ratio=0.1")
    rates = [learning_rate_at(step, 20, 2e-3, config) for step in range(20)]
    assert rates == pytest.approx([plain_rate(step, 20, 2e-3, config) for step in range(20)])
    assert max(rates) == pytest.approx(2e-3)
    assert all(rate > 0 for rate in rates)


def test_a_run_shorter_than_its_warmup() -> None:
    config = load("warmup_steps=10")
    assert [learning_rate_at(step, 3, 1.0, config) for step in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_the_default_rate_follows_the_width(tmp_path: Path) -> None:
    assert default_learning_rate(2000, "qwen3") == pytest.approx(5e-4)
    assert default_learning_rate(4000, "llama") < default_learning_rate(2000, "llama")
    (tmp_path / "config.json").write_text('{"text_config": {"hidden_size": 2000, "model_type": "llama"}}')
    assert resolve_learning_rate(TrainConfig(shards="s", model=str(tmp_path), out="o")) == pytest.approx(5e-4)


def documented(text: str) -> dict[str, str]:
    """Key and default of every row of the table of keys."""
    text = text.split("\n## Configuration\n")[1].split("\n## ", maxsplit=1)[0]
    return dict(re.findall(r"^\| `([a-z0-9_.]+)` \| (.+?) \|", text, re.MULTILINE))


def declared(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= declared(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = "needed" if field.is_required() else _shown(field.default)
    return found


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[]" if not value else str(list(value))
    return str(value)


def test_the_documented_keys_and_defaults_are_the_codes() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    table = {key: default.strip("`") for key, default in documented(page).items()}
    assert table == declared(TrainConfig)
