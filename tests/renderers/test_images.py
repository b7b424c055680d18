"""Images in Qwen3.5 conversations: places, counts, weights, references; nothing fetched, nothing outside the folder."""

from __future__ import annotations

import base64
import io
import math
import random
from pathlib import Path
from typing import Any

import pytest

from renderers import EncodedTextChunk, ImageChunk, OptionError, RefusedError, get_renderer
from renderers.images import ImageReader, patch_tokens
from tests.renderers.vectors import tiny_tokenizer

Image = pytest.importorskip("PIL.Image", reason="Pillow reads image sizes")
WORDS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")


def tokenizer() -> Any:
    return tiny_tokenizer([{"content": w, "special": True, "lstrip": False, "rstrip": False} for w in WORDS], {})


def picture(width: int, height: int, kind: str = "PNG", **extra: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height)).save(stream, kind, **extra)
    return stream.getvalue()


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def reference_tokens(width: int, height: int, factor: int, low: int, high: int) -> int:
    """The processor's resizing as its documentation says it, in pixels."""
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > high:
        beta = math.sqrt(height * width / high)
        h = max(factor, math.floor(height / beta / factor) * factor)
        w = max(factor, math.floor(width / beta / factor) * factor)
    elif h * w < low:
        beta = math.sqrt(low / (height * width))
        h, w = math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    grid_h, grid_w, merge = h // 16, w // 16, 2
    return grid_h * grid_w // merge**2


def test_patch_tokens_follow_the_processor() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        width = rng.randint(1, 6000)
        height = rng.randint(max(1, width // 150), 6000)
        if max(width, height) / min(width, height) > 200:
            continue
        got = patch_tokens(width, height, factor=32, min_pixels=65536, max_pixels=16777216)
        assert got == reference_tokens(width, height, 32, 65536, 16777216), (width, height)
    with pytest.raises(ValueError, match="ratio"):
        patch_tokens(4001, 20, factor=32, min_pixels=65536, max_pixels=16777216)


def test_an_image_stands_where_the_template_puts_its_placeholder() -> None:
    renderer = get_renderer("qwen3_5", tokenizer())
    content = [
        {"type": "text", "text": "  Look: "},
        {"type": "image", "image": uri(picture(640, 480))},
        {"type": "text", "text": " and \n"},
        {"type": "image", "image": uri(picture(256, 256, "JPEG"), "jpeg")},
        {"type": "text", "text": "  "},
    ]
    prompt = renderer.build_generation_prompt([{"role": "user", "content": content}])
    images = [chunk for chunk in prompt.chunks if isinstance(chunk, ImageChunk)]
    assert [(chunk.format, chunk.length) for chunk in images] == [("png", 300), ("jpeg", 64)]
    shown = "".join(
        "<|image_pad|>" if isinstance(chunk, ImageChunk) else renderer.tokenizer.decode(chunk.tokens)
        for chunk in prompt.chunks
    )
    assert shown == (
        "<|im_start|>user\nLook: <|vision_start|><|image_pad|><|vision_end|> and \n"
        "<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


def test_numbered_pictures() -> None:
    renderer = get_renderer("qwen3_5", tokenizer(), add_vision_id=True)
    part = {"type": "image", "image": uri(picture(300, 300))}
    messages = [{"role": "user", "content": [part, part]}, {"role": "user", "content": [part]}]
    prompt = renderer.build_generation_prompt(messages)
    texts = [renderer.tokenizer.decode(c.tokens) for c in prompt.chunks if isinstance(c, EncodedTextChunk)]
    assert "Picture 1: <|vision_start|>" in texts[0]
    assert "Picture 2: " in texts[1]
    assert "Picture 3: " in texts[2]


def test_weights_are_zero_at_images_and_examples_share_them(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(320, 320))
    renderer = get_renderer("qwen3_5", tokenizer(), image_folder=str(tmp_path))
    messages = [
        {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A square.", "reasoning_content": "black"},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "Yes."},
    ]
    examples = renderer.render(messages)
    assert len(examples) == 2  # reasoning leaves the history
    for example in examples:
        ((position, chunk),) = example.images
        assert (chunk.length, chunk.location) == (100, "a.png")
        assert not example.tokens[position : position + 100].any()
        assert not example.weights[position : position + 100].any()
        assert example.weights.any()
        assert example.to_model_input().length == len(example.tokens)
    (everything,) = renderer.render(messages, "all_tokens", turns="single")
    ((position, chunk),) = everything.images
    assert not everything.weights[position : position + chunk.length].any()
    datum = renderer.to_datum(messages[:2])
    assert any(isinstance(c, ImageChunk) for c in datum.model_input.chunks)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("https://example.org/a.png", "remote_image"),
        ("../secret.png", "image_outside"),
        ("/etc/passwd", "image_outside"),
        ("file:///etc/passwd", "image_outside"),
        ("link.png", "image_outside"),
        ("missing.png", "no_image"),
        ("folder", "no_image"),
        ("loop.png", "no_image"),
        ("http://[", "no_image"),
        ("a\0.png", "no_image"),
        ("text.png", "bad_image"),
        ("data:image/png,abc", "bad_image"),
        ("data:image/png;base64,####", "bad_image"),
    ],
)
def test_refused_references(tmp_path: Path, reference: str, reason: str) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(picture(64, 64))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "text.png").write_text("not an image")
    (folder / "folder").mkdir()
    (folder / "loop.png").symlink_to(folder / "loop.png")
    renderer = get_renderer("qwen3_5", tokenizer(), image_folder=str(folder))
    with pytest.raises(RefusedError) as error:
        renderer.build_generation_prompt([{"role": "user", "content": [{"type": "image", "image": reference}]}])
    assert error.value.reason == reason
    assert error.value.field == "messages[0].content[0]"


def test_file_urls_inside_the_folder_and_turned_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a b.jpg").write_bytes(picture(640, 320, "JPEG", exif=exif))
    reader = ImageReader(str(tmp_path), factor=32, min_pixels=1, max_pixels=320 * 320)
    chunk = reader.read((tmp_path / "a b.jpg").as_uri(), "here")
    assert chunk.location == "a b.jpg"
    assert chunk.length == reference_tokens(320, 640, 32, 1, 320 * 320)


def test_references_without_bytes_are_otherwise_the_same(tmp_path: Path) -> None:
    data = picture(320, 320)
    (tmp_path / "a.png").write_bytes(data)
    reader = ImageReader(str(tmp_path), factor=32, min_pixels=1, max_pixels=320 * 320)
    for reference in ("a.png", uri(data)):
        whole, head = reader.read(reference, "here"), reader.read(reference, "here", keep_bytes=False)
        assert whole.data == data
        assert (head.data, head.format, head.length, head.location) == (b"", "png", whole.length, whole.reference)
    (tmp_path / "a.png").write_bytes(picture(64, 64))
    assert reader.read("a.png", "here").length == 4  # a changed file is read again


def test_paths_need_a_folder_and_text_renderers_refuse_images() -> None:
    message = {"role": "user", "content": [{"type": "image", "image": "a.png"}]}
    with pytest.raises(RefusedError) as error:
        get_renderer("qwen3_5", tokenizer()).build_generation_prompt([message])
    assert error.value.reason == "no_image_folder"
    with pytest.raises(RefusedError) as error:
        get_renderer("chatml", tokenizer()).build_generation_prompt([message])
    assert (error.value.field, error.value.reason) == ("messages[0].content[0]", "text_only")
    with pytest.raises(OptionError, match="image_folder"):
        get_renderer("qwen3_5", tokenizer(), image_folder="/no/such/folder")
    with pytest.raises(OptionError, match="min_pixels"):
        get_renderer("qwen3_5", tokenizer(), min_pixels=0)


def test_shards_keep_the_reference(tmp_path: Path) -> None:
    from datasets_io import datum_to_row, row_to_datum

    (tmp_path / "a.png").write_bytes(picture(320, 320))
    renderer = get_renderer("qwen3_5", tokenizer(), image_folder=str(tmp_path))
    parts = [{"type": "image", "image": "a.png"}, {"type": "image", "image": uri(picture(64, 64))}]
    datum = renderer.to_datum([{"role": "user", "content": parts}, {"role": "assistant", "content": "Yes."}])
    back = row_to_datum(datum_to_row(datum))
    images = [chunk for chunk in back.model_input.chunks if isinstance(chunk, ImageChunk)]
    assert [chunk.length for chunk in images] == [100, 64]
    assert images[0].location == "a.png"
    assert str(images[1].location).startswith("sha256:")
    assert back.loss_fn_inputs == datum.loss_fn_inputs
    assert back.model_input.length == datum.model_input.length


def _with_pads(renderer: Any, model_input: Any) -> list[int]:
    """Tokens with one placeholder for each image, as the template's text has it."""
    pad = renderer.tokenizer.control["<|image_pad|>"].id
    ids: list[int] = []
    for chunk in model_input.chunks:
        ids += [pad] if isinstance(chunk, ImageChunk) else chunk.tokens
    return ids


@pytest.mark.parametrize("add_vision_id", [False, True])
def test_placeholders_are_the_real_templates(real_data: Path, add_vision_id: bool) -> None:
    pytest.importorskip("transformers")
    from tests.renderers.parity import Oracle

    folder = real_data / "tokenizers" / "qwen3.5"
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    renderer = get_renderer("qwen3_5", folder, add_vision_id=add_vision_id)
    oracle = Oracle(folder, template, renderer.template_variables())
    rng = random.Random(5)
    texts = ["Look: ", "  ", "\n", "", "two\n", "  words  "]
    image = {"type": "image", "image": uri(picture(64, 64))}

    def content() -> Any:
        return [
            image if rng.random() < 0.4 else {"type": "text", "text": rng.choice(texts)}
            for _ in range(rng.randint(0, 4))
        ]

    for _ in range(60):
        messages: list[dict[str, Any]] = []
        for _ in range(rng.randint(1, 3)):
            messages += [{"role": "user", "content": content()}, {"role": "assistant", "content": content()}]
        messages.insert(2, {"role": "tool", "content": content()})
        prompt = renderer.build_generation_prompt(messages[:-1])
        assert _with_pads(renderer, prompt) == oracle.ids(messages[:-1], None, generation=True)
        (whole,) = renderer.render(messages, "all_tokens", turns="single")
        assert _with_pads(renderer, whole.to_model_input()) == oracle.ids(messages, None, generation=False)
