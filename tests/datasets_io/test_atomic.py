from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datasets_io import atomic_path, atomic_stream, remove_leftovers, write_bytes, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_appear_whole(tmp_path):
    path = tmp_path / "x.bin"
    with atomic_stream(path) as stream:
        stream.write(b"ab")
        assert not path.exists()
        stream.write(b"c")
    assert path.read_bytes() == b"abc"
    assert names(tmp_path) == ["x.bin"]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def fail():
        with atomic_stream(path) as stream:
            stream.write(b"new")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_json_is_the_same_bytes_for_the_same_value(tmp_path):
    write_json(tmp_path / "a", {"b": [1, None], "é": 0.5})
    write_json(tmp_path / "b", {"b": [1, None], "é": 0.5})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_text() == '{\n  "b": [\n    1,\n    null\n  ],\n  "é": 0.5\n}\n'


def test_the_file_and_its_folder_are_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    events = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real_sync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("rename"), real_replace(a, b)))
    write_bytes(tmp_path / "x", b"1")
    assert len(events) == 3
    assert Path(events[0]).name.startswith(".tmp-")
    assert events[1:] == ["rename", str(tmp_path)]


def test_a_killed_writer_leaves_only_a_leftover(tmp_path, repository):
    program = """
import os, sys
from datasets_io import atomic_stream
with atomic_stream(sys.argv[1]) as stream:
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), 9)
"""
    write_bytes(tmp_path / "x", b"old")
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x")], check=False, cwd=repository)
    assert run.returncode == -9
    assert (tmp_path / "x").read_bytes() == b"old"
    assert len(remove_leftovers(tmp_path)) == 1
    assert names(tmp_path) == ["x"]


def test_the_temporary_file_is_beside_the_real_one(tmp_path):
    with atomic_path(tmp_path / "x") as temporary:
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"1")
