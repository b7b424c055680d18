"""Our clients have the SDK's methods with the SDK's argument names.

`sdk_signatures.json` was recorded from the SDK (`record_sdk_signatures.py`); where the SDK is installed the record is
compared with it.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import trainer

HERE = Path(__file__).parent
RECORDED: dict[str, Any] = json.loads((HERE / "sdk_signatures.json").read_text("utf-8"))
# What has no meaning in one process: other accounts, billing, a console, telemetry, handles to other processes.
NOT_OFFERED = {
    "RestClient": {
        "assign_session_project",
        "assign_session_project_async",
        "copy_weights",
        "copy_weights_async",
        "export_session_trace",
        "export_session_trace_async",
        "get_audit_log",
        "get_audit_log_async",
        "get_billing_usage",
        "get_billing_usage_async",
        "get_current_checkpoint_storage_usage",
        "get_current_checkpoint_storage_usage_async",
        "get_telemetry",
        "search_sessions",
        "whoami",
    },
    "SamplingClient": {
        "create",
        "from_sampler_handle",
        "get_sampler_handle",
        "get_telemetry",
        "on_queue_state_change",
    },
    "ServiceClient": {"copy_weights", "create_custom_loss", "get_console_url", "get_telemetry"},
    "TrainingClient": {"get_console_url", "get_telemetry"},
    "APIFuture": set[str](),
}
# Made by the service client, never by a caller.
NOT_CONSTRUCTED = {"RestClient", "SamplingClient", "TrainingClient", "APIFuture"}
CASES = [
    (name, method)
    for name in NOT_OFFERED
    for method in RECORDED[name]
    if method not in NOT_OFFERED[name] and not (method == "__init__" and name in NOT_CONSTRUCTED)
]


def _recorder() -> Any:
    spec = importlib.util.spec_from_file_location("record_sdk_signatures", HERE / "record_sdk_signatures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "method"), CASES)
def test_the_same_call_is_possible(name: str, method: str) -> None:
    cls = getattr(trainer, name)
    assert hasattr(cls, method)
    ours = _recorder().signature_of(getattr(cls, method))
    theirs = RECORDED[name][method]
    assert ours["async"] == theirs["async"]
    named = {p[0]: p for p in ours["parameters"]}
    for parameter, kind, has_default in theirs["parameters"]:
        if kind in ("VAR_KEYWORD", "VAR_POSITIONAL"):
            continue
        assert parameter in named
        assert named[parameter][2] or not has_default, f"{parameter} has a default in the SDK"
    positional = [p[0] for p in theirs["parameters"] if p[1] == "POSITIONAL_OR_KEYWORD"]
    assert [p[0] for p in ours["parameters"]][: len(positional)] == positional
    extra = set(named) - {p[0] for p in theirs["parameters"]}
    assert all(named[parameter][2] for parameter in extra), "what only we take must have a default"


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_what_is_not_offered_is_not_there(name: str) -> None:
    assert not [method for method in NOT_OFFERED[name] if hasattr(getattr(trainer, name), method)]
    assert set(RECORDED[name]) >= NOT_OFFERED[name]


def test_the_record_is_that_of_the_installed_sdk() -> None:
    tinker = pytest.importorskip("tinker", reason="the SDK comes with the extra `remote`")
    if tinker.__version__ != RECORDED["version"]:
        pytest.skip(f"recorded from {RECORDED['version']}; installed is {tinker.__version__}")
    recorder = _recorder()
    for name in recorder.CLASSES:
        assert recorder.methods_of(getattr(tinker, name)) == RECORDED[name]
