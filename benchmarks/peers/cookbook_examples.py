"""tinker-cookbook's prompts and supervised examples for a file of conversations; run in its own environment.

    .venvs/cookbook/bin/python benchmarks/peers/cookbook_examples.py JOBS RESULTS

JOBS is JSON: {"renderer", "folder", "modes", "conversations": [{"messages", "tools"}]}. RESULTS gets one line of JSON
for each conversation: {"prompt": ids or an error, mode: [ids, weights] or an error, …}.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load(name: str, folder: Path) -> Any:
    """The cookbook's renderer with this folder's tokenizer, its pre-tokenizer as tokenizer.json has it."""
    import transformers
    from tinker_cookbook.renderers import get_renderer

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    special = {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    path = str(folder / "tokenizer.json")
    return get_renderer(name, transformers.PreTrainedTokenizerFast(tokenizer_file=path, **special))


def converted(message: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The cookbook's form of a message: reasoning as a part, calls as its own objects, the name on tool results."""
    from tinker_cookbook.renderers import ToolCall

    content: Any = message.get("content") or ""
    if message.get("reasoning_content"):
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        content = [{"type": "thinking", "thinking": message["reasoning_content"]}, *parts]
    found: dict[str, Any] = {"role": message["role"], "content": content}
    if message.get("tool_calls"):
        found["tool_calls"] = [
            ToolCall(
                id=call.get("id"),
                function=ToolCall.FunctionBody(
                    name=call["function"]["name"], arguments=as_text(call["function"]["arguments"])
                ),
            )
            for call in message["tool_calls"]
        ]
    if "tool_call_id" in message:
        found["tool_call_id"] = message["tool_call_id"]
    name = message.get("name") or names.get(message.get("tool_call_id", ""))
    if message["role"] == "tool" and name:
        found["name"] = name
    return found


def as_text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def conversation(renderer: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Messages with the declarations where the cookbook wants them: in front, with the system text."""
    names = {
        call["id"]: call["function"]["name"]
        for message in job["messages"]
        for call in message.get("tool_calls") or ()
        if "id" in call
    }
    messages = [converted(message, names) for message in job["messages"]]
    if not job["tools"]:
        return messages
    system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
    declared = [tool["function"] for tool in job["tools"]]
    return [*renderer.create_conversation_prefix_with_tools(declared, system), *messages]


def attempt(render: Callable[[], Any]) -> Any:
    try:
        return render()
    except Exception as error:  # whatever it raises, it did not render
        return f"{type(error).__name__}: {str(error)[:200]}"


def examples(renderer: Any, job: dict[str, Any], modes: list[str]) -> dict[str, Any]:
    from tinker_cookbook.renderers import TrainOnWhat

    messages = attempt(lambda: conversation(renderer, job))
    if isinstance(messages, str):
        return dict.fromkeys(["prompt", *modes], messages)
    end = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=len(messages))
    results: dict[str, Any] = {
        "prompt": attempt(lambda: renderer.build_generation_prompt(messages[:end]).to_ints()),
    }
    first = len(messages) - len(job["trainable"])
    for mode in modes:
        trained = [dict(message) for message in messages]
        if mode == "customized":
            for i, message in enumerate(trained):
                message["trainable"] = job["trainable"][i - first] if i >= first else False

        def render(trained: list[Any] = trained, mode: str = mode) -> Any:
            tokens, weights = renderer.build_supervised_example(trained, TrainOnWhat(mode))
            return [tokens.to_ints(), [float(weight) for weight in weights]]

        results[mode] = attempt(render)
    return results


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    renderer = load(jobs["renderer"], Path(jobs["folder"]))
    with Path(sys.argv[2]).open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(examples(renderer, job, jobs["modes"])) + "\n" for job in jobs["conversations"])


if __name__ == "__main__":
    main()
