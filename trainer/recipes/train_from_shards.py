"""`train-from-shards`: a LoRA adapter from a folder of shards, in process or on a server, by client code only.

    open -> refuse what does not fit -> begin or go on -> for each step: submit, step, measure, save -> finish

Interrupted anywhere, the same call goes on from the last checkpoint with the same rows in the same order.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_io import Manifest, ShardReader
from renderers import OptionError, Tokenizer, UserError, get_tokenizer

from .compatible import check_shards
from .config import TrainConfig
from .objectives import Objective, SupervisedObjective
from .preference import PreferenceObjective, find_pairs
from .report import write_report
from .run_folder import FINAL_NAME, CheckpointRecord, RunFolder
from .sampling import PromptSampler
from .saving import Saver, delete_unlisted
from .schedule import learning_rate_at, resolve_learning_rate
from .scores import ByteCounts
from .step_progress import StepProgress
from .trackers import FolderLogger, MultiLogger, TrackerContext, open_trackers
from .training_data import Step, TrainingData, name_rows
from .wire import Wire, open_service, open_wire

__all__ = ["DivergedError", "TrainResult", "train_from_shards"]

_EVAL_SPLIT, _TRAIN_SPLIT = "eval", "train"


class DivergedError(UserError):
    """A loss or gradient became NaN or infinite; the last checkpoint is from before."""


@dataclass(frozen=True)
class TrainResult:
    """How a run stands.

    Attributes:
        folder: of the run.
        steps: optimizer steps done.
        tokens: model input tokens trained on.
        checkpoint: the final one.
        was_finished: nothing was left to do.
        metrics: the last of each.
    """

    folder: Path
    steps: int
    tokens: int
    checkpoint: CheckpointRecord
    was_finished: bool
    metrics: dict[str, float]


def train_from_shards(
    config: TrainConfig,
    *,
    overwrite: bool = False,
    quiet: bool = True,
) -> TrainResult:
    """Train, or go on training, until the run is finished.

    Args:
        config: of the run.
        overwrite: delete an earlier run in the folder first.
        quiet: show no progress, evaluations and samples on standard error.

    Raises:
        UserError: the shards do not fit the model, the folder is of another run, a row or option is faulty.
        DivergedError: see there.
        MissingExtraError: training in process needs `train`, a `base_url` needs `remote`.
    """
    wire = open_wire(config.base_url)
    tokenizer = get_tokenizer(config.tokenizer or config.model)
    reader, held_out = _open_shards(config)
    for shards in (reader, held_out):
        if shards is not None:
            check_shards(shards, config.model, tokenizer, takes_images=config.base_url is not None)
    peak = resolve_learning_rate(config)
    with RunFolder(config.out) as folder:
        facts = _facts(reader, held_out, tokenizer, peak)
        folder.begin(config, facts, overwrite=overwrite)
        done = folder.checkpoints()[-1] if folder.checkpoints() else None
        if done is not None and done.name == FINAL_NAME:
            return _result(folder, done, was_finished=True)
        context = TrackerContext(folder.path, folder.path.resolve().name, resumed=done is not None)
        trackers = open_trackers(config.trackers, context)
        folder.cut_back(done.step if done else -1)
        with (
            open_service(config, folder.checkpoint_dir) as service,
            MultiLogger([FolderLogger(folder), *trackers]) as logger,
        ):
            logger.log_hparams({**config.model_dump(mode="json"), **facts})
            run = _Run(config, folder, service, wire, logger, peak)
            final = run.train(reader, held_out, tokenizer, done, quiet=quiet)
        return _result(folder, final, was_finished=False)


class _Run:
    """The loop and what it needs at hand."""

    def __init__(
        self,
        config: TrainConfig,
        folder: RunFolder,
        service: Any,
        wire: Wire,
        logger: MultiLogger,
        peak: float,
    ) -> None:
        self._config = config
        self._folder = folder
        self._service = service
        self._wire = wire
        self._logger = logger
        self._peak = peak

    def train(
        self,
        reader: ShardReader,
        held_out: ShardReader | None,
        tokenizer: Tokenizer,
        done: CheckpointRecord | None,
        *,
        quiet: bool,
    ) -> CheckpointRecord:
        config = self._config
        rest = self._service.create_rest_client()
        if config.base_url is None:
            delete_unlisted(self._folder, rest)
        client = self._client(done)
        client.get_info()  # waits until the model is there, so that no step counts its loading
        objective, data, test = self._objective(reader, held_out, tokenizer)
        sampler = PromptSampler(config.sample, self._wire, tokenizer, self._folder, seed=config.seed)
        saver = Saver(self._folder, client, rest, config.keep)
        steps_done, tokens = (done.step, done.tokens) if done else (0, 0)
        with StepProgress(data.num_steps, done=steps_done, quiet=quiet) as progress:
            if done is None:
                self._evaluate(objective, client, test, 0, progress)
                sampler.sample(client, 0, self._logger, progress)
            else:
                progress.say(f"{self._folder.path}: goes on after step {done.step}")
            progress.start()
            for step in data.steps(steps_done, done.position if done else None):
                last = step.number == data.num_steps
                metrics = self._step(objective, client, data, step)
                tokens += step.num_tokens
                self._logger.log_metrics(metrics, step.number)
                progress.step(metrics.get("train_mean_nll", metrics.get("dpo_loss", 0.0)), step.num_tokens)
                if last or _due(step, config.eval_every):
                    self._evaluate(objective, client, test, step.number, progress)
                if last or (config.sample.every and step.number % config.sample.every == 0):
                    sampler.sample(client, step.number, self._logger, progress)
                if last or _due(step, config.save_every):
                    done = saver.save(step, tokens, final=last)
                    write_report(self._folder)
        assert done is not None  # a run has at least one step, and its last is saved
        return done

    def _client(self, done: CheckpointRecord | None) -> Any:
        if done is not None:
            return self._service.create_training_client_from_state_with_optimizer(done.state_path)
        lora = self._config.lora
        return self._service.create_lora_training_client(
            self._config.model,
            rank=lora.rank,
            seed=lora.seed,
            train_mlp=lora.train_mlp,
            train_attn=lora.train_attn,
            train_unembed=lora.train_unembed,
        )

    def _objective(
        self, reader: ShardReader, held_out: ShardReader | None, tokenizer: Tokenizer
    ) -> tuple[Objective, TrainingData, TrainingData | None]:
        """How rows become a loss, the training rows, and the held-out rows."""
        config = self._config
        if config.objective == "sft":
            counts = ByteCounts(tokenizer)
            objective = SupervisedObjective(self._wire, counts if counts.work() else None)
            test = None if held_out is None else TrainingData(held_out, None, config.model_copy(update=_UNLIMITED))
            return objective, TrainingData(reader, None, config), test
        pairs = find_pairs(reader)
        test_pairs = [] if held_out is None else find_pairs(held_out)
        reference = self._service.create_lora_training_client(config.model, rank=1, seed=0)
        objective = PreferenceObjective(self._wire, reference, pairs, test_pairs, config.dpo_beta)
        units, test_units = ([list(pair.rows) for pair in listed] for listed in (pairs, test_pairs))
        test = None if held_out is None else TrainingData(held_out, test_units, config.model_copy(update=_UNLIMITED))
        return objective, TrainingData(reader, units, config), test

    def _step(self, objective: Objective, client: Any, data: TrainingData, step: Step) -> dict[str, float]:
        """One step: gradients and optimizer are asked for together, so that a server does both in one cycle."""
        began = time.monotonic()
        rate = learning_rate_at(step.number - 1, data.num_steps, self._peak, self._config)
        adam = self._config.adam
        units = step.units.tolist()
        collect = objective.submit(client, data, units)
        optimizer = client.optim_step(self._wire.adam_params(learning_rate=rate, **adam.model_dump()))
        outcome = collect()
        if outcome.bad_rows:
            raise self._diverged(step, data, outcome.bad_rows, "the loss")
        stepped: dict[str, float] = optimizer.result().metrics or {}
        if any(not math.isfinite(value) for value in stepped.values()):
            raise self._diverged(step, data, [row for unit in units for row in data.rows(unit)], "the gradient")
        seconds = time.monotonic() - began
        return {
            "epoch": float(step.epoch),
            "progress": step.number / data.num_steps,
            "learning_rate": rate,
            **outcome.metrics,
            "num_tokens": float(step.num_tokens),
            **{f"optim/{name}": value for name, value in stepped.items() if name in ("grad_norm", "update_norm")},
            "time/total": seconds,
            "tokens_per_second": step.num_tokens / max(seconds, 1e-9),
        }

    def _diverged(self, step: Step, data: TrainingData, rows: list[int], what: str) -> DivergedError:
        write_report(self._folder)
        return DivergedError(
            f"step {step.number}: {what} is NaN or infinite; rows {name_rows(data.reader, rows)}. Nothing was saved "
            "after the last checkpoint; leave these rows out, or lower learning_rate or set adam.grad_clip_norm"
        )

    def _evaluate(
        self, objective: Objective, client: Any, test: TrainingData | None, step: int, progress: StepProgress
    ) -> None:
        if test is None:
            return
        began = time.monotonic()
        units = range(min(len(test.lengths), self._config.eval_rows or len(test.lengths)))
        metrics = objective.evaluate(client, test, units)
        self._logger.log_metrics({**metrics, "time/eval": time.monotonic() - began}, step)
        shown = ", ".join(f"{name.removeprefix('test/')} {value:.4g}" for name, value in metrics.items())
        progress.say(f"step {step}: held out: {shown}")


# Held-out rows are cut into requests by their own rule, so the training batches' limits do not bind them.
_UNLIMITED = {"batch_tokens": None, "batch_size": 1, "epochs": 1, "max_steps": None}


def _due(step: Step, every: int) -> bool:
    return step.number % every == 0 if every else step.ends_epoch


def _open_shards(config: TrainConfig) -> tuple[ShardReader, ShardReader | None]:
    """The training rows, and the held-out rows if there are any."""
    splits = Manifest.load(config.shards).splits
    if _TRAIN_SPLIT not in splits:
        raise UserError(f"{config.shards}: expected a split train; got {', '.join(splits) or 'no rows'}")
    if config.eval_shards is not None:
        held_out = ShardReader(config.eval_shards, None)
        if not len(held_out):
            raise OptionError(f"eval_shards: expected rows; {config.eval_shards} has none")
        return ShardReader(config.shards), held_out
    return ShardReader(config.shards), ShardReader(config.shards, _EVAL_SPLIT) if _EVAL_SPLIT in splits else None


def _facts(reader: ShardReader, held_out: ShardReader | None, tokenizer: Tokenizer, peak: float) -> dict[str, Any]:
    """What decides the result besides the configuration."""
    return {
        "shards_fingerprint": _content(reader),
        "held_out_fingerprint": None if held_out is None else _content(held_out),
        "tokenizer_sha256": tokenizer.fingerprint,
        "peak_learning_rate": peak,
    }


def _content(reader: ShardReader) -> str:
    """sha256 over the shards' own."""
    return hashlib.sha256("".join(shard.sha256 for shard in reader.manifest.shards).encode()).hexdigest()


def _result(folder: RunFolder, final: CheckpointRecord, *, was_finished: bool) -> TrainResult:
    metrics: dict[str, float] = {}
    for line in folder.metrics():
        metrics.update(line)
    return TrainResult(folder.path, final.step, final.tokens, final, was_finished, metrics)
