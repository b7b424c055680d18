"""Images of rendered blocks: kept whole when examples are chosen, cut or joined, and their column. Free without any."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import numpy.typing as npt

from renderers import ImageChunk, InternalError, RenderedBlock

from .arrow_numpy import ArrowColumn, list_column
from .rows import ImageRef
from .schema import images_struct

__all__ = ["around_images", "images_column", "joined_images", "kept_images"]

Placed = list[tuple[int, int, ImageChunk]]
"""Example, position in it and chunk of each image, in order, as in `RenderedBlock.images`."""


def kept_images(
    images: Placed, example: npt.NDArray[np.int64], start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64]
) -> Placed:
    """The images inside parts of examples, at their new places.

    Args:
        images: of the block.
        example, start, stop: int64 (k,), as in `Windows`.

    Raises:
        InternalError: a part has some of an image and not all of it.
    """
    if not images:
        return []
    by_example: defaultdict[int, list[tuple[int, ImageChunk]]] = defaultdict(list)
    for number, position, chunk in images:
        by_example[number].append((position, chunk))
    kept: Placed = []
    for new, (number, first, last) in enumerate(zip(example.tolist(), start.tolist(), stop.tolist(), strict=True)):
        for position, chunk in by_example.get(number, ()):
            end = position + chunk.length
            if first <= position and end <= last:
                kept.append((new, position - first, chunk))
            elif position < last and first < end:
                raise InternalError(f"window {first}:{last}: expected images whole or absent; got one at {position}")
    return kept


def joined_images(first: Placed, second: Placed, num_first: int) -> Placed:
    """The images of two blocks as those of one; `num_first` examples come first."""
    return first + [(example + num_first, position, chunk) for example, position, chunk in second] if second else first


def around_images(rendered: RenderedBlock, cuts: npt.NDArray[np.int64], *, keep: str) -> npt.NDArray[np.int64]:
    """Cuts moved so that each takes an image whole with what it leaves out.

    Args:
        rendered: whose examples are cut.
        cuts: int64 (num_examples,), position in each example.
        keep: `start` keeps what is before a cut, which then is no image (nothing that is left would follow it);
            `end` keeps what is behind it.
    """
    if not rendered.images:
        return cuts
    moved = cuts.copy()
    # From the cut outwards: moved to one image's edge, it may end in the image before that.
    for example, position, chunk in reversed(rendered.images) if keep == "start" else rendered.images:
        end = position + chunk.length
        if keep == "start" and position < moved[example] <= end:
            moved[example] = position
        elif keep == "end" and position < moved[example] < end:
            moved[example] = end
    return moved


def images_column(images: Placed, num_examples: int) -> ArrowColumn:
    """The `images` column: references only, an empty list where an example has none."""
    counts = np.bincount(np.array([example for example, _, _ in images], np.int64), minlength=num_examples)
    refs = [ImageRef(position, chunk.length, chunk.format, chunk.reference) for _, position, chunk in images]
    return list_column(images_struct(refs), _offsets(counts))


def _offsets(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
