"""Two processes on this machine against one: the same losses, logprobs and adapters, and no silence when one is lost.

Tolerance: float32, 1e-5 of a value's size (sums are added in another order); measured gaps stay below 1e-6.
"""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from renderers import InternalError, OptionError, TensorData  # noqa: E402
from tests.trainer.engine import conftest, group_program  # noqa: E402
from trainer.engine import World, open_engine  # noqa: E402
from trainer.engine.messages import Message, requests_of, tell_requests  # noqa: E402
from trainer.engine.shares import merge, share_of  # noqa: E402
from trainer.protocol import ForwardBackwardOutput  # noqa: E402

SIZE = 2
PRELOADED = ("torch.distributed.fsdp", "trainer.sampler", "transformers.models.qwen3.modeling_qwen3")


def close(actual, expected, name):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(expected).max()), err_msg=name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Group:
    """Processes forked from one that has already imported everything."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.errors = folder / "errors.txt"
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([group_program.__name__, *PRELOADED])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(SIZE)}
        self._variables = {**place, **variables}

    def run(self, jobs):
        """Exit codes, and what the ranks wrote on standard error."""
        ranks = [
            self._context.Process(target=group_program.run_rank, args=(variables, jobs, str(self.errors)), daemon=True)
            for rank in range(SIZE)
            for variables in [{**self._variables, "RANK": str(rank), "LOCAL_RANK": str(rank)}]
        ]
        for rank in ranks:
            rank.start()
        ranks[0].join(100)
        if self._variables.get("sabotage") == "sleeps":
            ranks[1].kill()
        for rank in ranks:
            rank.join(20)
            rank.kill()
            rank.join()
        return [rank.exitcode for rank in ranks], self.errors.read_text()


def save_model(name, folder):
    conftest.build_module(name).save_pretrained(folder / name)
    return str(folder / name)


JOBS = {
    "whole": ("train", "qwen3", {}),
    "module": ("train", "gpt2", {"tokens_per_pass": 16}),
    "sharded": ("train", "llama-tied", {"shard_base": True, "tokens_per_pass": 20}),
    "sharded-moe-checkpointed": (
        "train",
        "qwen2-moe",
        {"shard_base": True, "tokens_per_pass": 40, "memory_bytes": 60_000},
    ),
    "sharded-gemma": ("train", "gemma2", {"shard_base": True}),
    "repeat": ("repeat", "qwen3", {}),
    "sample": ("sample", "qwen3", {}),
    "sample-sharded": ("sample", "qwen3", {"shard_base": True}),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Every job in one group, one engine after another: name -> (what the leader saw, the same played alone)."""
    folder = tmp_path_factory.mktemp("group")
    jobs = [
        {"play": play, "model": save_model(family, folder), "options": options, "out": str(folder / f"{name}.npz")}
        for name, (play, family, options) in JOBS.items()
    ]
    codes, errors = Group(folder, {}).run(jobs)
    assert codes == [0, 0], errors

    def result(name):
        job = jobs[list(JOBS).index(name)]
        alone = {k: v for k, v in job["options"].items() if k != "shard_base"}
        expected = group_program.PLAYS[job["play"]](open_engine(job["model"], dtype="float32", device="cpu", **alone))
        with np.load(job["out"]) as seen:
            return dict(seen), expected

    return result


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, job in JOBS.items() if job[0] != "repeat"])
def test_two_processes_equal_one(name, played):
    seen, expected = played(name)
    assert set(seen) == set(expected)
    for key, values in expected.items():
        assert seen[key].shape == values.shape, key
        if ".tokens." in key:
            assert np.array_equal(seen[key], values), key
        else:
            close(seen[key], values, key)


@pytest.mark.slow
def test_same_seed_same_bits(played):
    seen, _ = played("repeat")
    assert np.array_equal(seen["first"], seen["second"])
    assert seen["first"].any()


def sabotaged(folder, play, sabotage, **options):
    """A play in which the second rank stumbles over rows of 13 tokens."""
    job = {"play": play, "model": save_model("qwen3", folder), "options": options, "out": str(folder / "seen.npz")}
    codes, errors = Group(folder, {"DATUMLOOM_RANK_TIMEOUT": "4", "sabotage": sabotage}).run([job])
    assert codes[0] == 0, errors
    with np.load(job["out"]) as seen:
        return dict(seen), codes[1], errors


@pytest.mark.slow
def test_a_share_that_fails_is_undone_on_all_ranks(tmp_path):
    seen, code, errors = sabotaged(tmp_path, "failing_rank", "fails")
    assert str(seen["message"]) == "rank 1: MemoryError: no room"
    assert code == 0, errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "options", "words"),
    [
        ("dies", {}, "rank 1: no answer"),
        ("dies", {"shard_base": True}, "rank 1: gone"),
        ("fails", {"shard_base": True}, "rank 1: MemoryError: no room"),
        ("sleeps", {}, "rank 1: no answer"),
    ],
    ids=["dead", "dead-sharded", "failing-sharded", "silent"],
)
def test_a_lost_rank_is_named(sabotage, options, words, tmp_path):
    seen, code, errors = sabotaged(tmp_path, "lost_rank", sabotage, **options)
    first, second = seen["messages"].tolist()
    assert first.startswith(f"LostRankError: {words}"), (first, errors)
    assert second.startswith(f"LostRankError: the group has ended: {words}")
    assert code != 0


def test_a_world_of_one(tmp_path):
    world = World.current()
    values = torch.arange(3.0)
    world.all_reduce(values)
    world.tell(Message({"op": "stop"}))
    assert (world.rank, world.size, values.tolist()) == (0, 1, [0.0, 1.0, 2.0])
    assert [m.header for m in world.agree(Message({"x": 1}))] == [{"x": 1}]
    with pytest.raises(OptionError, match="shard_base: expected false"):
        open_engine(save_model("qwen3", tmp_path), dtype="float32", device="cpu", shard_base=True)


def test_messages_keep_every_bit(one_request):
    message = Message.decode(tell_requests([one_request], {"op": "run"}).encode())
    (told,) = requests_of(message)
    assert message.header["op"] == "run"
    assert (told.loss, told.settings, told.request.backward) == (one_request.loss, one_request.settings, True)
    for got, want in zip(told.data, one_request.data, strict=True):
        assert got.shape == want.shape
        assert np.array_equal(got.tokens, want.tokens)
        assert np.array_equal(got.targets, want.targets)
        assert got.inputs.keys() == want.inputs.keys()
        assert all(got.inputs[k].tobytes() == want.inputs[k].tobytes() for k in want.inputs)


def test_messages_carry_numbers_only():
    with pytest.raises(InternalError, match="expected arrays of"):
        Message.decode(Message({}, [np.array(["x"])]).encode())


@pytest.fixture
def one_request(make_engine, lora, data):
    from trainer.engine import Request

    engine = make_engine()
    return engine.check(Request(engine.create_adapter(lora()), data))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_row_has_one_rank(size, one_request):
    requests = [one_request, one_request, one_request]
    shares = [share_of(requests, rank, size) for rank in range(size)]
    for index, request in enumerate(requests):
        rows = sorted(id(d) for share in shares for d in share[index].data)
        assert rows == sorted(id(d) for d in request.data)
    counts = [sum(len(r.data) for r in share) for share in shares]
    assert max(counts) - min(counts) <= 1
    by_rank = [[_named_after_tokens(request) for request in share] for share in shares]
    merged = merge(requests, by_rank)
    assert [m.metrics for m in merged] == [_named_after_tokens(request).metrics for request in requests]
    assert [m.loss_fn_outputs for m in merged] == [_named_after_tokens(request).loss_fn_outputs for request in requests]


def _named_after_tokens(request):
    records = [{"logprobs": TensorData(d.tokens.astype(np.float32))} for d in request.data]
    return ForwardBackwardOutput("ArrayRecord", records, {"loss:sum": float(sum(len(d.tokens) for d in request.data))})


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "one"}, "RANK: expected a whole number; got 'one'"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR: expected it beside WORLD_SIZE"),
        ({"DATUMLOOM_RANK_TIMEOUT": "0"}, "DATUMLOOM_RANK_TIMEOUT: expected at least 1 second; got 0"),
    ],
)
def test_variables_that_make_no_group(variables, words):
    with pytest.raises(OptionError, match=words):
        World.join(variables)
