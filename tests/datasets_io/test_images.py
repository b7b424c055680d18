"""Images from rows to shards and back: by reference, whole or absent, never trained; free where there are none."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from datasets_io import BatchView, RenderSpec, ShardReader, block_to_batch, build_shards, iter_batches, verify_shards
from datasets_io.block_images import around_images, kept_images
from datasets_io.commands.inspect import command as inspect_command
from datasets_io.rerender import Rerenderer
from datasets_io.windows import Windows, join_blocks, take_windows, whole_windows
from renderers import EncodedTextChunk, ImageChunk, InternalError, RenderedBlock, get_renderer, to_datum
from tests.datasets_io.build_samples import MODEL, chat, lines_of, write_rows
from tests.datasets_io.shard_samples import rendered_block, rewrite_shard

Image = pytest.importorskip("PIL.Image", reason="Pillow reads image sizes")
CONTROLS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")


def picture(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, "PNG")
    return stream.getvalue()


EMBEDDED = picture(64, 96)
URI = "data:image/png;base64," + base64.b64encode(EMBEDDED).decode()
HASH = "sha256:" + hashlib.sha256(EMBEDDED).hexdigest()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tokenizer with the control tokens of a vision model."""
    folder = tmp_path_factory.mktemp("vision-model")
    spec = json.loads((Path(MODEL) / "tokenizer.json").read_text(encoding="utf-8"))
    first = min(token["id"] for token in spec["added_tokens"])
    flags = {"special": True, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    spec["added_tokens"] = [{"id": first + i, "content": text, **flags} for i, text in enumerate(CONTROLS)]
    spec["model"]["vocab"] = {text: i for text, i in spec["model"]["vocab"].items() if i < first}
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}', encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "a.png").write_bytes(picture(320, 320))  # 100 positions
    (folder / "b.png").write_bytes(picture(256, 288))  # 72 positions
    return folder


def image(reference: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": reference}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def rows() -> list[dict[str, Any]]:
    """Images in the first and a later turn, side by side, in two examples of one conversation, and none at all."""
    thinking = chat("x", "A square.", "Sure?", "Yes.")
    thinking["messages"][0]["content"] = [image("a.png"), text("What is it?")]
    thinking["messages"][1]["reasoning_content"] = "It has four sides."
    several = chat("x", "Two.", "x", "One more.")
    several["messages"][0]["content"] = [text("How many?"), image("a.png"), image("b.png")]
    several["messages"][2]["content"] = [image(URI), text("And now?")]
    return [thinking, chat("Hi", "Hello"), several]


@pytest.fixture
def spec(model: Path, pictures: Path) -> RenderSpec:
    return RenderSpec(model=str(model), renderer="qwen3_5", renderer_options=options(pictures), block_bytes=500)


def options(pictures: Path) -> dict[str, Any]:
    return {"image_folder": str(pictures), "min_pixels": 1024}


def pictures_of(datum: Any) -> list[ImageChunk]:
    return [chunk for chunk in datum.model_input.chunks if isinstance(chunk, ImageChunk)]


def test_shards_hold_references_and_give_the_same_datums(tmp_path: Path, spec: RenderSpec, pictures: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", rows())
    manifest = build_shards([source], tmp_path / "out", spec)
    assert len(manifest.shards) > 1  # files with and without images, of one schema
    reader = ShardReader(tmp_path / "out")
    renderer = get_renderer("qwen3_5", spec.model, **options(pictures))
    expected = [
        to_datum(example.to_model_input(), example.weights)
        for row in rows()
        for example in renderer.render([_read(message) for message in row["messages"]])
    ]
    assert len(reader) == len(expected) == 5
    for got, wanted in zip(reader, expected, strict=True):
        assert got.loss_fn_inputs == wanted.loss_fn_inputs
        assert _texts(got) == _texts(wanted)
        assert [(c.format, c.length, c.location) for c in pictures_of(got)] == [
            (c.format, c.length, c.reference) for c in pictures_of(wanted)
        ]
        assert all(chunk.data == b"" for chunk in pictures_of(got))
    assert [c.location for c in pictures_of(reader[4])] == ["a.png", "b.png", HASH]
    assert [c.length for c in pictures_of(reader[4])] == [100, 72, 6]
    assert pictures_of(reader[2]) == []
    batches = [datum for batch in iter_batches(reader, batch_size=2, seed=0, epoch=0) for datum in batch.datums()]
    assert sorted(len(pictures_of(datum)) for datum in batches) == [0, 1, 1, 2, 3]
    whole = b"".join(path.read_bytes() for path in (tmp_path / "out").glob("*.arrow"))
    assert EMBEDDED not in whole


def _read(message: dict[str, Any]) -> dict[str, Any]:
    """A message as the reader normalises it."""
    content = message["content"]
    if isinstance(content, str):
        return message
    parts = [{"type": "image", "image": p["image_url"]["url"]} if p["type"] == "image_url" else p for p in content]
    return {**message, "content": parts}


def _texts(datum: Any) -> list[list[int]]:
    return [list(chunk.tokens) for chunk in datum.model_input.chunks if isinstance(chunk, EncodedTextChunk)]


def test_verify_renders_images_again_and_sees_other_ones(tmp_path: Path, spec: RenderSpec, pictures: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes((pictures / name).read_bytes())
    spec = spec.model_copy(update={"renderer_options": options(folder)})
    manifest = build_shards([write_rows(tmp_path / "in.jsonl", rows())], tmp_path / "out", spec)
    report = verify_shards(tmp_path / "out", rerender=Rerenderer(manifest))
    assert (report.faults, report.rerendered) == ([], 5)
    (folder / "b.png").write_bytes(picture(640, 640))
    faults = verify_shards(tmp_path / "out", rerender=Rerenderer(manifest)).faults
    assert [(fault.code, fault.detail.rpartition("expected")[2]) for fault in faults] == [
        ("rerender", " the images that are stored; got others")
    ] * 2


def test_verify_finds_a_weight_on_an_image(tmp_path: Path, spec: RenderSpec) -> None:
    build_shards([write_rows(tmp_path / "in.jsonl", rows())], tmp_path / "out", spec)
    (first, *_) = ShardReader(tmp_path / "out").row(0).images

    def plant(columns: dict[str, Any]) -> None:
        column = columns["weights"]
        values = np.array(column.values.to_numpy())
        values[first.position] = 1
        columns["weights"] = pa.ListArray.from_arrays(column.offsets, pa.array(values))

    rewrite_shard(tmp_path / "out" / "train-00000.arrow", plant)
    codes = {fault.code for fault in verify_shards(tmp_path / "out").faults}
    assert codes == {"hash", "image", "num_trained"}


def test_inspect_shows_the_image(tmp_path: Path, spec: RenderSpec) -> None:
    build_shards([write_rows(tmp_path / "in.jsonl", rows())], tmp_path / "out", spec)
    result = CliRunner().invoke(inspect_command, [str(tmp_path / "out"), "0"])
    assert result.exit_code == 0, result.output
    assert "⟨image png a.png ×100⟩" in result.output.replace("\n", " ")
    page = tmp_path / "page.html"
    result = CliRunner().invoke(inspect_command, [str(tmp_path / "out"), "4", "--html", str(page)])
    assert result.exit_code == 0, result.output
    assert HASH in page.read_text(encoding="utf-8")


def test_faulty_references_are_rejected_with_their_place(tmp_path: Path, spec: RenderSpec) -> None:
    references = ["https://example.org/a.png", "file:///etc/hostname", "../in.jsonl", "none.png", "http://[", "a\0.png"]
    faulty: list[dict[str, Any]] = []
    for reference in references:
        row = chat("x", "Yes.")
        row["messages"][0]["content"] = [text("Look"), image(reference)]
        faulty.append(row)
    source = write_rows(tmp_path / "in.jsonl", [*faulty, chat("Hi", "Hello")])
    manifest = build_shards([source], tmp_path / "out", spec, max_rejects=6)
    assert (manifest.totals.read, manifest.totals.rejected) == (7, 6)
    rejects = lines_of(tmp_path / "out" / "rejects.jsonl")
    assert [reject["reason"] for reject in rejects] == [
        *("remote_image", "image_outside", "image_outside", "no_image", "no_image", "no_image")
    ]
    assert {reject["field"] for reject in rejects} == {"messages[0].content[1]"}


def test_a_text_renderer_refuses_with_the_place(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [rows()[0], chat("Hi", "Hello")])
    build_shards([source], tmp_path / "out", RenderSpec(model=MODEL), max_rejects=1)
    (reject,) = lines_of(tmp_path / "out" / "rejects.jsonl")
    assert (reject["line"], reject["field"], reject["reason"]) == (1, "messages[0].content[0]", "text_only")


@pytest.mark.parametrize("policy", ["drop", "keep-start", "keep-end", "drop-oldest-turns", "split"])
def test_no_length_cuts_through_an_image(tmp_path: Path, spec: RenderSpec, policy: str) -> None:
    source = write_rows(tmp_path / "in.jsonl", rows())
    seen: set[int] = set()
    for limit in (20, 60, 112, 130, 190, 211, 230, 250):
        limited = spec.model_copy(update={"max_length": limit, "max_length_policy": policy, "block_bytes": 1 << 20})
        out = tmp_path / f"{limit}"
        build_shards([source], out, limited)
        report = verify_shards(out)
        assert report.faults == []
        for datum in ShardReader(out):
            assert datum.model_input.length < limit
            assert {chunk.length for chunk in pictures_of(datum)} <= {100, 72, 6}
            seen.add(len(pictures_of(datum)))
    assert {0, 1} <= seen


def with_images() -> RenderedBlock:
    """Two examples of 12 and 9 tokens; the first has images at 2:5, 5:7 and 9:11, the second at 1:4."""
    block, _ = rendered_block([[12], [9]])
    chunks = [(0, 2, 3), (0, 5, 2), (0, 9, 2), (1, 1, 3)]
    block.images = [(example, at, ImageChunk(b"", "png", size, f"{at}.png")) for example, at, size in chunks]
    for example, at, size in chunks:
        start = int(block.offsets[example]) + at
        block.tokens[start : start + size] = 0
        block.weights[start : start + size] = 0
    return block


def test_cuts_move_to_the_edge_of_an_image() -> None:
    block = with_images()
    before = [around_images(block, np.array([cut, 9]), keep="start")[0] for cut in range(1, 13)]
    assert before == [1, 2, 2, 2, 2, 2, 2, 8, 9, 9, 9, 12]
    behind = [around_images(block, np.array([cut, 0]), keep="end")[0] for cut in range(12)]
    assert behind == [0, 1, 2, 5, 5, 5, 7, 7, 8, 9, 11, 11]


def test_windows_and_joins_take_images_along() -> None:
    block = with_images()
    windows = Windows(np.array([1, 0, 0]), np.array([0, 5, 0]), np.array([9, 12, 2]))
    taken = take_windows(block, windows)
    assert [(example, at, chunk.location) for example, at, chunk in taken.images] == [
        *((0, 1, "1.png"), (1, 0, "5.png"), (1, 4, "9.png"))
    ]
    assert [at for at, _ in taken[1].images] == [0, 4]
    joined = join_blocks(block, taken)
    assert [(example, at) for example, at, _ in joined.images] == [
        *((0, 2), (0, 5), (0, 9), (1, 1), (2, 1), (3, 0), (3, 4))
    ]
    with pytest.raises(InternalError, match="whole or absent"):
        take_windows(block, Windows(np.array([0]), np.array([3]), np.array([12])))


def test_nothing_is_done_where_there_are_no_images() -> None:
    block, meta = rendered_block([[5], [4]])
    everything = whole_windows(block, np.array([True, True]))
    assert kept_images(block.images, *everything) == []
    cuts = np.array([3, 3])
    assert around_images(block, cuts, keep="start") is cuts
    assert "images" not in block_to_batch(block, meta).batch.schema.names
    empty = BatchView(block_to_batch(block, meta, images=True).batch)
    assert [empty.images(i) for i in range(2)] == [(), ()]


def test_the_column_is_the_datums_of_the_examples() -> None:
    block = with_images()
    _, meta = rendered_block([[12], [9]])
    batch = block_to_batch(block, meta).batch
    batch.validate(full=True)
    view = BatchView(batch)
    for i, example in enumerate(block):
        datum = to_datum(example.to_model_input(), example.weights)
        assert [(ref.position, ref.length, ref.location) for ref in view.images(i)] == [
            (at, chunk.length, chunk.location) for at, chunk in example.images
        ]
        assert view.row(i).num_tokens == datum.model_input.length
    block.images[-1] = (1, 6, ImageChunk(b"", "png", 3, "end.png"))
    with pytest.raises(InternalError, match="text behind it"):
        block_to_batch(block, meta)
