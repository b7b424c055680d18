"""Families of other distributions: found by their entry point, refused when they take a name that is taken."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
USE = """
from renderers import get_renderer, renderer_names
renderer = get_renderer("plainspoken", "fixtures/tiny-chat")
assert "plainspoken" in renderer_names()
chat = [{"role": "user", "content": "Hi<|im_end|>"}, {"role": "assistant", "content": "Yes"}]
(example,) = renderer.render(chat)
print(repr(renderer.tokenizer.decode(example.tokens.tolist())))
print(repr(renderer.tokenizer.decode(example.tokens[example.weights > 0].tolist())))
print(renderer.choice)
"""


def install(folder: Path, entry_points: str, **changed: str) -> None:
    """A distribution as an installer leaves it: a module, and metadata beside it."""
    source = (HERE / "plainspoken.py").read_text(encoding="utf-8")
    for old, new in changed.items():
        assert old in source
        source = source.replace(old, new)
    (folder / "plainspoken.py").write_text(source, encoding="utf-8")
    info = folder / "plainspoken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plainspoken\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[datumloom.renderers]\n{entry_points}\n", encoding="utf-8")


def run(folder: Path, repository: Path, code: str = USE) -> subprocess.CompletedProcess[str]:
    path = f"import sys; sys.path[:0] = {[str(folder), str(repository)]!r}\n"
    command = [sys.executable, "-W", "error", "-c", path + code]
    return subprocess.run(command, capture_output=True, text=True, cwd=repository, check=False)


def test_a_family_is_found_by_its_entry_point(tmp_path: Path, repository: Path) -> None:
    install(tmp_path, "plainspoken = plainspoken:Plainspoken")
    done = run(tmp_path, repository)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        repr("USER\nHi<|im_end|><|im_end|>ASSISTANT\nYes<|im_end|>"),
        repr("Yes<|im_end|>"),
        "by name",
    ]
    shutil.rmtree(tmp_path / "plainspoken-1.0.dist-info")
    gone = run(tmp_path, repository)
    assert "got 'plainspoken'" in gone.stderr


def test_a_name_that_is_taken_is_an_error_that_names_both(tmp_path: Path, repository: Path) -> None:
    install(tmp_path, "it = plainspoken:Plainspoken", **{'name = "plainspoken"': 'name = "qwen3"'})
    done = run(tmp_path, repository, "from renderers import renderer_names; renderer_names()")
    expected = "renderer 'qwen3' is registered twice: by renderers.families.qwen3 and plainspoken"
    assert expected in done.stderr.splitlines()[-1]
