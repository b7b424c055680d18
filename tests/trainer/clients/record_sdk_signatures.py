"""Writes `sdk_signatures.json`: the public methods of the official SDK's clients, by inspection of the installed SDK.

python tests/trainer/clients/record_sdk_signatures.py   # in an environment that has the SDK
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

CLASSES = ("APIFuture", "RestClient", "SamplingClient", "ServiceClient", "TrainingClient")
TARGET = Path(__file__).with_name("sdk_signatures.json")


def signature_of(function: Any) -> dict[str, Any]:
    """Whether it is a coroutine function, and (name, kind, has a default) of each parameter but `self`."""
    parameters = list(inspect.signature(function).parameters.values())
    return {
        "async": inspect.iscoroutinefunction(inspect.unwrap(function)),
        "parameters": [
            [p.name, p.kind.name, p.default is not inspect.Parameter.empty] for p in parameters if p.name != "self"
        ],
    }


def methods_of(cls: type) -> dict[str, dict[str, Any]]:
    """Public methods, and `__init__`, as they are called."""
    found: dict[str, dict[str, Any]] = {}
    for name in dir(cls):
        function = inspect.getattr_static(cls, name)
        if isinstance(function, property) or (name.startswith("_") and name != "__init__"):
            continue
        if callable(getattr(cls, name)):
            found[name] = signature_of(getattr(cls, name))
    return dict(sorted(found.items()))


def main() -> None:
    import tinker

    signatures = {"version": tinker.__version__, **{name: methods_of(getattr(tinker, name)) for name in CLASSES}}
    TARGET.write_text(_one_line_per_method(signatures), encoding="utf-8")


def _one_line_per_method(signatures: dict[str, Any]) -> str:
    lines = ["{", f' "version": {json.dumps(signatures["version"])},']
    for name in CLASSES:
        methods = [f"  {json.dumps(m)}: {json.dumps(s)}" for m, s in signatures[name].items()]
        lines += [f' "{name}": {{', ",\n".join(methods), " }" + ("," if name != CLASSES[-1] else "")]
    return "\n".join([*lines, "}", ""])


if __name__ == "__main__":
    main()
