"""Conversations become tokens, weights and `Datum` objects; completions become messages again.

>>> from renderers import get_renderer, get_tokenizer
>>> tokenizer = get_tokenizer("fixtures/tiny-chat")
>>> renderer = get_renderer("auto", tokenizer)
>>> model_input, weights = renderer.build_supervised_example(
...     [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
... )
>>> len(weights) == model_input.length
True

Names are imported when first used: a program that needs a message type must not load an encoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import Renderer, SupervisedExample
    from .chat_template import ChatTemplate
    from .datum import Reduction, count_trained, mean_weights, shift_block, to_datum
    from .encoders import Backend
    from .errors import (
        DatumloomError,
        DroppedError,
        InputError,
        InternalError,
        MissingExtraError,
        OptionError,
        RefusedError,
        UserError,
    )
    from .extension import Extension
    from .family import NOT_SHOWN, Family, MessageText, Option, Pieces, View, join_pieces
    from .messages import (
        ROLES,
        ContentPart,
        Conversation,
        FunctionCall,
        ImagePart,
        Message,
        TextPart,
        ThinkingPart,
        ToolCall,
        ToolSpec,
        check_messages,
        text_of,
    )
    from .parsing import (
        CallReader,
        CallSyntax,
        Delta,
        ParseFailureKind,
        ParseTermination,
        ReasoningDelta,
        ResponseEnd,
        ResponseFormat,
        StreamParser,
        TextDelta,
        ToolCallArguments,
        ToolCallEnd,
        ToolCallStart,
        classify_parse_failure,
        from_openai_message,
        to_openai_message,
    )
    from .registry import get_renderer, renderer_names
    from .rendered import (
        CONTROL_TOKEN_POLICIES,
        TURN_POLICIES,
        ControlTokens,
        Refusal,
        RenderedBlock,
        RenderedTokens,
        RenderSettings,
        TrainOnWhat,
        Turns,
    )
    from .tokenizer import ControlToken, ParityError, Tokenizer, get_tokenizer
    from .trajectory import merge_rollout
    from .types import Chunk, Datum, EncodedTextChunk, ImageChunk, ModelInput, TensorData

_MODULES = {
    "Backend": "encoders",
    "CONTROL_TOKEN_POLICIES": "rendered",
    "CallReader": "parsing",
    "CallSyntax": "parsing",
    "ChatTemplate": "chat_template",
    "Chunk": "types",
    "ContentPart": "messages",
    "ControlToken": "tokenizer",
    "ControlTokens": "rendered",
    "Conversation": "messages",
    "Datum": "types",
    "DatumloomError": "errors",
    "Delta": "parsing",
    "DroppedError": "errors",
    "EncodedTextChunk": "types",
    "Extension": "extension",
    "Family": "family",
    "FunctionCall": "messages",
    "ImageChunk": "types",
    "ImagePart": "messages",
    "InputError": "errors",
    "InternalError": "errors",
    "Message": "messages",
    "MessageText": "family",
    "MissingExtraError": "errors",
    "ModelInput": "types",
    "NOT_SHOWN": "family",
    "Option": "family",
    "OptionError": "errors",
    "ParityError": "tokenizer",
    "ParseFailureKind": "parsing",
    "ParseTermination": "parsing",
    "Pieces": "family",
    "ROLES": "messages",
    "ReasoningDelta": "parsing",
    "Reduction": "datum",
    "Refusal": "rendered",
    "RefusedError": "errors",
    "RenderSettings": "rendered",
    "RenderedBlock": "rendered",
    "RenderedTokens": "rendered",
    "Renderer": "base",
    "ResponseEnd": "parsing",
    "ResponseFormat": "parsing",
    "StreamParser": "parsing",
    "SupervisedExample": "base",
    "TURN_POLICIES": "rendered",
    "TensorData": "types",
    "TextDelta": "parsing",
    "TextPart": "messages",
    "ThinkingPart": "messages",
    "Tokenizer": "tokenizer",
    "ToolCall": "messages",
    "ToolCallArguments": "parsing",
    "ToolCallEnd": "parsing",
    "ToolCallStart": "parsing",
    "ToolSpec": "messages",
    "TrainOnWhat": "rendered",
    "Turns": "rendered",
    "UserError": "errors",
    "View": "family",
    "check_messages": "messages",
    "classify_parse_failure": "parsing",
    "count_trained": "datum",
    "from_openai_message": "parsing",
    "get_renderer": "registry",
    "get_tokenizer": "tokenizer",
    "join_pieces": "family",
    "mean_weights": "datum",
    "merge_rollout": "trajectory",
    "renderer_names": "registry",
    "shift_block": "datum",
    "text_of": "messages",
    "to_datum": "datum",
    "to_openai_message": "parsing",
}

__all__ = [
    "CONTROL_TOKEN_POLICIES",
    "NOT_SHOWN",
    "ROLES",
    "TURN_POLICIES",
    "Backend",
    "CallReader",
    "CallSyntax",
    "ChatTemplate",
    "Chunk",
    "ContentPart",
    "ControlToken",
    "ControlTokens",
    "Conversation",
    "Datum",
    "DatumloomError",
    "Delta",
    "DroppedError",
    "EncodedTextChunk",
    "Extension",
    "Family",
    "FunctionCall",
    "ImageChunk",
    "ImagePart",
    "InputError",
    "InternalError",
    "Message",
    "MessageText",
    "MissingExtraError",
    "ModelInput",
    "Option",
    "OptionError",
    "ParityError",
    "ParseFailureKind",
    "ParseTermination",
    "Pieces",
    "ReasoningDelta",
    "Reduction",
    "Refusal",
    "RefusedError",
    "RenderSettings",
    "RenderedBlock",
    "RenderedTokens",
    "Renderer",
    "ResponseEnd",
    "ResponseFormat",
    "StreamParser",
    "SupervisedExample",
    "TensorData",
    "TextDelta",
    "TextPart",
    "ThinkingPart",
    "Tokenizer",
    "ToolCall",
    "ToolCallArguments",
    "ToolCallEnd",
    "ToolCallStart",
    "ToolSpec",
    "TrainOnWhat",
    "Turns",
    "UserError",
    "View",
    "check_messages",
    "classify_parse_failure",
    "count_trained",
    "from_openai_message",
    "get_renderer",
    "get_tokenizer",
    "join_pieces",
    "mean_weights",
    "merge_rollout",
    "renderer_names",
    "shift_block",
    "text_of",
    "to_datum",
    "to_openai_message",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__
