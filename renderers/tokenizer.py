"""A model's tokenizer: loading, fingerprint, control tokens, batch encoding.

Text never becomes a control token here. Only template text, whose control tokens the template itself wrote, is split
at them (`Tokenizer.split`); everything between is encoded as plain text in large batches (`Tokenizer.encode_texts`).
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from .boundaries import Boundaries
from .encoders import (
    Backend,
    FastokensEncoder,
    FlatIds,
    TextEncoder,
    TokenizersEncoder,
    hostile_strings,
    puts_prefix_space,
    text_only_jsons,
)
from .errors import InternalError, OptionError, UserError
from .token_bytes import TokenBytes
from .tokenizer_file import TokenizerFile

__all__ = ["ControlToken", "ParityError", "Tokenizer", "get_tokenizer"]

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FIRST_CHECKED, _CHECK_EVERY = 64, 1000


class ParityError(InternalError):
    """The fast encoder gave other ids than the reference; the work must be redone with `tokenizers`."""


class ControlToken(NamedTuple):
    """An added token as template text uses it. `lstrip` / `rstrip`: it swallows white space on that side."""

    text: str
    id: int
    special: bool
    lstrip: bool
    rstrip: bool


class Tokenizer:
    """A tokenizer.json with its config: the one way text becomes ids here.

    Safe to use from several threads.

    Args:
        spec_json: text of tokenizer.json.
        config: parsed tokenizer_config.json.
        chat_template: the model's Jinja template(s): a string, or named ones; None when the model has none.
        stop_tokens: ids that end a turn according to generation_config.json.
        name: folder or hub id, for messages.
        backend: `auto` takes fastokens where it agrees with `tokenizers`.
    """

    def __init__(
        self,
        spec_json: str,
        *,
        config: dict[str, Any] | None = None,
        chat_template: str | dict[str, str] | None = None,
        stop_tokens: Sequence[int] = (),
        name: str = "",
        backend: Backend = "auto",
    ) -> None:
        if backend not in ("auto", "fastokens", "tokenizers"):
            raise OptionError(f"backend: expected auto, fastokens or tokenizers; got {backend!r}")
        self._file = TokenizerFile(spec_json, name)
        self.name = name
        self.config = config or {}
        self.chat_template = chat_template
        self.generation_stop_tokens = tuple(stop_tokens)
        self.backend_wanted: Backend = backend
        self.fallback_reason: str | None = None
        self._lock = threading.RLock()
        self._texts_seen = 0
        self._boundaries = Boundaries(self)
        self.control: dict[str, ControlToken] = {}
        for token in self._file.fields.get("added_tokens") or []:
            if not token["content"].isspace():
                self.control[token["content"]] = ControlToken(
                    token["content"], token["id"], token["special"], token["lstrip"], token["rstrip"]
                )
        self.strips_white_space = any(token.lstrip or token.rstrip for token in self.control.values())

    # -- identity

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of tokenizer.json's bytes."""
        return self._file.sha256

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """`bos_token`, `eos_token`, … as templates see them."""
        found: dict[str, str] = {}
        for key in _SPECIAL_NAMES:
            value = self.config.get(key)
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                found[key] = value
        extra = self.config.get("extra_special_tokens")
        if isinstance(extra, dict):
            found.update({key: value for key, value in extra.items() if isinstance(value, str)})
        return found

    @property
    def bos_token(self) -> str | None:
        return self.special_tokens.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.special_tokens.get("eos_token")

    def token_to_id(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        return self.backend.id_to_token(token_id)

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes(self._file.fields, self.id_to_token)

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token stands for; those of a sequence, joined, are its text's UTF-8.

        (SentencePiece models put a space in front of a text; it is among the bytes.)

        Raises:
            InputError: no such id.
            UserError: a kind of tokenizer whose tokens have no bytes of their own.
        """
        return self._token_bytes(token_id)

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @cached_property
    def control_ids(self) -> frozenset[int]:
        return frozenset(token.id for token in self.control.values())

    @cached_property
    def backend(self) -> Any:
        """The full `tokenizers.Tokenizer`, added tokens included."""
        from tokenizers import Tokenizer as HfTokenizer

        backend = HfTokenizer.from_str(self._file.text)
        backend.no_truncation()
        backend.no_padding()
        return backend

    def __reduce__(self) -> Any:
        return _rebuild, (
            self._file.text,
            self.config,
            self.chat_template,
            self.generation_stop_tokens,
            self.name,
            "tokenizers" if self.fallback_reason else self.backend_wanted,
        )

    # -- template text

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any control token, the longest first, as `tokenizers` does."""
        words = sorted(self.control, key=len, reverse=True)
        single = {token["content"] for token in self._file.fields.get("added_tokens") or [] if token.get("single_word")}
        parts = [rf"(?<!\w){re.escape(word)}(?!\w)" if word in single else re.escape(word) for word in words]
        return re.compile("|".join(parts) or r"(?!)")

    def has_control_token(self, text: str) -> bool:
        return self.control_pattern.search(text) is not None

    def split(self, text: str) -> list[str | ControlToken]:
        """Template text cut at its control tokens; no white space is stripped yet.

        >>> from renderers import get_tokenizer
        >>> [getattr(part, "text", part) for part in get_tokenizer("fixtures/tiny-chat").split("a<|im_end|>b")]
        ['a', '<|im_end|>', 'b']
        """
        parts: list[str | ControlToken] = []
        position = 0
        for match in self.control_pattern.finditer(text):
            if match.start() > position:
                parts.append(text[position : match.start()])
            parts.append(self.control[match.group()])
            position = match.end()
        if position < len(text):
            parts.append(text[position:])
        return parts

    # -- plain text

    @cached_property
    def has_prefix_space(self) -> bool:
        """Whether text at the start of a stretch is encoded unlike text that follows other text."""
        return puts_prefix_space(self._file)

    @cached_property
    def prefix_space_once(self) -> bool:
        """Whether only the very start of a sequence gets the prefix space, not every stretch (Metaspace `first`)."""
        pre_tokenizer = self._file.fields.get("pre_tokenizer") or {}
        parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
        return any(part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first" for part in parts)

    @cached_property
    def _references(self) -> tuple[TextEncoder, TextEncoder]:
        with self._lock:
            start, continuation = text_only_jsons(self._file)
            first = TokenizersEncoder(start)
            return first, first if start == continuation else TokenizersEncoder(continuation)

    @cached_property
    def _encoders(self) -> tuple[TextEncoder, TextEncoder]:
        with self._lock:
            if self.backend_wanted == "tokenizers":
                return self._references
            try:
                start, continuation = text_only_jsons(self._file)
                first = FastokensEncoder(start)
                encoders = first, first if start == continuation else FastokensEncoder(continuation)
                self._gate(encoders)
            except Exception as error:
                # fastokens raises its own kinds for tokenizers it cannot express; all mean the same here.
                if self.backend_wanted == "fastokens":
                    raise UserError(f"{self.name}: fastokens cannot encode this tokenizer exactly: {error}") from error
                self.fallback_reason = str(error) or type(error).__name__
                return self._references
            return encoders

    def _gate(self, encoders: tuple[TextEncoder, TextEncoder]) -> None:
        probes = [text for text in hostile_strings() if not self.has_control_token(text)]
        ids, offsets = encoders[0].encode_batch(probes)
        # A text at the start of a sequence is the one case the full tokenizer encodes just as we do.
        expected = self.backend.encode_batch_fast(probes, add_special_tokens=False)
        for i, text in enumerate(probes):
            if ids[offsets[i] : offsets[i + 1]].tolist() != expected[i].ids:
                raise ParityError(f"fastokens and tokenizers disagree on {text!r}")

    @property
    def backend_name(self) -> str:
        """`fastokens` or `tokenizers`: what encodes here."""
        return self._encoders[0].name

    def encode_texts(self, texts: Sequence[str], *, continuation: bool = False) -> FlatIds:
        """Plain texts to ids in one call; control tokens in them stay text.

        Args:
            texts: any number of texts.
            continuation: they follow other text, so that no space is put in front.

        Returns:
            ids int32 (total,), offsets int64 (num_texts + 1,).

        Raises:
            ParityError: a sampled text got other ids than from the reference; nothing encoded so far by the fast
                encoder should be trusted, so start again with `backend="tokenizers"`.
        """
        encoder = self._encoders[continuation]
        ids, offsets = encoder.encode_batch(texts)
        if encoder.name != "tokenizers":
            self._check_sample(texts, ids, offsets, continuation=continuation)
        return ids, offsets

    def _check_sample(self, texts: Sequence[str], ids: Any, offsets: Any, *, continuation: bool) -> None:
        # The first texts of a tokenizer's life and then one in a thousand, by a counter: no randomness, no timing.
        seen = self._texts_seen
        self._texts_seen = seen + len(texts)
        picks = list(range(seen, min(_FIRST_CHECKED, seen + len(texts))))
        first = -(-max(seen, _FIRST_CHECKED) // _CHECK_EVERY) * _CHECK_EVERY
        picks += range(first, seen + len(texts), _CHECK_EVERY)
        if not picks:
            return
        rows = [pick - seen for pick in picks]
        expected = self._reference_ids([texts[row] for row in rows], continuation=continuation)
        for k, row in enumerate(rows):
            if ids[offsets[row] : offsets[row + 1]].tolist() != expected[k]:
                raise ParityError(f"fastokens and tokenizers disagree on {texts[row][:80]!r}")

    def _reference_ids(self, texts: list[str], *, continuation: bool) -> list[list[int]]:
        if (continuation and self.has_prefix_space) or any(map(self.has_control_token, texts)):
            ids, offsets = self._references[continuation].encode_batch(texts)
            return [ids[start:stop].tolist() for start, stop in itertools.pairwise(offsets.tolist())]
        # Text without control tokens is the same to the full tokenizer, which is loaded already.
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_text(self, text: str, *, continuation: bool = False) -> list[int]:
        """One plain text to ids; for the few texts that are constants."""
        return self._encoders[continuation].encode_batch([text])[0].tolist()

    def encode_rows(self, texts: Sequence[str], *, continuation: bool = False) -> list[list[int]]:
        """Plain texts to one list of ids each; for the few that are looked at one by one."""
        ids, offsets = self._encoders[continuation].encode_batch(texts)
        flat = ids.tolist()
        return [flat[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]

    def joins_cleanly(self, left: str, right: str, *, swallow: bool = False) -> bool:
        """Whether whole-text encoding of `left + right` is that of `left`, then of `right`; see `Boundaries`."""
        return self._boundaries.are_clean(left, right, swallow=swallow)

    def encode(self, text: str) -> list[int]:
        """Text with its control tokens recognised, as `tokenizers` encodes a rendered prompt (no BOS added)."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids, control tokens included."""
        return self.backend.decode(list(tokens), skip_special_tokens=False)

    @cached_property
    def unsafe_controls(self) -> frozenset[str]:
        """Control tokens that plain text would also become: they cannot be kept as text."""
        words = list(self.control)
        ids, offsets = self.encode_texts(words)
        return frozenset(
            word for i, word in enumerate(words) if self.control[word].id in ids[offsets[i] : offsets[i + 1]].tolist()
        )


def _rebuild(
    spec_json: str,
    config: dict[str, Any],
    chat_template: str | dict[str, str] | None,
    stop_tokens: tuple[int, ...],
    name: str,
    backend: Backend,
) -> Tokenizer:
    return Tokenizer(
        spec_json, config=config, chat_template=chat_template, stop_tokens=stop_tokens, name=name, backend=backend
    )


def get_tokenizer(model: str | Path | Any, *, backend: Backend = "auto") -> Tokenizer:
    """The tokenizer of a model folder, a hub id, or of a loaded `transformers` / `tokenizers` tokenizer.

    Args:
        model: a folder with tokenizer.json, a hub id such as `org/name`, or a tokenizer object.
        backend: see `Tokenizer`.

    Raises:
        UserError: no such folder, no tokenizer.json, or the hub cannot be reached.

    >>> tokenizer = get_tokenizer("fixtures/tiny-chat")
    >>> tokenizer.decode(tokenizer.encode("Grüße"))
    'Grüße'
    """
    if isinstance(model, Tokenizer):
        return model
    if not isinstance(model, (str, Path)):
        return _from_object(model, backend)
    folder = Path(model)
    if not folder.is_dir():
        folder = _download(str(model))
    return _from_folder(folder, str(model), backend)


def _from_folder(folder: Path, name: str, backend: Backend) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{name}: expected a tokenizer.json in this folder; got none (convert it with transformers first)"
        )
    config = _read_json(folder / "tokenizer_config.json")
    template: str | dict[str, str] | None = _config_template(config)
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    elif (folder / "chat_template.json").is_file():
        template = _config_template(_read_json(folder / "chat_template.json"))
    stops = _read_json(folder / "generation_config.json").get("eos_token_id", [])
    return Tokenizer(
        path.read_text(encoding="utf-8"),
        config=config,
        chat_template=template,
        stop_tokens=[stops] if isinstance(stops, int) else stops,
        name=name,
        backend=backend,
    )


def _config_template(config: dict[str, Any]) -> str | dict[str, str] | None:
    template = config.get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return template


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: expected JSON; {error}") from None


def _download(model: str) -> Path:
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise UserError(f"{model}: no such folder")
    from huggingface_hub import snapshot_download

    files = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja*", "chat_template.json", "*config.json"]
    try:
        return Path(snapshot_download(model, allow_patterns=files))
    except Exception as error:
        # The hub client raises a family of its own, plus network errors of its transport.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{model}: no such folder, and as a hub id it could not be fetched: {reason}") from error


def _from_object(tokenizer: Any, backend: Backend) -> Tokenizer:
    if hasattr(tokenizer, "backend_tokenizer"):  # transformers
        config = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        extra = {key: value for key, value in config.items() if key not in _SPECIAL_NAMES}
        return Tokenizer(
            tokenizer.backend_tokenizer.to_str(),
            config=config | ({"extra_special_tokens": extra} if extra else {}),
            chat_template=tokenizer.chat_template,
            name=str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__),
            backend=backend,
        )
    if hasattr(tokenizer, "to_str") and hasattr(tokenizer, "token_to_id"):  # tokenizers
        return Tokenizer(tokenizer.to_str(), name="tokenizers.Tokenizer", backend=backend)
    raise OptionError(
        "tokenizer: expected a folder, a hub id, or a fast transformers or tokenizers tokenizer; "
        f"got {type(tokenizer).__name__}"
    )
