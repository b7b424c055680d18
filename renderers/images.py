"""Images in messages: read from an allowed folder or a data URI, measured, never fetched.

An image takes as many positions as the model's image processor makes patches of it; only its width and height are
needed for that. Pillow reads them (extra `media`).
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from .errors import MissingExtraError, OptionError, RefusedError
from .types import ImageChunk

__all__ = ["ImageReader", "ImageText", "patch_tokens"]

_FORMATS = {"PNG": "png", "JPEG": "jpeg"}
_SIDEWAYS = range(5, 9)  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112
_MAX_RATIO = 200
_KEPT = 64


class ImageText(str):
    """The placeholder of an image among a family's pieces, at the place of message text; carries the image."""

    __slots__ = ("chunk",)
    chunk: ImageChunk

    def __new__(cls, placeholder: str, chunk: ImageChunk) -> ImageText:
        self = super().__new__(cls, placeholder)
        self.chunk = chunk
        return self


def patch_tokens(width: int, height: int, *, factor: int, min_pixels: int, max_pixels: int) -> int:
    """Positions of an image after Qwen's resizing: sides to multiples of `factor`, the area into its limits.

    One token per `factor` x `factor` pixels, which is a patch times the merge size.

    >>> patch_tokens(640, 480, factor=32, min_pixels=65536, max_pixels=16777216)
    300

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if max(width, height) / min(width, height) > _MAX_RATIO:
        raise ValueError(f"expected sides of a ratio up to {_MAX_RATIO}; got {width} x {height}")
    columns, rows = round(width / factor), round(height / factor)
    area = columns * rows * factor * factor
    if area > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        columns = max(1, math.floor(width / shrink / factor))
        rows = max(1, math.floor(height / shrink / factor))
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        columns, rows = math.ceil(width * grow / factor), math.ceil(height * grow / factor)
    return columns * rows


class ImageReader:
    """References to `ImageChunk`s with their number of positions.

    Args:
        folder: where paths may point to, or empty: then only data URIs are read.
        factor: patch size times merge size, in pixels.
        min_pixels: smaller images are enlarged to it.
        max_pixels: larger images are shrunk to it.
    """

    def __init__(self, folder: str, *, factor: int, min_pixels: int, max_pixels: int) -> None:
        if folder and not Path(folder).is_dir():
            raise OptionError(f"image_folder: expected a folder; got {folder!r}")
        if not 0 < min_pixels <= max_pixels:
            raise OptionError(f"min_pixels: expected 1 to max_pixels ({max_pixels}); got {min_pixels}")
        self._folder = Path(folder).resolve() if folder else None
        self._limits = {"factor": factor, "min_pixels": min_pixels, "max_pixels": max_pixels}
        # By reference, whether with bytes, and the file's time and size.
        self._kept: dict[tuple[str, bool, int, int], ImageChunk] = {}

    def read(self, reference: str, place: str, *, keep_bytes: bool = True) -> ImageChunk:
        """The image behind a path, `file://` URL or data URI.

        Args:
            reference: the image part's value.
            place: the part's path, for messages.
            keep_bytes: False for a chunk by reference; then only a file's head is read.

        Returns:
            its bytes (or none), format, positions, and as location the path below the folder. A data URI has no
            location but, without its bytes, its content's hash.

        Raises:
            RefusedError: a network address, a place outside the folder, no such file, or not a PNG or JPEG image.
            MissingExtraError: Pillow is not installed.
        """
        return (self._embedded if reference.startswith("data:") else self._file)(reference, place, keep_bytes)

    def _embedded(self, reference: str, place: str, keep_bytes: bool) -> ImageChunk:
        key = (reference, keep_bytes, 0, 0)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        data = _decoded(reference, place)
        chunk = self._chunk(data, io.BytesIO(data), None, place)
        return self._keep(key, chunk if keep_bytes else replace(chunk, data=b"", location=chunk.reference))

    def _file(self, reference: str, place: str, keep_bytes: bool) -> ImageChunk:
        try:
            path, location = self._path(reference, place)
            if not path.is_file():  # a pipe would be waited for
                raise _refused(place, "no_image", f"expected an image file; no such file: {location}")
            status = path.stat()
            key = (reference, keep_bytes, status.st_mtime_ns, status.st_size)
            kept = self._kept.get(key)
            if kept is not None:
                return kept
            with path.open("rb") as file:
                data = file.read() if keep_bytes else b""
                file.seek(0)
                return self._keep(key, self._chunk(data, file, location, place))
        except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in circles
            reason = getattr(error, "strerror", None) or error
            raise _refused(place, "no_image", f"expected an image file; {reason}: {reference[:200]!r}") from None

    def _keep(self, key: tuple[str, bool, int, int], chunk: ImageChunk) -> ImageChunk:
        if len(self._kept) >= _KEPT:
            self._kept.clear()
        self._kept[key] = chunk
        return chunk

    def _chunk(self, data: bytes, source: IO[bytes], location: str | None, place: str) -> ImageChunk:
        width, height, kind = _measured(source, place)
        try:
            tokens = patch_tokens(width, height, **self._limits)
        except ValueError as error:
            raise _refused(place, "bad_image", str(error)) from None
        return ImageChunk(data, kind, tokens, location)

    def _path(self, reference: str, place: str) -> tuple[Path, str]:
        """The file, and its path below the allowed folder."""
        try:
            parts = urlsplit(reference)
        except ValueError as error:
            raise _refused(place, "no_image", f"expected a path or data URI; {error}") from None
        if "\0" in unquote(reference):
            raise _refused(place, "no_image", f"expected a path without zero bytes; got {reference[:200]!r}")
        if parts.scheme and parts.scheme != "file" and "://" in reference:
            raise _refused(
                place, "remote_image", f"expected a path or data URI, nothing is fetched; got {parts.scheme}"
            )
        if self._folder is None:
            raise _refused(place, "no_image_folder", "expected a data URI, as image_folder is not set; got a path")
        named = unquote(parts.path) if parts.scheme == "file" else reference
        path = (self._folder / named).resolve()  # follows links, so that none leads out
        if (parts.scheme == "file" and parts.netloc not in ("", "localhost")) or not path.is_relative_to(self._folder):
            raise _refused(place, "image_outside", f"expected a path inside image_folder; got {reference[:200]!r}")
        return path, str(path.relative_to(self._folder))


def _refused(place: str, reason: str, detail: str) -> RefusedError:
    return RefusedError(place, reason, detail)


def _decoded(reference: str, place: str) -> bytes:
    head, comma, body = reference.partition(",")
    if not comma or not head.endswith(";base64"):
        raise _refused(place, "bad_image", f"expected data:image/...;base64,...; got {head[:60]!r}")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise _refused(place, "bad_image", f"expected base64 data; {error}") from None


def _measured(source: IO[bytes], place: str) -> tuple[int, int, str]:
    """Width, height as shown, and format; the pixels are not decoded."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingExtraError("Pillow", "media") from None
    try:
        with Image.open(source, formats=tuple(_FORMATS)) as image:
            width, height = image.size
            if image.getexif().get(_ORIENTATION) in _SIDEWAYS:
                width, height = height, width
            return width, height, _FORMATS[str(image.format)]
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise _refused(place, "bad_image", f"expected a PNG or JPEG image; {error}") from None
