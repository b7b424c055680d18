"""`report.html` of a run: curves, the configuration and samples, as one file without a script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from datasets_io import render_page, write_page

from .curves import Chart, chart
from .run_folder import RunFolder

__all__ = ["report_page", "write_report"]

_SAMPLES_SHOWN = 40
# title, note, [(metric, name, CSS class)]
_CHARTS: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Loss",
        "mean negative logprob of trained tokens, in nats, weighted",
        (("train_mean_nll", "training", "main"), ("test/nll", "held out", "other")),
    ),
    ("Preference loss", "mean over pairs", (("dpo_loss", "training", "main"), ("test/dpo_loss", "held out", "other"))),
    (
        "Margin",
        "reward of the chosen less that of the rejected half",
        (("margin", "training", "main"), ("test/margin", "held out", "other")),
    ),
    (
        "Pairs in order",
        "share of pairs whose chosen half has the greater reward",
        (("accuracy", "training", "main"), ("test/accuracy", "held out", "other")),
    ),
    ("Held-out bits per byte", "of trained text, weighted", (("test/bits_per_byte", "held out", "other"),)),
    ("Learning rate", "of each step", (("learning_rate", "learning rate", "main"),)),
    ("Throughput", "model input tokens per second", (("tokens_per_second", "tokens per second", "main"),)),
    ("Gradient norm", "before clipping", (("optim/grad_norm", "gradient norm", "main"),)),
)


class _Tile(NamedTuple):
    label: str
    value: str
    note: str


def write_report(folder: RunFolder) -> int:
    """Write `report.html` from what the run folder holds; gives its size in bytes."""
    config = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    return write_page(folder.report_path, report_page(config, folder.metrics(), folder.samples()))


def report_page(config: Mapping[str, Any], metrics: list[dict[str, Any]], samples: list[dict[str, Any]]) -> str:
    """The page.

    Args:
        config: of `config.json`.
        metrics, samples: lines of the files of these names.
    """
    charts = [made for title, note, lines in _CHARTS if (made := _chart(title, note, lines, metrics)) is not None]
    return render_page(
        "training.html.j2",
        package="trainer.recipes",
        styles=["page.css", "report.css", "training.css"],
        title=str(config.get("out", "")),
        config=_flat(config),
        model=str(config.get("model", "")),
        shards=str(config.get("shards", "")),
        tiles=_tiles(metrics),
        charts=charts,
        samples=samples[-_SAMPLES_SHOWN:],
        samples_left_out=max(0, len(samples) - _SAMPLES_SHOWN),
    )


def _chart(
    title: str, note: str, lines: tuple[tuple[str, str, str], ...], metrics: list[dict[str, Any]]
) -> Chart | None:
    series = [(name, kind, _points(metrics, key)) for key, name, kind in lines]
    return chart(title, note, series)


def _points(metrics: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    # NaN is null in JSON.
    return [(line["step"], line[key]) for line in metrics if line.get(key) is not None]


def _tiles(metrics: list[dict[str, Any]]) -> list[_Tile]:
    steps = [line for line in metrics if "num_tokens" in line]
    tokens = sum(line["num_tokens"] for line in steps)
    seconds = sum(line["time/total"] for line in steps)
    tiles = [
        _Tile("Steps", f"{len(steps):,}", f"{steps[-1]['progress']:.0%} of the run" if steps else "none yet"),
        _Tile("Tokens", f"{tokens:,.0f}", "positions the model read"),
        _Tile("Throughput", f"{tokens / seconds:,.0f}" if seconds else "–", "tokens per second of steps"),
    ]
    for key, label in (
        ("train_mean_nll", "Training loss"),
        ("test/nll", "Held-out loss"),
        ("dpo_loss", "Preference loss"),
        ("test/dpo_loss", "Held-out preference loss"),
    ):
        points = _points(metrics, key)
        if points:
            tiles.append(_Tile(label, f"{points[-1][1]:.4g}", f"from {points[0][1]:.4g}"))
    return tiles


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(cast("dict[str, Any]", value), "" if key == "facts" else f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _text(value)
    return found


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(str, cast("list[Any]", value))) or "none"
    return str(value)
