"""LoRA training speed on one CPU thread: ours, Hugging Face + PEFT padded, Hugging Face + PEFT packed; in one run.

    python benchmarks/train.py [--dtypes bfloat16 float32] [--repeats 5] [--json FILE]
    python benchmarks/train.py --head-memory        # the loss head alone at 16k tokens x 152k vocabulary
    python benchmarks/train.py --tenants            # 8 adapters' small requests: shared passes against one by one

The model is a random Qwen3 of about 40 M matrix parameters; lengths are log-normal; a step is forward, backward and
AdamW on LoRA 16 over every linear layer but the head. Every variant lives in a process of its own (ours tunes malloc
for its whole process, and would lend that to its peers), and they take turns, one step each; time is process CPU time,
so that a busy machine changes the numbers little. The best and the median of the repeats are printed; every ratio is
between bests of this very run. Losses of all variants are compared before any timing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from section import replace_section
from torch.nn import functional

from renderers import Datum, ModelInput
from trainer.engine import BaseModel, Engine, Request
from trainer.protocol import AdamParams, LoraConfig

RANK = 16
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_model(dtype: torch.dtype) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32_000, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4,
        head_dim=64, intermediate_size=1536, max_position_embeddings=4096, tie_word_embeddings=False,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).to(dtype).eval()


def make_data(count: int = 16, seed: int = 0) -> list[Datum]:
    """Log-normal lengths; every token has weight 1."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.exp(rng.normal(4.4, 0.9, count)).astype(int), 8, 1024)
    data: list[Datum] = []
    for length in lengths:
        tokens = rng.integers(0, 32_000, length + 1)
        inputs = {"target_tokens": tokens[1:], "weights": np.ones(length, np.float32)}
        data.append(Datum(ModelInput.from_ints(tokens[:-1]), inputs))
    return data


@dataclass
class Variant:
    name: str
    step: Callable[[], float]

    def timed(self) -> tuple[float, float]:
        """Loss and CPU seconds of one step."""
        start = time.process_time()
        loss = self.step()
        return loss, time.process_time() - start


class Remote:
    """A variant in a process of its own."""

    def __init__(self, build: str, dtype: str, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, build, dtype, count), daemon=True)
        self._process.start()
        self.name: str = self._pipe.recv()

    def timed(self) -> tuple[float, float]:
        self._pipe.send("step")
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.send("stop")
        self._process.join()


def _serve(pipe: Any, build: str, dtype: str, count: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    variant: Variant = BUILDERS[build](getattr(torch, dtype), make_data(count))
    pipe.send(variant.name)
    while pipe.recv() == "step":
        pipe.send(variant.timed())


def ours(dtype: torch.dtype, data: list[Datum]) -> Variant:
    engine = Engine(BaseModel.from_module(make_model(dtype)))
    adapter_id = engine.create_adapter(LoraConfig(rank=RANK, seed=0, train_unembed=False))
    params = AdamParams(learning_rate=0.0)

    def step() -> float:
        loss = engine.forward_backward(adapter_id, data).metrics["loss:sum"]
        engine.optim_step(adapter_id, params)
        return loss

    return Variant("ours", step)


def _peft(dtype: torch.dtype) -> tuple[Any, Any]:
    import peft

    config = peft.LoraConfig(r=RANK, lora_alpha=32, target_modules=LINEARS)
    model = peft.get_peft_model(make_model(dtype), config)
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=0.0)


def _arrays(data: list[Datum]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.tensor(d.model_input.to_ints()), d.loss_fn_inputs["target_tokens"].to_torch()) for d in data]


def padded(dtype: torch.dtype, data: list[Datum]) -> Variant:
    model, optimizer = _peft(dtype)
    pairs = _arrays(data)
    pad = torch.nn.utils.rnn.pad_sequence
    tokens = pad([t for t, _ in pairs], batch_first=True)
    targets = pad([t for _, t in pairs], batch_first=True, padding_value=-100)
    mask = pad([torch.ones_like(t) for t, _ in pairs], batch_first=True)

    def step() -> float:
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float()
        return _finish(functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"), optimizer)

    return Variant("HF+PEFT padded", step)


def packed(dtype: torch.dtype, data: list[Datum]) -> Variant:
    model, optimizer = _peft(dtype)
    pairs = _arrays(data)
    tokens = torch.cat([t for t, _ in pairs]).unsqueeze(0)
    targets = torch.cat([t for _, t in pairs])
    positions = torch.cat([torch.arange(len(t)) for t, _ in pairs]).unsqueeze(0)

    def step() -> float:
        logits = model(input_ids=tokens, position_ids=positions, use_cache=False).logits[0].float()
        return _finish(functional.cross_entropy(logits, targets, reduction="sum"), optimizer)

    return Variant("HF+PEFT packed", step)


def _finish(loss: torch.Tensor, optimizer: Any) -> float:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


BUILDERS = {"ours": ours, "padded": padded, "packed": packed}


def measure(variants: Sequence[Variant | Remote], repeats: int) -> dict[str, list[float]]:
    """CPU seconds per step, variants taking turns; the first round warms up and compares losses."""
    losses = {v.name: v.timed()[0] for v in variants}
    first = next(iter(losses.values()))
    for name, loss in losses.items():
        assert abs(loss - first) < 2e-3 * abs(first), f"{name}: loss {loss} is not {first}"
    seconds: dict[str, list[float]] = {v.name: [] for v in variants}
    for _ in range(repeats):
        for variant in variants:
            seconds[variant.name].append(variant.timed()[1])
    return seconds


def train_speed(dtypes: list[str], repeats: int, count: int) -> list[dict[str, Any]]:
    data = make_data(count)
    tokens = sum(d.model_input.length for d in data)
    longest = max(d.model_input.length for d in data)
    print(
        f"{count} sequences, {tokens} tokens, longest {longest}: {tokens / (count * longest):.0%} of the padded batch"
    )
    rows: list[dict[str, Any]] = []
    for name in dtypes:
        variants = [Remote(build, name, count) for build in BUILDERS]
        seconds = measure(variants, repeats)
        for variant in variants:
            variant.close()
        best = min(seconds["ours"])
        for variant, times in seconds.items():
            row = {
                "dtype": name, "variant": variant, "tokens_per_cpu_second": tokens / min(times),
                "best_s": min(times), "median_s": statistics.median(times), "ours_is_times_faster": min(times) / best,
            }  # fmt: skip
            rows.append(row)
            print(
                f"{name:9} {variant:15} {row['tokens_per_cpu_second']:7.0f} tok/s   best {row['best_s']:.3f} s   "
                f"median {row['median_s']:.3f} s   ours x{row['ours_is_times_faster']:.2f}"
            )
    return rows


def head_memory() -> dict[str, Any]:
    """Peak resident growth of scoring and its gradient at 16,384 tokens x 151,936 vocabulary, bfloat16."""
    from trainer.engine import Head, Projection
    from trainer.engine.lora import Site

    rows, vocab, hidden = 16_384, 151_936, 64
    weight = torch.randn(vocab, hidden).to(torch.bfloat16)
    head = Head(Projection("lm_head", "unembed", weight, None, (Site("lm_head", 0, vocab),)))
    states, targets = torch.randn(rows, hidden).to(torch.bfloat16), torch.randint(0, vocab, (rows, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    head.score(states, targets, (), lambda logprobs, _start, _stop: torch.ones_like(logprobs))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"loss head, {rows} x {vocab}: {grown:.0f} MiB at its peak; all logits once would be {rows * vocab * 4 >> 20}"
    )
    return {"variant": "loss head", "rows": rows, "vocab": vocab, "peak_mib": grown}


def tenants(dtype: torch.dtype, repeats: int, sequences: int, adapters: int = 8) -> dict[str, Any]:
    """Small requests (`sequences` of 8 to 23 tokens) of several adapters, in shared passes and one after another."""
    engine = Engine(BaseModel.from_module(make_model(dtype)))
    ids = [engine.create_adapter(LoraConfig(rank=RANK, seed=i, train_unembed=False)) for i in range(adapters)]
    rng = np.random.default_rng(1)
    requests: list[Request] = []
    for adapter_id in ids:
        data: list[Datum] = []
        for length in rng.integers(8, 24, sequences):
            tokens = rng.integers(0, 32_000, length + 1)
            inputs = {"target_tokens": tokens[1:], "weights": np.ones(length, np.float32)}
            data.append(Datum(ModelInput.from_ints(tokens[:-1]), inputs))
        requests.append(Request(adapter_id, data))
    shared = Variant("shared", lambda: sum(o.metrics["loss:sum"] for o in engine.forward_backward_many(requests)))
    serial = Variant("one by one", lambda: sum(engine.run([r])[0].metrics["loss:sum"] for r in requests))
    seconds = measure([shared, serial], repeats)
    gain = min(seconds["one by one"]) / min(seconds["shared"])
    tokens = sum(d.model_input.length for r in requests for d in r.data) // adapters
    print(f"{adapters} adapters, {tokens} tokens each, {dtype}: shared passes are x{gain:.2f} of one after another")
    return {"variant": "tenants", "dtype": str(dtype), "adapters": adapters, "tokens": tokens, "ratio": gain}


def section_head(part: str) -> str:
    """The heading and what was measured on."""
    where = f"{describe()}; one thread, process CPU time; torch {torch.__version__}."
    unmeasured = "CUDA paths are written and guarded; they are unmeasured."
    return f"## Training: {part} (`benchmarks/train.py`)\n\n{where} {unmeasured}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--head-memory", action="store_true")
    parser.add_argument("--tenants", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/RESULTS.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    said = io.StringIO()
    with contextlib.redirect_stdout(said if options.write else sys.stdout):
        if options.head_memory:
            rows.append(head_memory())
        elif options.tenants:
            counts = (1, 2, 4)
            rows.extend(tenants(getattr(torch, n), options.repeats, count) for n in options.dtypes for count in counts)
        else:
            rows.extend(train_speed(options.dtypes, options.repeats, options.sequences))
    if options.write:
        part = "loss head" if options.head_memory else "several adapters" if options.tenants else "speed"
        print(said.getvalue())
        replace_section(f"train {part}", f"{section_head(part)}\n\n```\n{said.getvalue().strip()}\n```")
    if options.json:
        about = {"python": sys.version.split()[0], "torch": torch.__version__, "machine": platform.processor()}
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
