"""What runs in the processes of a group: a test starts `run_rank` in each, and plays alone for comparison."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch

from renderers import Datum, ModelInput
from trainer.engine import Engine, GroupEngine, RankError, Request, World, open_engine, serve_requests
from trainer.protocol import AdamParams, LoraConfig

# A gradient that is nothing but rounding is not to become a whole step, as it would with the default eps.
STEP = AdamParams(learning_rate=3e-3, weight_decay=0.01, grad_clip_norm=5.0, eps=1e-3)


def datum(length, seed, **inputs):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 128, length + 1)
    if not inputs:
        inputs = {"weights": rng.normal(size=length)}
    return Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], **inputs})


def rl_datum(length, seed):
    rng = np.random.default_rng(seed)
    inputs = {"logprobs": -np.log(128) + 0.3 * rng.normal(size=length), "advantages": rng.normal(size=length)}
    return datum(length, seed, **inputs, sequence_ratio_mask=np.ones(length, np.float32))


def wide_datum(length, seed):
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, 128, length), rng.integers(0, 128, (length, 3))
    return Datum(ModelInput.from_ints(tokens), {"target_tokens": targets, "weights": rng.normal(size=targets.shape)})


def train(engine: Engine) -> dict[str, np.ndarray]:
    """Mixed adapters, losses and kinds of request over some steps; state saved, loaded, cleared, removed."""
    seen: dict[str, np.ndarray] = {}
    engine.create_adapter(LoraConfig(rank=4, seed=1), "a")
    engine.create_adapter(LoraConfig(rank=2, seed=2, train_mlp=False, train_attn=False), "head")
    engine.create_adapter(LoraConfig(rank=3, seed=3, train_unembed=False), "b")
    for step in range(3):
        seed = 10 * step
        requests = [
            Request("b", [datum(9, seed), datum(30, seed + 1), datum(2, seed + 2)]),
            Request("a", [wide_datum(6, seed + 3)]),
            Request("head", [rl_datum(12, seed + 4), rl_datum(5, seed + 5)], "gspo"),
            Request("a", [datum(25, seed + 6), datum(8, seed + 7)], backward=False),
            Request("a", [datum(17, seed + 8), datum(3, seed + 9)]),
        ]
        for index, output in enumerate(engine.forward_backward_many(requests)):
            _note(seen, f"{step}.{index}", output)
        _note(seen, f"{step}.one", engine.forward_backward("b", [datum(4, seed)]))  # fewer rows than ranks
        for name in ("a", "head", "b"):
            metrics = engine.optim_step(name, STEP).metrics
            seen[f"{step}.{name}.step"] = np.array([metrics[k] for k in sorted(metrics)])
    return {**seen, **_states(engine, seen)}


def _states(engine, seen):
    """A fresh adapter goes on from a saved state exactly as the saved one does."""
    state = engine.state_dict("a")
    engine.create_adapter(LoraConfig(rank=4, seed=9), "again")
    engine.load_state("again", state)
    for name in ("a", "again"):
        engine.forward_backward(name, [datum(11, 1)])
        engine.clear_gradients(name)
        engine.forward_backward(name, [datum(11, 2), datum(7, 3)])
        engine.optim_step(name, STEP)
    assert torch.equal(engine.adapter("a").params, engine.adapter("again").params)
    engine.remove_adapter("again")
    assert set(engine.adapters) == {"a", "head", "b"}
    return {f"params.{name}": adapter.params.numpy() for name, adapter in engine.adapters.items()}


def _note(seen, name, output):
    seen[f"{name}.loss"] = np.array([output.metrics[k] for k in sorted(output.metrics)])
    for index, record in enumerate(output.loss_fn_outputs):
        seen[f"{name}.{index}"] = record["logprobs"].to_numpy()


def repeat(engine: Engine) -> dict[str, np.ndarray]:
    """The same steps twice, from the same seed."""
    for name in ("first", "second"):
        engine.create_adapter(LoraConfig(rank=4, seed=1), name)
        for step in range(2):
            engine.forward_backward(name, [datum(9 + i, i + step) for i in range(5)])
            engine.optim_step(name, STEP)
    return {name: engine.adapter(name).params.numpy() for name in ("first", "second")}


def sample(engine: Engine) -> dict[str, np.ndarray]:
    """Training, sampling with the trained adapter, training again."""
    from trainer.protocol import SamplingParams
    from trainer.sampler import AdapterSnapshot, Sampler

    engine.create_adapter(LoraConfig(rank=4, seed=1), "a")
    sampler = Sampler(engine.base)
    seen: dict[str, np.ndarray] = {}
    for step in range(2):
        _note(seen, f"{step}", engine.forward_backward("a", [datum(9, step), datum(20, step + 1)]))
        engine.optim_step("a", STEP)
        params = SamplingParams(max_tokens=6, temperature=1.0, seed=step)
        adapter = AdapterSnapshot("a", engine.snapshot("a"))
        future = sampler.submit([5, 6, 7], params, 2, adapter=adapter)
        while sampler.busy:
            sampler.step()
        for index, sequence in enumerate(future.result().sequences):
            seen[f"{step}.tokens.{index}"] = np.array(sequence.tokens)
            seen[f"{step}.logprobs.{index}"] = np.array(sequence.logprobs, np.float32)
    return seen


def failing_rank(engine: Engine) -> dict[str, np.ndarray]:
    """A request that one rank cannot do is undone everywhere, and the next one runs."""
    engine.create_adapter(LoraConfig(rank=4, seed=1), "a")
    data = [datum(9, 0), datum(8, 1)]
    engine.forward_backward("a", data)
    before = engine.adapter("a").grads.clone()
    try:
        engine.forward_backward("a", [datum(13, 2), datum(13, 3)])
    except RankError as error:
        message = str(error)
    assert torch.equal(engine.adapter("a").grads, before)
    engine.optim_step("a", STEP)
    return {"message": np.array(message), "params": engine.adapter("a").params.numpy()}


def lost_rank(engine: Engine) -> dict[str, np.ndarray]:
    """Two calls after a rank went missing."""
    engine.create_adapter(LoraConfig(rank=4, seed=1), "a")
    messages: list[str] = []
    for _ in range(2):
        try:
            engine.forward_backward("a", [datum(13, 2), datum(13, 3)])
        except RankError as error:
            messages.append(f"{type(error).__name__}: {error}")
    return {"messages": np.array(messages)}


PLAYS = {f.__name__: f for f in (train, repeat, sample, failing_rank, lost_rank)}


def _sabotage(how: str) -> None:
    """What a follower does with rows of 13 tokens."""
    passes = GroupEngine._passes

    def passes_or_not(self, checked, plan):
        if any(len(d.tokens) == 13 for request in checked for d in request.data):
            if how == "dies":
                os._exit(3)
            if how == "sleeps":
                time.sleep(60)
            raise MemoryError("no room")
        return passes(self, checked, plan)

    GroupEngine._passes = passes_or_not


def run_rank(variables: dict[str, str], jobs: list[dict[str, Any]], errors: str) -> None:
    """One rank's whole life. The leader opens an engine and plays for each job, and saves what it saw."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    torch.set_num_threads(1)
    with World.join(variables) as world:
        if world.rank:
            if "sabotage" in variables:
                _sabotage(variables["sabotage"])
            serve_requests(world)
            return
        for job in jobs:
            engine = open_engine(job["model"], dtype="float32", device="cpu", **job["options"])
            np.savez(job["out"], **PLAYS[job["play"]](engine))
            engine.close()
