from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the in-process service needs the extra `train`")

import trainer  # noqa: E402
from renderers import InputError, MissingExtraError, OptionError, UserError  # noqa: E402
from trainer import Datum, ServiceClient, TrainingClient, types  # noqa: E402

STEP = types.AdamParams(learning_rate=0.01)
WAIT = 60


def test_importing_the_clients_imports_no_torch() -> None:
    code = "import sys, trainer; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'tinker')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[3]).returncode == 0


def test_train_save_resume_sample(client: ServiceClient, model: str, data: list[Datum]) -> None:
    training = client.create_lora_training_client(base_model=model, rank=4, seed=1)
    losses: list[float] = []
    for _ in range(4):
        fwdbwd = training.forward_backward(data, "cross_entropy")
        optim = training.optim_step(types.AdamParams(learning_rate=0.02))
        result = fwdbwd.result(timeout=WAIT)
        losses.append(result.metrics["loss:sum"])
        assert [len(o["logprobs"].tolist()) for o in result.loss_fn_outputs] == [7, 20]
        assert set(optim.result().metrics or {}) >= {"grad_norm", "update_norm", "learning_rate", "step"}
    assert losses == sorted(losses, reverse=True)

    saved = training.save_state("one", ttl_seconds=3600, user_metadata={"who": "test"}).result(WAIT)
    assert saved.path == f"tinker://{training.model_id}/weights/one"
    resumed = client.create_training_client_from_state_with_optimizer(saved.path).result(WAIT)
    assert resumed.model_id == f"{client.holder.get_session_id()}:train:1"
    assert resumed.get_info().lora_rank == 4
    for one in (training, resumed):
        one.forward_backward(data, "cross_entropy")
    assert training.optim_step(STEP).result(WAIT) == resumed.optim_step(STEP).result(WAIT)

    weights = training.save_weights_for_sampler("one").result(WAIT)
    sampling = client.create_sampling_client(model_path=weights.path)
    assert sampling.model_path == weights.path
    assert sampling.get_base_model() == model
    params = types.SamplingParams(max_tokens=6, temperature=0.7, seed=3, stop=[])
    prompt = types.ModelInput.from_ints([5, 6, 7])
    response = sampling.sample(prompt, num_samples=2, sampling_params=params, include_prompt_logprobs=True).result(WAIT)
    assert [len(s.tokens) for s in response.sequences] == [6, 6]
    assert response.prompt_logprobs is not None
    assert response.prompt_logprobs == sampling.compute_logprobs(prompt).result(WAIT)
    assert response.prompt_logprobs[0] is None
    live = training.save_weights_and_get_sampling_client().result(WAIT)
    assert live.model_path is None
    assert live.sample(prompt, 2, params).result(WAIT).sequences[1].tokens == response.sequences[1].tokens


def test_async_code_of_both_spellings(client: ServiceClient, model: str, data: list[Datum]) -> None:
    async def older() -> Any:
        training = await client.create_lora_training_client_async(model, rank=4, seed=1)
        fwdbwd = await training.forward_backward_async(data, "cross_entropy")
        optim = await training.optim_step_async(STEP)
        first, second = await fwdbwd, await optim.result_async(WAIT)
        path = (await (await training.save_state_async("a"))).path
        sampler = await training.save_weights_and_get_sampling_client_async()
        sampled = await sampler.sample_async(types.ModelInput.from_ints([1]), 1, types.SamplingParams(max_tokens=2))
        assert len(sampled.sequences[0].tokens) <= 2
        assert len(await sampler.compute_logprobs_async(types.ModelInput.from_ints([1, 2]))) == 2
        again = await client.create_training_client_from_state_async(path)
        return first.metrics, second.metrics, (await again.get_info_async()).model_name

    async def recent() -> Any:
        training = await client.create_lora_training_client(model, rank=4, seed=1)
        first, second = await asyncio.gather(
            training.forward_backward(data, "cross_entropy").coroutine(), training.optim_step(STEP).coroutine()
        )
        path = (await training.save_state("b")).path
        sampler = await training.save_weights_and_get_sampling_client()
        await sampler.sample(types.ModelInput.from_ints([1]), 1, types.SamplingParams(max_tokens=2))
        again = await client.create_training_client_from_state(path)
        return first.metrics, second.metrics, again.get_info().model_name

    assert asyncio.run(older()) == asyncio.run(recent())


def test_custom_loss_is_what_the_built_in_loss_is(
    client: ServiceClient, model: str, training: TrainingClient, data: list[Datum]
) -> None:
    other = client.create_lora_training_client(model, rank=4, seed=1)
    seen: list[Any] = []

    def nll(given: list[Any], logprobs: list[Any]) -> tuple[Any, dict[str, float]]:
        seen.extend(given)
        total = sum(-(d.loss_fn_inputs["weights"].to_torch() * lp).sum() for d, lp in zip(given, logprobs, strict=True))
        return total, {"mine": 2.5}

    custom = training.forward_backward_custom(data, nll)
    step = training.optim_step(STEP)  # sent before the loss has run
    built_in = other.forward_backward(data, "cross_entropy").result(WAIT)
    metrics = custom.result(WAIT).metrics
    assert seen == data
    assert metrics["mine"] == 2.5
    assert metrics["loss:sum"] == pytest.approx(built_in.metrics["loss:sum"], rel=1e-6)
    assert metrics["surrogate_loss:sum"] == pytest.approx(built_in.metrics["loss:sum"], rel=1e-6)
    expected = other.optim_step(STEP).result(WAIT).metrics
    assert step.result(WAIT).metrics == pytest.approx(expected)


def test_custom_loss_of_several_targets_and_a_second_order_shape(training: TrainingClient) -> None:
    """A squared loss over (N, K) logprobs: the gradient is that of torch alone."""
    targets = np.array([[3, 4], [5, 6], [7, 8]])
    datum = Datum(types.ModelInput.from_ints([1, 2, 3]), {"target_tokens": targets})

    def squared(_: Any, logprobs: list[Any]) -> tuple[Any, dict[str, float]]:
        return (logprobs[0] ** 2).sum(), {}

    scored = training.forward(
        [Datum(datum.model_input, {"target_tokens": targets, "weights": np.zeros((3, 2))})], "cross_entropy"
    ).result(WAIT)
    logprobs = scored.loss_fn_outputs[0]["logprobs"].to_numpy()
    result = training.forward_backward_custom([datum], squared).result(WAIT)
    assert result.metrics["loss:sum"] == pytest.approx(float((logprobs**2).sum()), rel=1e-5)
    assert result.metrics["surrogate_loss:sum"] == pytest.approx(float((2 * logprobs * logprobs).sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "error", "said"),
    [
        (lambda d, lp: 1 / 0, ZeroDivisionError, "division"),
        (lambda d, lp: (lp[0].sum(), {}), UserError, r"data\[1\] has no part"),
        (lambda d, lp: (1.0, {}), UserError, "expected a scalar tensor"),
        (lambda d, lp: (sum((x * float("nan")).sum() for x in lp), {}), InputError, "expected finite numbers"),
    ],
)
def test_a_failing_custom_loss_fails_itself_and_the_step_after_it(
    training: TrainingClient, data: list[Datum], loss: Any, error: type[Exception], said: str
) -> None:
    custom = training.forward_backward_custom(data, loss)
    step = training.optim_step(STEP)
    with pytest.raises(error, match=said):
        custom.result(WAIT)
    with pytest.raises(UserError, match="optim_step: expected every forward_backward before it to succeed"):
        step.result(WAIT)
    training.forward_backward(data, "cross_entropy")
    assert training.optim_step(STEP).result(WAIT).metrics["step"] == 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: t.forward_backward("text", "cross_entropy"), "data: expected a list of Datum; got str"),
        (lambda t: t.forward_backward([1], "cross_entropy"), r"data\[0\]: expected a Datum; got int"),
        (lambda t: t.optim_step(), "optim_params: expected AdamParams once"),
        (lambda t: t.optim_step({"learning_rate": 1}), "optim_params: expected AdamParams; got dict"),
        (lambda t: t.forward_backward_custom([Datum(types.ModelInput.from_ints([1]))], print), "target_tokens"),
        (lambda t: t.save_state("../x"), "name: expected"),
        (lambda t: t.load_state("weights"), "path: expected tinker://"),
        (lambda t: t.save_weights_external("x", age_encryption_recipients=["age1"]), "age_encryption_recipients"),
        (lambda t: t.save_weights_and_get_sampling_client(kind="other"), "kind: expected snapshot or inflight"),
    ],
)
def test_user_errors_raise_at_the_call(training: TrainingClient, call: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        call(training)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_samples": 0}, "num_samples: expected"),
        ({"prompt": types.ModelInput.from_ints([])}, "prompt: expected at least one token"),
        ({"prompt": [1, 2]}, "prompt: expected a ModelInput; got list"),
        ({"prompt": types.ModelInput.from_ints([10**6])}, "prompt"),
        ({"prompt_alt_tokens_k": 2}, "prompt_alt_tokens_k: expected 0"),
        ({"prompt_logprobs_last_n": 1}, "expected include_prompt_logprobs=True"),
        ({"prompt_logprobs_last_n": 3, "include_prompt_logprobs": True}, "expected 1 to 1; got 3"),
        ({"sampling_params": {"max_tokens": 3}}, "sampling_params: expected SamplingParams; got dict"),
    ],
)
def test_sampling_errors_raise_at_the_call(training: TrainingClient, changes: dict[str, Any], said: str) -> None:
    sampler = training.save_weights_and_get_sampling_client()
    call = {"prompt": types.ModelInput.from_ints([1, 2]), "num_samples": 1, "sampling_params": types.SamplingParams()}
    with pytest.raises(UserError, match=said):
        sampler.sample(**{**call, **changes})


def test_only_the_last_prompt_logprobs(training: TrainingClient) -> None:
    sampler = training.save_weights_and_get_sampling_client()
    prompt = types.ModelInput.from_ints([1, 2, 3, 4])
    whole = sampler.compute_logprobs(prompt).result(WAIT)
    assert sampler.compute_logprobs(prompt, prompt_logprobs_last_n=2).result(WAIT) == [None, None, *whole[2:]]


def test_stop_strings_use_the_models_tokenizer(training: TrainingClient) -> None:
    tokenizer = training.get_tokenizer()
    sampler = training.save_weights_and_get_sampling_client()
    prompt = types.ModelInput.from_ints(tokenizer.encode("Hello", add_special_tokens=False))
    params = types.SamplingParams(max_tokens=40, seed=1, stop=[])
    free = sampler.sample(prompt, 1, params).result(WAIT).sequences[0]
    text = tokenizer.decode(free.tokens[:4])
    word = text[-2:]
    stopped = sampler.sample(prompt, 1, types.SamplingParams(max_tokens=40, seed=1, stop=[word])).result(WAIT)
    assert stopped.sequences[0].stop_reason == "stop"
    assert word in tokenizer.decode(stopped.sequences[0].tokens)
    assert len(stopped.sequences[0].tokens) <= 4


def test_types_of_another_package_are_taken(training: TrainingClient, data: list[Datum]) -> None:
    """Stand-ins with the SDK's attributes; no class of ours among them."""

    class AdamParams:
        learning_rate = 0.01
        beta1 = 0.9  # an older SDK: fewer fields

    class SamplingParams:
        max_tokens, seed, stop, temperature, top_k, top_p = 3, 1, [], 1.0, -1, 1.0

    def foreign(datum: Datum) -> Any:
        chunk = SimpleNamespace(type="encoded_text", tokens=datum.model_input.to_ints())
        inputs = {n: SimpleNamespace(to_numpy=t.to_numpy) for n, t in datum.loss_fn_inputs.items()}
        return SimpleNamespace(model_input=SimpleNamespace(chunks=[chunk]), loss_fn_inputs=inputs)

    ours = training.forward(data, "cross_entropy").result(WAIT)
    theirs = training.forward_backward([foreign(d) for d in data], "cross_entropy").result(WAIT)
    assert ours.metrics == theirs.metrics
    training.optim_step(AdamParams()).result(WAIT)
    sampler = training.save_weights_and_get_sampling_client()
    prompt = foreign(data[0]).model_input
    assert len(sampler.sample(prompt, 1, SamplingParams()).result(WAIT).sequences[0].tokens) == 3


def test_rest_listings_and_checkpoint_management(client: ServiceClient, training: TrainingClient, model: str) -> None:
    rest = client.create_rest_client()
    names = ("a", "b")
    paths = [training.save_state(name).result(WAIT).path for name in names]
    paths.append(training.save_weights_for_sampler("s").result(WAIT).path)
    (only,) = rest.list_training_runs().result().training_runs
    assert (only.training_run_id, only.base_model, only.lora_rank) == (training.model_id, model, 4)
    assert only.last_checkpoint is not None
    assert only.last_checkpoint.tinker_path == paths[1]
    assert rest.get_training_run_by_tinker_path(paths[0]).result() == only
    listed = rest.list_checkpoints(training.model_id).result().checkpoints
    assert [c.tinker_path for c in listed] == paths
    newest = rest.list_user_checkpoints(limit=2, offset=0).result()
    assert [c.tinker_path for c in newest.checkpoints] == paths[:0:-1]
    assert newest.cursor is not None
    assert newest.cursor.total_count == 3
    info = rest.get_weights_info_by_tinker_path(paths[0]).result()
    assert (info.base_model, info.is_lora, info.lora_rank, info.train_mlp) == (model, True, 4, True)

    rest.set_checkpoint_ttl_from_tinker_path(paths[0], 7200).result()
    rest.publish_checkpoint_from_tinker_path(paths[0]).result()
    changed = rest.list_checkpoints(training.model_id).result().checkpoints[0]
    assert changed.public
    assert changed.expires_at is not None
    rest.set_checkpoint_ttl_from_tinker_path(paths[0], None).result()
    rest.unpublish_checkpoint_from_tinker_path(paths[0]).result()
    assert rest.list_checkpoints(training.model_id).result().checkpoints[0] == listed[0]

    rest.delete_checkpoint(training.model_id, "weights/a").result()
    rest.delete_checkpoint_from_tinker_path(paths[1]).result()
    assert [c.checkpoint_id for c in rest.list_checkpoints(training.model_id).result().checkpoints] == [
        "sampler_weights/s"
    ]
    with pytest.raises(trainer.NotFoundError):
        rest.delete_checkpoint_from_tinker_path(paths[1])

    session = rest.get_session(client.session_id).result()
    assert session.training_run_ids == [training.model_id]
    assert rest.list_sessions().result().sessions == [client.session_id]
    sampler = client.create_sampling_client(model_path=paths[2])
    described = rest.get_sampler(sampler.sampling_session_id).result()
    assert (described.base_model, described.model_path) == (model, paths[2])
    assert client.get_server_capabilities().supported_models[0].model_name == model


def test_downloads(client: ServiceClient, training: TrainingClient) -> None:
    sampler = training.save_weights_and_get_sampling_client(name="final").result(WAIT)
    assert sampler.model_path is not None
    rest = client.create_rest_client()
    archive = rest.download_checkpoint_archive_from_tinker_path(sampler.model_path).result()
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        assert {"adapter_config.json", "adapter_model.safetensors"} <= set(tar.getnames())
    url = rest.get_checkpoint_archive_url_from_tinker_path(sampler.model_path).result().url
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == archive
    external = training.save_weights_external("out").result(WAIT).path
    urls = rest.get_external_weights_urls(external).result().urls
    with urllib.request.urlopen(urls["adapter_config.json"]) as answer:
        assert b"LORA" in answer.read()
    # A name used again for the same purpose takes the newest weights.
    assert training.save_weights_and_get_sampling_client(name="final").result(WAIT).model_path == sampler.model_path


def test_runs_of_an_earlier_process_are_known_by_their_checkpoints(
    client: ServiceClient, training: TrainingClient, model: str, tmp_path: Path
) -> None:
    path = training.save_state("kept").result(WAIT).path
    with ServiceClient(models={"renamed": model, model: model}, checkpoint_dir=tmp_path / "checkpoints") as later:
        rest = later.create_rest_client()
        assert rest.get_training_run(training.model_id).result().base_model == model
        assert later.create_training_client_from_state(path).get_info().lora_rank == 4


def test_clients_with_equal_options_share_one_base(model: str, tmp_path: Path) -> None:
    options = {"base_model": model, "checkpoint_dir": tmp_path / "c"}
    first, second = ServiceClient(**options), ServiceClient(**options)  # type: ignore[arg-type]
    other = ServiceClient(base_model=model, checkpoint_dir=tmp_path / "c", alpha=16)
    assert first.service is second.service
    assert first.service is not other.service
    assert other.create_lora_training_client(model, rank=2).get_info().lora_alpha == 16
    first.close().result(WAIT)
    assert not second.service.is_closed
    second.close("errored", "why").result(WAIT)
    assert second.service.is_closed
    other.close().result(WAIT)


def test_a_closed_client_says_so_and_its_block_names_how_it_ended(model: str) -> None:
    client = ServiceClient(base_model=model)
    session = client.session_id
    with pytest.raises(ZeroDivisionError), client:
        raise ZeroDivisionError
    with pytest.raises(UserError, match="ServiceClient: it is closed"):
        client.create_lora_training_client(model)
    assert client.service.metadata.get_session(session).status == "errored"


def test_a_client_that_is_dropped_gives_its_memory_back(client: ServiceClient, training: TrainingClient) -> None:
    compute = client.service._worker.compute
    assert compute is not None
    for _ in range(3):  # as in a loop that samples from each step's weights
        training.save_weights_and_get_sampling_client().result(WAIT)
        gc.collect()
    training.forward(
        [Datum(types.ModelInput.from_ints([1]), {"target_tokens": [1], "weights": [1.0]})], "cross_entropy"
    )
    client.service._worker.call(lambda _: None).result(WAIT)
    assert len(compute.slots) <= 1


def test_a_timeout_leaves_the_request_at_work(
    client: ServiceClient, training: TrainingClient, data: list[Datum]
) -> None:
    held = concurrent.futures.Future[None]()
    client.service._worker.call(lambda _: held.result(WAIT))
    future = training.forward(data, "cross_entropy")
    with pytest.raises(TimeoutError):
        future.result(timeout=0.01)

    async def wait() -> None:
        await future.result_async(timeout=0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    held.set_result(None)
    assert future.result(WAIT).metrics["loss:sum"] > 0
    assert concurrent.futures.wait([future.future()], timeout=WAIT).done


def test_connect(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    local = trainer.connect(base_model=model)
    assert isinstance(local, ServiceClient)
    local.close().result(WAIT)
    with pytest.raises(OptionError, match=r"base_url: .* use connect\(base_url='http://x'\)"):
        ServiceClient(base_url="http://x")
    monkeypatch.setitem(sys.modules, "tinker", None)
    with pytest.raises(MissingExtraError, match="remote"):
        trainer.connect(base_url="http://127.0.0.1:1")
    made: list[dict[str, Any]] = []
    monkeypatch.setitem(sys.modules, "tinker", SimpleNamespace(ServiceClient=lambda **options: made.append(options)))
    trainer.connect(base_url="http://127.0.0.1:1", api_key="tml-local")
    assert made == [{"base_url": "http://127.0.0.1:1", "api_key": "tml-local"}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "lora_config.rank: expected"),
        ({"train_mlp": False, "train_attn": False, "train_unembed": False}, "lora_config: expected at least one"),
        ({"optimizer": SimpleNamespace(type="dimuon")}, "optimizer: expected None or AdamOptimizerConfig"),
        ({"base_model": "other"}, "base_model: expected one of"),
    ],
)
def test_impossible_training_clients(client: ServiceClient, model: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        client.create_lora_training_client(**{"base_model": model, **options})


@pytest.mark.slow
def test_what_was_not_waited_for_is_saved_when_the_program_ends(model: str, tmp_path: Path) -> None:
    script = f"""
import trainer
from trainer import types
client = trainer.ServiceClient(base_model={model!r}, checkpoint_dir={str(tmp_path)!r})
training = client.create_lora_training_client({model!r}, rank=2, seed=1)
datum = types.Datum(types.ModelInput.from_ints([1, 2]), {{"target_tokens": [2, 3], "weights": [1.0, 1.0]}})
training.forward_backward_custom([datum], lambda d, lp: (-lp[0].sum(), {{}}))
training.optim_step(types.AdamParams(learning_rate=0.01))
training.save_state("last")
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=Path(__file__).parents[3])
    with ServiceClient(base_model=model, checkpoint_dir=tmp_path) as client:
        (kept,) = client.create_rest_client().list_user_checkpoints().result().checkpoints
        again = client.create_training_client_from_state_with_optimizer(kept.tinker_path)
        assert again.optim_step(STEP).result(WAIT).metrics["step"] == 2  # type: ignore[index]
