"""`RenderSpec`: every choice that decides the bytes of a shard folder, besides its inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from renderers import Backend, ControlTokens, OptionError, Reduction, RenderSettings, TrainOnWhat, Turns

from .blocks import DEFAULT_BLOCK_BYTES, DEFAULT_MAX_ROW_BYTES
from .manifest import Codec
from .mapping import parse_mapping
from .read import ReadOptions

__all__ = ["LengthPolicy", "RenderSpec"]

LengthPolicy = Literal["drop", "keep-start", "keep-end", "drop-oldest-turns", "split"]
"""What becomes of an example of more than `max_length` tokens; see `datasets_io.lengths`."""


class RenderSpec(BaseModel):
    """How rows become examples. Frozen, picklable, JSON-able.

    Attributes:
        model: folder or hub id of the model: its tokenizer and chat template.
        renderer: a name from `renderer_names()`; `auto` lets the chat template decide.
        renderer_options: the renderer's own options.
        train_on_what, turns, control_tokens: see `RenderSettings`.
        mapping: columns of other names, such as `user=question,assistant=answer`; None to detect every row's format.
        max_length: longest example in tokens before the shift, None for no limit.
        max_length_policy: what becomes of longer ones.
        weights: `mean` divides each example's weights by their sum.
        eval_fraction: share of rows held out into the split `eval`, chosen by each row's own hash.
        codec: compression of the shards' buffers, None for none.
        backend: `auto` takes the fast encoder where it agrees with `tokenizers`.
        block_bytes: input bytes per block; one block becomes one shard per split.
        max_row_bytes: a longer row is rejected.

    Raises:
        OptionError: a field is unknown, has the wrong type or an impossible value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_enum_values=False)

    model: str
    renderer: str = "auto"
    renderer_options: dict[str, Any] = {}
    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    turns: Turns = "auto"
    control_tokens: ControlTokens = "text"
    mapping: str | None = None
    max_length: Annotated[int, Field(ge=2)] | None = None
    max_length_policy: LengthPolicy = "drop"
    weights: Reduction = "none"
    eval_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    codec: Codec | None = None
    backend: Backend = "auto"
    block_bytes: Annotated[int, Field(ge=1)] = DEFAULT_BLOCK_BYTES
    max_row_bytes: Annotated[int, Field(ge=1)] = DEFAULT_MAX_ROW_BYTES

    if not TYPE_CHECKING:  # type checkers see the signature that pydantic makes

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise OptionError(_sentence(error)) from None

    @field_validator("mapping")
    @classmethod
    def _readable_mapping(cls, mapping: str | None) -> str | None:
        if mapping is not None:
            parse_mapping(mapping)
        return mapping

    @property
    def settings(self) -> RenderSettings:
        return RenderSettings(self.train_on_what, self.turns, self.control_tokens)

    @property
    def read_options(self) -> ReadOptions:
        return ReadOptions(None if self.mapping is None else parse_mapping(self.mapping), self.max_row_bytes)

    def options(self) -> dict[str, Any]:
        """The fields that a manifest records as the run's options; the others are in its `renderer` and hashes."""
        elsewhere = {"model", "renderer", "renderer_options", "train_on_what", "turns", "control_tokens"}
        return self.model_dump(mode="json", exclude=elsewhere)


def _sentence(error: ValidationError) -> str:
    """The first fault in the house's form."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"]) or "spec"
    if first["type"] == "extra_forbidden":
        return f"{place}: expected one of {', '.join(RenderSpec.model_fields)}; got an unknown name"
    if first["type"] == "missing":
        return f"{place}: expected a value; got none"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, OptionError):
        return str(cause)
    expected = first["msg"].removeprefix("Input should be ")
    return f"{place}: expected {expected}; got {first['input']!r}"
