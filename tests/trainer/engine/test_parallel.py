"""Two processes on this machine against one: the same losses, logprobs and adapters, and no silence when one is lost.

Tolerance: float32, 2e-5 of a value's size (sums are added in another order); measured gaps are a tenth of that.
"""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from renderers import InternalError, OptionError  # noqa: E402
from trainer.engine import World, open_engine  # noqa: E402
from trainer.engine.messages import Message, requests_of, tell_requests  # noqa: E402
from trainer.engine.shares import share_of  # noqa: E402

PROGRAM = Path(__file__).with_name("group_program.py")
SIZE = 2


def close(actual, expected, name):
    np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5 * max(1.0, np.abs(expected).max()), err_msg=name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(rank, port, **more):
    root = str(PROGRAM.parents[3])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(SIZE)}
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": root,
        "CUDA_VISIBLE_DEVICES": "",
        **place,
        **ranks,
        **more,
    }


@pytest.fixture
def folder(make_module, tmp_path):
    """A model folder of a family."""

    def make(name):
        path = tmp_path / name
        make_module(name).save_pretrained(path)
        return path

    return make


@pytest.fixture
def play_in_group(tmp_path):
    """Plays in two processes; gives what the leader saw, and the exit codes and standard errors."""

    def play(name, model, variables=None, **options):
        out, port = tmp_path / "seen.npz", free_port()
        command = [sys.executable, str(PROGRAM), name, str(model), str(out), json.dumps(options)]
        processes = [
            subprocess.Popen(
                command, env=environment(rank, port, **(variables or {})), stderr=subprocess.PIPE, text=True
            )
            for rank in range(SIZE)
        ]
        try:
            errors = [process.communicate(timeout=100)[1] for process in processes[:1]]
            if options.get("sabotage") == "sleeps":
                processes[1].kill()
            errors += [process.communicate(timeout=20)[1] for process in processes[1:]]
        finally:
            for process in processes:
                process.kill()
        assert out.exists(), "\n".join(errors)
        with np.load(out) as seen:
            return dict(seen), [process.returncode for process in processes], errors

    return play


def play_alone(name, model, **options):
    return runpy.run_path(str(PROGRAM))["PLAYS"][name](open_engine(model, dtype="float32", device="cpu", **options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen3", {}),
        ("gpt2", {"tokens_per_pass": 16}),
        ("llama-tied", {"shard_base": True, "tokens_per_pass": 20}),
        ("qwen2-moe", {"shard_base": True, "tokens_per_pass": 40, "memory_bytes": 60_000}),
        ("gemma2", {"shard_base": True}),
    ],
    ids=["whole", "module", "sharded", "sharded-moe-checkpointed", "sharded-gemma"],
)
def test_two_processes_equal_one(family, options, folder, play_in_group):
    model = folder(family)
    expected = play_alone("train", model, **{k: v for k, v in options.items() if k != "shard_base"})
    seen, codes, errors = play_in_group("train", model, **options)
    assert codes == [0, 0], errors
    assert set(seen) == set(expected)
    for name, values in expected.items():
        assert seen[name].shape == values.shape, name
        close(seen[name], values, name)


@pytest.mark.slow
def test_same_seed_same_bits(folder, play_in_group):
    seen, codes, errors = play_in_group("repeat", folder("qwen3"))
    assert codes == [0, 0], errors
    assert np.array_equal(seen["first"], seen["second"])
    assert seen["first"].any()


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"shard_base": True}], ids=["whole", "sharded"])
def test_the_leader_samples_between_steps(options, folder, play_in_group):
    model = folder("qwen3")
    expected = play_alone("sample", model)
    seen, codes, errors = play_in_group("sample", model, **options)
    assert codes == [0, 0], errors
    for name, values in expected.items():
        if "tokens" in name:
            assert np.array_equal(seen[name], values), name
        else:
            close(seen[name], values, name)


@pytest.mark.slow
def test_a_share_that_fails_is_undone_on_all_ranks(folder, play_in_group):
    seen, codes, errors = play_in_group("failing_rank", folder("qwen3"), sabotage="fails")
    assert codes == [0, 0], errors
    assert str(seen["message"]) == "rank 1: MemoryError: no room"


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
def test_a_lost_rank_is_named(sabotage, options, words, folder, play_in_group):
    variables = {"DATUMLOOM_RANK_TIMEOUT": "4"}
    seen, codes, errors = play_in_group("lost_rank", folder("qwen3"), variables, sabotage=sabotage, **options)
    first, second = seen["messages"].tolist()
    assert first.startswith(f"LostRankError: {words}"), (first, errors)
    assert second.startswith(f"LostRankError: the group has ended: {words}")
    assert codes[0] == 0, errors
    assert codes[1] != 0


def test_a_world_of_one(folder):
    world = World.current()
    values = torch.arange(3.0)
    world.all_reduce(values)
    world.tell(Message({"op": "stop"}))
    assert (world.rank, world.size, values.tolist()) == (0, 1, [0.0, 1.0, 2.0])
    assert [m.header for m in world.agree(Message({"x": 1}))] == [{"x": 1}]
    with pytest.raises(OptionError, match="shard_base: expected false"):
        open_engine(folder("qwen3"), dtype="float32", device="cpu", shard_base=True)


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
