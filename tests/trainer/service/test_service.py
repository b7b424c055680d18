"""Order, turns, faults, sessions, resuming: on a tiny real model."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the service needs the extra `train`")

from renderers import Datum, InputError, ModelInput, OptionError, UserError  # noqa: E402
from trainer.engine import BaseModel, Engine  # noqa: E402
from trainer.protocol import (  # noqa: E402
    AdamParams,
    LoraConfig,
    NotFoundError,
    ParsedCheckpointTinkerPath,
    RequestErrorCategory,
    RequestFailedError,
    SamplingParams,
)
from trainer.service import FolderCheckpointStore, Sample, Service  # noqa: E402

STEP = AdamParams(learning_rate=0.01)
WAIT = 60


def logprobs(output: Any) -> list[np.ndarray[Any, Any]]:
    return [o["logprobs"].to_numpy() for o in output.loss_fn_outputs]


class Gate:
    """Holds the worker until it is opened, so that a queue can be filled."""

    def __init__(self, service: Service) -> None:
        self._open = threading.Event()
        service._worker.call(lambda _: self._open.wait(WAIT))

    def open(self) -> None:
        self._open.set()


def test_results_are_those_of_a_bare_engine(
    make_service: Callable[..., Service], make_run: Callable[..., str], model_folder: Any, data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)
    engine = Engine(BaseModel.load(model_folder("qwen3")))
    adapter = engine.create_adapter(LoraConfig(rank=4, seed=1))
    for _ in range(3):
        ours = service.forward_backward(run, data)
        step = service.optim_step(run, STEP)
        expected = engine.forward_backward(adapter, data)
        assert ours.future.result(WAIT).metrics == expected.metrics
        assert step.future.result(WAIT).metrics == engine.optim_step(adapter, STEP).metrics
    for one, other in zip(
        logprobs(service.forward(run, data).future.result(WAIT)), logprobs(engine.forward(adapter, data)), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_order_of_calls_is_order_of_execution(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)
    gate = Gate(service)
    before = service.forward(run, data)
    service.forward_backward(run, data)
    service.optim_step(run, STEP)
    after = service.forward(run, data)
    gate.open()
    assert after.future.result(WAIT).metrics["loss:sum"] < before.future.result(WAIT).metrics["loss:sum"]


def test_numbers_that_arrive_out_of_order_run_in_order(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)
    ended: list[str] = []
    tickets = {
        "step": service.optim_step(run, STEP, seq_id=4),
        "second": service.forward_backward(run, data[1:], seq_id=3),
    }
    service.give_up(run, 1)
    tickets["first"] = service.forward_backward(run, data[:1], seq_id=2)
    for name, ticket in tickets.items():
        ticket.future.add_done_callback(lambda _, name=name: ended.append(name))
    assert tickets["step"].future.result(WAIT).metrics["step"] == 1
    assert ended == ["first", "second", "step"]
    with pytest.raises(OptionError, match="seq_id: expected a number that is new"):
        service.optim_step(run, STEP, seq_id=2)


def test_requests_of_several_models_share_a_pass_and_give_what_they_give_alone(
    make_service: Callable[..., Service],
    make_run: Callable[..., str],
    data: list[Datum],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = make_service()
    runs = [make_run(service, seed=seed, rank=rank) for seed, rank in ((1, 4), (2, 2), (3, 8))]
    for run in runs:  # adapters that differ
        service.forward_backward(run, data[: 1 + runs.index(run)])
        service.optim_step(run, STEP).future.result(WAIT)
    alone = [service.forward(run, data).future.result(WAIT) for run in runs]
    sizes: list[int] = []
    real = Engine.forward_backward_many

    def counted(self: Engine, requests: Any) -> Any:
        sizes.append(len(requests))
        return real(self, requests)

    monkeypatch.setattr(Engine, "forward_backward_many", counted)
    gate = Gate(service)
    tickets = [service.forward(run, data) for run in runs]
    gate.open()
    together = [ticket.future.result(WAIT) for ticket in tickets]
    assert sizes == [3]
    for one, other in zip(alone, together, strict=True):
        assert one.metrics["loss:sum"] == pytest.approx(other.metrics["loss:sum"], rel=1e-5)
        for a, b in zip(logprobs(one), logprobs(other), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_fault_in_a_shared_pass_stays_one_requests(
    make_service: Callable[..., Service],
    make_run: Callable[..., str],
    data: list[Datum],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = make_service()
    good, bad = make_run(service), make_run(service, seed=2)
    real = Engine.run

    def faulty(self: Engine, requests: Any) -> Any:
        if any(r.adapter_id == bad for r in requests):
            raise RuntimeError("device fell over")
        return real(self, requests)

    monkeypatch.setattr(Engine, "run", faulty)
    gate = Gate(service)
    tickets = [service.forward_backward(good, data), service.forward_backward(bad, data)]
    step = service.optim_step(bad, STEP)
    gate.open()
    assert tickets[0].future.result(WAIT).metrics["loss:sum"] > 0
    with pytest.raises(RequestFailedError, match="RuntimeError: device fell over") as failed:
        tickets[1].future.result(WAIT)
    assert failed.value.category is RequestErrorCategory.Server
    assert failed.value.request_id == tickets[1].request_id
    with pytest.raises(UserError, match=r"optim_step: expected every forward_backward before it.*device fell over"):
        step.future.result(WAIT)

    monkeypatch.undo()  # the service goes on
    service.forward_backward(bad, data)
    assert service.optim_step(bad, STEP).future.result(WAIT).metrics["step"] == 1


def test_a_step_after_a_partly_failed_batch_is_refused_until_a_new_pass_succeeds(
    make_service: Callable[..., Service],
    make_run: Callable[..., str],
    data: list[Datum],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = make_service()
    run = make_run(service)
    real, calls = Engine.run, []

    def second_fails(self: Engine, requests: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("once")
        return real(self, requests)

    monkeypatch.setattr(Engine, "run", second_fails)
    gate = Gate(service)
    chunks = [service.forward_backward(run, [datum]) for datum in data]  # all sent before the failure is known
    step = service.optim_step(run, STEP)
    gate.open()
    assert [c.future.exception(WAIT) is None for c in chunks] == [True, False, True]
    with pytest.raises(UserError, match="gradients are cleared"):
        step.future.result(WAIT)
    service.forward_backward(run, data)
    metrics = service.optim_step(run, STEP).future.result(WAIT).metrics
    assert metrics is not None
    assert metrics["step"] == 1
    # What was accumulated before the refusal did not leak into the step.
    fresh = make_run(service)
    service.forward_backward(fresh, data)
    assert service.optim_step(fresh, STEP).future.result(WAIT).metrics == metrics


def test_cancelling_takes_a_request_out(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)
    gate = Gate(service)
    ticket = service.forward_backward(run, data)
    step = service.optim_step(run, STEP)
    assert ticket.future.cancel()
    gate.open()
    with pytest.raises(CancelledError):
        ticket.future.result(WAIT)
    with pytest.raises(UserError, match="cancelled by the caller"):
        step.future.result(WAIT)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s, r, d: s.forward_backward(r, d, "nonsense"), "loss_fn: expected one of"),
        (lambda s, r, d: s.forward_backward(r, d, "ppo"), r"data\[0\].loss_fn_inputs.logprobs: ppo expects it"),
        (lambda s, r, d: s.forward_backward(r, d, "cross_entropy", {"x": 1}), "loss_fn_config.x: expected no keys"),
        (lambda s, r, d: s.forward(r, []), "data: expected at least one datum"),
        (lambda s, r, d: s.save(r, "training", "a/b"), "name: expected"),
        (lambda s, r, d: s.save(r, "training", "a", ttl_seconds=5), "ttl_seconds: expected"),
        (lambda s, r, d: s.load(r, "tinker://x/weights/y", optimizer=False), "path: expected a checkpoint that exists"),
        (lambda s, r, d: s.forward("nobody:train:0", d), "training_run_id: expected one that exists"),
        (lambda s, r, d: s.create_session(owner="me") and s.create_model("nobody", "tiny", LoraConfig()), "session_id"),
    ],
)
def test_user_errors_raise_at_the_call(
    make_service: Callable[..., Service],
    make_run: Callable[..., str],
    data: list[Datum],
    call: Callable[..., Any],
    said: str,
) -> None:
    service = make_service()
    run = make_run(service)
    with pytest.raises(UserError, match=said):
        call(service, run, data)
    assert service.forward(run, data).future.result(WAIT).metrics["loss:sum"] > 0


def test_a_model_that_is_not_served_or_not_there(make_service: Callable[..., Service], tmp_path: Path) -> None:
    service = make_service()
    session = service.create_session().session_id
    with pytest.raises(OptionError, match="base_model: expected one of tiny; got 'other'"):
        service.create_model(session, "other", LoraConfig())
    with pytest.raises(OptionError, match="tokens_per_pass: expected a positive number"):
        make_service(tokens_per_pass=0)


def test_a_base_that_cannot_be_loaded_fails_its_creation_alone(
    make_service: Callable[..., Service], make_run: Callable[..., str], tmp_path: Path
) -> None:
    from trainer.service import ServiceOptions

    good = make_service()
    service = Service(
        ServiceOptions.of(
            models={**dict(good.options.models), "broken": tmp_path / "nothing"}, checkpoint_dir=tmp_path / "c"
        )
    )
    try:
        session = service.create_session().session_id
        broken = service.create_model(session, "broken", LoraConfig())
        with pytest.raises(RequestFailedError, match="model: expected a causal LM's folder or hub id") as failed:
            broken.future.result(WAIT)
        assert failed.value.category is RequestErrorCategory.User
        assert make_run(service, session) == f"{session}:train:1"
    finally:
        service.close(20)


def test_saving_and_resuming_goes_on_bit_by_bit(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)

    def train(which: str, steps: int) -> list[Any]:
        ended: list[Any] = []
        for _ in range(steps):
            service.forward_backward(which, data)
            ended.append(service.optim_step(which, STEP).future.result(WAIT).metrics)
        return ended

    train(run, 2)
    path = service.save(run, "training", "two").future.result(WAIT).path
    expected = train(run, 2)
    final = service.forward(run, data).future.result(WAIT)

    session = service.create_session().session_id
    resumed = service.create_model_from_state(session, path, optimizer=True).future.result(WAIT)
    assert train(resumed, 2) == expected
    for a, b in zip(logprobs(final), logprobs(service.forward(resumed, data).future.result(WAIT)), strict=True):
        np.testing.assert_array_equal(a, b)

    fresh = service.create_model_from_state(session, path, optimizer=False).future.result(WAIT)
    assert [m["step"] for m in train(fresh, 1)] == [1]

    service.load(run, path, optimizer=True)  # into a model that has gone on
    assert train(run, 2) == expected


def steps(service: Service, run: str, which: range) -> None:
    for step in which:
        tokens = np.random.default_rng(step).integers(0, 96, 13)
        datum = Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": np.ones(12)})
        service.forward_backward(run, [datum])
        service.optim_step(run, STEP).future.result(WAIT)


_KILLED = """
import os, signal, sys
import numpy as np, torch
torch.set_num_threads(1)
from renderers import Datum, ModelInput
from trainer.protocol import AdamParams, LoraConfig
from trainer.service import Service, ServiceOptions

service = Service(ServiceOptions.of(models={{"tiny": sys.argv[1]}}, checkpoint_dir=sys.argv[2]))
session = service.create_session().session_id
run = service.create_model(session, "tiny", LoraConfig(rank=4, seed=1)).future.result()
WAIT, STEP = 60, AdamParams(learning_rate=0.01)
{steps}
steps(service, run, range(2))
print(service.save(run, "training", "two").future.result().path, flush=True)
steps(service, run, range(2, 3))
service.save(run, "training", "three")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_killed_and_started_again_the_adapter_is_that_of_an_undisturbed_run(
    make_service: Callable[..., Service], make_run: Callable[..., str], model_folder: Any, tmp_path: Path
) -> None:
    store = tmp_path / "shared"
    script = _KILLED.format(steps=inspect.getsource(steps))
    done = subprocess.run(
        [sys.executable, "-c", script, str(model_folder("qwen3")), str(store)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == -9, done.stderr
    path = done.stdout.strip()

    service = make_service(checkpoint_dir=store)
    session = service.create_session().session_id
    resumed = service.create_model_from_state(session, path, optimizer=True).future.result(WAIT)
    steps(service, resumed, range(2, 4))
    whole = make_run(service)
    steps(service, whole, range(4))
    states: list[dict[str, Any]] = []
    for run in (resumed, whole):
        saved = ParsedCheckpointTinkerPath.from_tinker_path(
            service.save(run, "training", "end").future.result(WAIT).path
        )
        with service.checkpoints.open(saved) as folder:
            states.append({p.name: p.read_bytes() for p in folder.glob("*.safetensors")})
    assert states[0] == states[1]
    assert sorted(states[0]) == ["adapter_model.safetensors", "optimizer.safetensors"]


def test_checkpoints_that_do_not_fit_are_refused(
    make_service: Callable[..., Service], make_run: Callable[..., str]
) -> None:
    service = make_service()
    run = make_run(service)
    path = service.save(run, "training", "a").future.result(WAIT).path
    weights = service.save(run, "sampler", "a").future.result(WAIT).path
    other = make_run(service, rank=8)
    with pytest.raises(RequestFailedError, match="path: expected a checkpoint with rank=8, as this model has"):
        service.load(other, path, optimizer=False).future.result(WAIT)
    with pytest.raises(OptionError, match="path: expected tinker://RUN/weights/NAME to train from"):
        service.load(other, weights, optimizer=False)
    with pytest.raises(OptionError, match="path: expected tinker://RUN/weights/NAME"):
        service.create_model_from_state(service.create_session().session_id, weights, optimizer=False)


def test_another_owners_objects_do_not_exist(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)
    session = run.split(":")[0]
    path = service.save(run, "training", "a").future.result(WAIT).path
    record, created = service.create_sampling_session(session, base_model="tiny")
    created.future.result(WAIT)
    theirs = service.create_session(owner="they").session_id
    attempts: list[Callable[[], Any]] = [
        lambda: service.session(session, "they"),
        lambda: service.create_model(session, "tiny", LoraConfig(), owner="they"),
        lambda: service.get_info(run, "they"),
        lambda: service.forward(run, data, owner="they"),
        lambda: service.optim_step(run, STEP, owner="they"),
        lambda: service.save(run, "training", "b", owner="they"),
        lambda: service.reserve(run, 1, owner="they"),
        lambda: service.create_model_from_state(theirs, path, optimizer=False, owner="they"),
        lambda: service.create_sampling_session(theirs, model_path=path, owner="they"),
        lambda: service.sample(Sample(record.sampler_id, np.array([1]), SamplingParams()), owner="they"),
        lambda: service.finish_session(session, "success", owner="they"),
    ]
    for attempt in attempts:
        with pytest.raises(NotFoundError, match=r"expected .* exists"):
            attempt()


def test_a_finished_session_runs_what_it_was_asked_and_lets_go(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)
    session = run.split(":")[0]
    gate = Gate(service)
    ticket = service.forward_backward(run, data)
    released = service.finish_session(session, "success", "done")
    assert service.finish_session(session, "errored") == []
    gate.open()
    assert ticket.future.result(WAIT).metrics["loss:sum"] > 0
    for one in released:
        one.future.result(WAIT)
    assert service.session(session).status == "success"
    with pytest.raises(UserError, match="its session has ended"):
        service.forward(run, data)
    with pytest.raises(UserError, match="session_id: expected a session that is active"):
        service.create_model(session, "tiny", LoraConfig())
    compute = service._worker.compute
    assert compute is not None
    assert compute.bases["tiny"].engine.adapters == {}


def test_closing_runs_what_was_accepted(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)
    tickets = [service.forward_backward(run, data), service.optim_step(run, STEP), service.save(run, "training", "z")]
    service.close()
    assert all(ticket.future.done() and ticket.future.exception() is None for ticket in tickets)
    with pytest.raises(UserError, match="service: it is closed"):
        service.create_session()


def test_samples_and_training_share_the_device(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)
    record, created = service.snapshot(run)
    created.future.result(WAIT)
    gate = Gate(service)
    sample = service.sample(Sample(record.sampler_id, np.array([5, 6]), SamplingParams(max_tokens=4, seed=1), 3))
    passes = [service.forward_backward(run, data) for _ in range(6)]
    gate.open()
    response = sample.future.result(WAIT)
    assert [len(s.tokens) for s in response.sequences] == [4, 4, 4]
    assert len({s.sequence_id for s in response.sequences}) == 3
    for ticket in passes:
        ticket.future.result(WAIT)


def test_a_snapshot_stays_and_an_in_flight_sampler_follows(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)

    def score(sampler_id: str) -> Any:
        operation = Sample(sampler_id, np.arange(3, 20), SamplingParams(max_tokens=0), prompt_logprobs=True)
        return service.sample(operation).future.result(WAIT).prompt_logprobs_np

    def snapshot(inflight: bool) -> str:
        record, created = service.snapshot(run, inflight=inflight)
        return created.future.result(WAIT) and record.sampler_id

    fixed, moving = snapshot(False), snapshot(True)
    before = score(fixed)
    np.testing.assert_array_equal(score(moving), before)
    service.forward_backward(run, data)
    service.optim_step(run, STEP)
    newer = snapshot(True)
    np.testing.assert_array_equal(score(fixed), before)
    assert np.abs(score(moving) - before)[1:].max() > 1e-3
    np.testing.assert_array_equal(score(moving), score(newer))


def test_prompts_that_cannot_be_are_refused_at_the_call(
    make_service: Callable[..., Service],
) -> None:
    service = make_service()
    record, created = service.create_sampling_session(service.create_session().session_id, base_model="tiny")
    created.future.result(WAIT)
    for prompt, said in (([], "prompt: expected at least one token"), ([96], r"prompt\[0\]"), ([1] * 65, "at most 64")):
        with pytest.raises(InputError, match=said):
            service.sample(Sample(record.sampler_id, np.array(prompt, np.int32), SamplingParams()))


def test_a_sampler_of_a_checkpoint_is_the_snapshot(
    make_service: Callable[..., Service], make_run: Callable[..., str], data: list[Datum]
) -> None:
    service = make_service()
    run = make_run(service)
    service.forward_backward(run, data)
    service.optim_step(run, STEP)
    path = service.save(run, "sampler", "s").future.result(WAIT).path
    samplers = [service.snapshot(run), service.create_sampling_session(run.split(":")[0], model_path=path)]
    operation = [Sample(r.sampler_id, np.array([7, 8, 9]), SamplingParams(max_tokens=6, seed=3)) for r, _ in samplers]
    for _, created in samplers:
        created.future.result(WAIT)
    first, second = (service.sample(o).future.result(WAIT).sequences[0] for o in operation)
    assert first.tokens == second.tokens
    assert first.logprobs == second.logprobs
    # Sampler and trainer agree on what they give.
    tokens = [7, 8, 9, *first.tokens]
    datum = Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": np.ones(len(tokens) - 1)})
    (scored,) = logprobs(service.forward(run, [datum]).future.result(WAIT))
    np.testing.assert_allclose(scored[2:], first.logprobs, atol=1e-4)


def test_numbers_of_models_are_used_once_and_expired_checkpoints_go(
    make_service: Callable[..., Service], make_run: Callable[..., str], tmp_path: Path
) -> None:
    service = make_service()
    run = make_run(service)
    session = run.split(":")[0]
    released = service.release_model(run)
    assert released is not None
    released.future.result(WAIT)
    assert service.release_model(run) is None
    with pytest.raises(UserError, match="model_seq_id: expected one that is free"):
        service.create_model(session, "tiny", LoraConfig(rank=2), model_seq_id=0)
    other = service.create_model(session, "tiny", LoraConfig(rank=2), model_seq_id=7).future.result(WAIT)
    assert other == f"{session}:train:7"

    path = ParsedCheckpointTinkerPath.from_tinker_path(
        service.save(other, "training", "old", ttl_seconds=3600).future.result(WAIT).path
    )
    later = FolderCheckpointStore(tmp_path / "checkpoints", now=lambda: datetime.now(UTC) + timedelta(hours=2))
    assert later.folder(path).exists()
    Service(service.options, checkpoints=later).close()
    assert not later.folder(path).exists()
