"""Conversations become tokens, weights and `Datum` objects; completions become messages again.

>>> from renderers import get_renderer, get_tokenizer
>>> tokenizer = get_tokenizer("fixtures/tiny-chat")
>>> renderer = get_renderer("auto", tokenizer)
>>> model_input, weights = renderer.build_supervised_example(
...     [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
... )
>>> len(weights) == model_input.length
True
"""

from __future__ import annotations

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
