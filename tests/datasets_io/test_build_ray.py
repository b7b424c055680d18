"""`engine="ray"` on a local cluster: the same files, errors as they are."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator

import pytest

from datasets_io import WorkerDiedError, build_shards
from datasets_io.engines import engine_run
from renderers import InputError, MissingExtraError
from tests.datasets_io.build_samples import ROOT, files_of, mixed_input, spec_of
from tests.datasets_io.engine_tasks import DieFirst, Fail, block_of


def test_without_ray_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match="ray is not installed"):
        engine_run("ray", 2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ray's own
        ray = pytest.importorskip("ray", reason="ray is not installed (the extra ray)")
        # Unix sockets have short names: not under pytest's own folder.
        import tempfile

        with tempfile.TemporaryDirectory(prefix="ray") as folder:
            ray.init(
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=folder,
                _node_ip_address="127.0.0.1",
                object_store_memory=100_000_000,
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
            )
            yield
            ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_local_cluster_gives_the_same_files(tmp_path, cluster) -> None:
    inputs = mixed_input(tmp_path)
    spec = spec_of(block_bytes=20_000, eval_fraction=0.2)
    build_shards(inputs, tmp_path / "here", spec, max_rejects="100%", dedup=True)
    build_shards(inputs, tmp_path / "ray", spec, max_rejects="100%", dedup=True, engine="ray", workers=2)
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "here")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_errors_and_dead_workers_on_a_cluster(tmp_path, cluster) -> None:
    with engine_run("ray", 1)() as results:
        with pytest.raises(InputError, match="block 3"):
            list(results(iter([Fail(block_of(3))])))
        again = [DieFirst(block_of(i), str(tmp_path), int(i == 1)) for i in range(3)]
        assert sorted(index for index, _ in results(iter(again))) == [0, 1, 2]
        with pytest.raises(WorkerDiedError, match=r"rows.jsonl:51-52: the Ray worker died at this block twice"):
            list(results(iter([DieFirst(block_of(5), str(tmp_path), 2)])))
