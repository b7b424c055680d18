"""Cutting inputs into blocks, against a reference that goes line by line."""

from __future__ import annotations

import gzip
import itertools
import json
import pickle
import re
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_io import Block, Source, expand_inputs, iter_blocks, parse_block
from datasets_io.json_array import iter_elements
from datasets_io.streams import ByteStream
from renderers import OptionError, UserError


def naive_blocks(data: bytes, block_bytes: int) -> list[bytes]:
    """As many whole lines as fit, at least one; a missing last line break counts as if it were there."""
    blocks: list[list[bytes]] = []
    size = block_bytes
    for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
        needed = len(line.rstrip(b"\n")) + 1
        if size + needed > block_bytes:
            blocks.append([])
            size = 0
        blocks[-1].append(line)
        size += needed
    return [b"".join(lines) for lines in blocks]


def stream_of(data: bytes, step: int = 1 << 20) -> ByteStream:
    """A stream that gives at most `step` bytes a read, as a pipe may."""
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        piece = data[position : position + min(size, step)]
        position += len(piece)
        return piece

    return ByteStream("memory", read, lambda: None)


class MemorySource(Source):
    """A JSON-lines input that lives in memory."""

    __slots__ = ("data", "step")

    def __init__(self, data: bytes, step: int, kind: str = "lines") -> None:
        super().__init__("memory", kind)  # type: ignore[arg-type]
        self.data, self.step = data, step

    def open_bytes(self) -> ByteStream:
        return stream_of(self.data, self.step)


lines = st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"").replace(b"\xef", b"")))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(lines=lines, last_break=st.booleans(), block_bytes=st.integers(1, 40), step=st.integers(1, 50))
def test_line_blocks_equal_the_naive_cut(lines: list[bytes], last_break: bool, block_bytes: int, step: int) -> None:
    data = b"\n".join(lines) + (b"\n" if last_break and lines else b"")
    blocks = list(iter_blocks([MemorySource(data, step)], block_bytes))
    assert [block.data for block in blocks] == naive_blocks(data, block_bytes)
    offset, line = 0, 1
    for index, block in enumerate(blocks):
        assert (block.index, block.first_offset, block.first_line) == (index, offset, line)
        offset += len(block.data)
        line += block.data.count(b"\n")


@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    values=st.lists(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(['\\"', "]", "}{", "\\", ",", "\n"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=6,
    ),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 30),
    prefix=st.sampled_from(["", " \n", "\n\n\t"]),
)
def test_array_elements_are_the_values_at_their_true_places(
    values: list[object], indent: int | None, ascii_only: bool, chunk: int, prefix: str
) -> None:
    data = (prefix + json.dumps(values, indent=indent, ensure_ascii=ascii_only)).encode()
    elements = list(iter_elements(stream_of(data), 1 << 20, chunk_bytes=chunk))
    assert [json.loads(element.data) for element in elements] == values
    for element in elements:
        assert element.reason == ""
        assert data[element.offset :].startswith(element.data)
        assert element.line == data[: element.offset].count(b"\n") + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[]", []),
        (" [ \n ] \n", []),
        ('[{"a": 1},]', [('{"a": 1}', ""), (",", "")]),
        ("[1,,2]", [("1", ""), (",", ""), ("2", "")]),
        ("[1, 2", [("1", ""), ("2", ""), ("", "truncated")]),
        ("[1,", [("1", ""), ("", "truncated")]),
        ("[", [("", "truncated")]),
        ('["abc', [('"abc', ""), ("", "truncated")]),
        ('["abc\\', [('"abc\\', ""), ("", "truncated")]),
        ("[1] x", [("1", ""), ("x", "trailing_data")]),
        ('[{"a": 1]}, 2]', [('{"a": 1]}', ""), ("2", "")]),
        ('[{"a":1} {"b":2}, 3]', [('{"a":1} {"b":2}', ""), ("3", "")]),
        ("[1, " + "x" * 30 + ", 2]", [("1", ""), ("xxxx", "row_too_long"), ("2", "")]),
        ('[1, {"k": "' + "[," * 30 + '"}]', [("1", ""), ('{"k"', "row_too_long")]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_broken_arrays_lose_nothing_unseen(text: str, expected: list[tuple[str, str]], chunk: int) -> None:
    found = list(iter_elements(stream_of(text.encode()), 20, kept_bytes=4, chunk_bytes=chunk))
    kept = [(e.data.decode()[:4] if e.reason == "row_too_long" else e.data.decode(), e.reason) for e in found]
    assert kept == expected
    for element in found:
        if element.reason == "row_too_long":
            assert element.size > 20
            assert text[element.offset :].startswith(element.data.decode())


def test_size_and_line_of_a_dropped_element_are_true() -> None:
    text = '[\n{"a":\n"' + "y" * 100 + '"},\n{"b": 1}\n]'
    long, short = iter_elements(stream_of(text.encode()), 20, kept_bytes=8, chunk_bytes=7)
    assert (long.line, long.offset, long.size, long.reason) == (2, 2, 109, "row_too_long")
    assert (short.line, short.data) == (4, b'{"b": 1}')


ROWS = [
    {"messages": [{"role": "user", "content": f"é {i}"}, {"role": "assistant", "content": "x" * i}]}
    for i in range(1, 40)
]


def write_every_way(folder: Path) -> list[Path]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    array = json.dumps(ROWS, indent=2, ensure_ascii=False).encode()
    table = pa.Table.from_pylist(ROWS)
    files = {
        "a.jsonl": text,
        "bom.jsonl": b"\xef\xbb\xbf" + text,
        "crlf.jsonl": text.replace(b"\n", b"\r\n"),
        "a.jsonl.gz": gzip.compress(text[:100]) + gzip.compress(text[100:]),
        "a.ndjson.zst": zstandard.compress(text[:100]) + zstandard.compress(text[100:]),
        "a.json": array,
        "crlf.json": array.replace(b"\n", b"\r\n"),
        "lines.json": text,
        "a.json.gz": gzip.compress(array),
        "a.json.zst": zstandard.compress(array),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    pq.write_table(table, folder / "a.parquet", row_group_size=7)
    with pa.ipc.new_file(folder / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    with pa.ipc.new_stream(folder / "stream.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    return sorted(path for path in folder.iterdir())


def test_every_container_gives_the_same_conversations(tmp_path: Path) -> None:
    expected = [row["messages"] for row in ROWS]
    paths = write_every_way(tmp_path)
    assert len(paths) == 13
    for path, block_bytes in itertools.product(paths, (1, 300, 1 << 20)):
        blocks = list(iter_blocks(expand_inputs([str(path)]), block_bytes))
        parsed = [parse_block(block) for block in blocks]
        assert [row.conversations[0].messages for p in parsed for row in p.rows] == expected, path
        assert not any(p.rejects for p in parsed)
        assert [block.index for block in blocks] == list(range(len(blocks)))
        assert blocks == list(iter_blocks(expand_inputs([str(path)]), block_bytes))
        assert pickle.loads(pickle.dumps(blocks)) == blocks


def test_places_lead_back_into_the_file(tmp_path: Path) -> None:
    for path in write_every_way(tmp_path):
        if path.name.endswith((".gz", ".zst", ".parquet", ".arrow")):
            continue
        data = path.read_bytes()
        for block in iter_blocks(expand_inputs([str(path)]), 500):
            for row in parse_block(block).rows:
                assert data[row.offset : row.offset + 1] == b"{"
                assert data[: row.offset].count(b"\n") + 1 == row.line


def test_a_long_line_is_a_block_and_an_overlong_one_a_fault() -> None:
    data = b"short\n" + b"m" * 50 + b"\n" + b"z" * 200 + b"\nnext\n" + b"e" * 300
    for block_bytes, step in itertools.product((8, 20, 33), (1, 7, 1000)):
        blocks = list(iter_blocks([MemorySource(data, step)], block_bytes, max_row_bytes=100))
        assert [block.data for block in blocks] == [b"short\n", b"m" * 50 + b"\n", b"", b"next\n", b""]
        assert [block.first_line for block in blocks] == [1, 2, 3, 4, 5]
        assert [block.first_offset for block in blocks] == [0, 6, 57, 258, 263]
        (long,), (last,) = blocks[2].faults, blocks[4].faults
        assert (long.line, long.offset, long.size, long.reason) == (3, 57, 200, "row_too_long")
        assert long.raw.ljust(200, b"z") == b"z" * 200
        assert (last.line, last.size) == (5, 300)


def test_memory_stays_flat() -> None:
    row = json.dumps(ROWS[20]).encode() + b"\n"
    total = 100 << 20
    piece = row * (max(1, (1 << 20) // len(row)))

    class Endless(Source):
        __slots__ = ()

        def open_bytes(self) -> ByteStream:
            left = total // len(piece)
            ahead = b""

            def read(size: int) -> bytes:
                nonlocal left, ahead
                while len(ahead) < size and left:
                    ahead += piece
                    left -= 1
                data, ahead = ahead[:size], ahead[size:]
                return data

            return ByteStream("endless", read, lambda: None)

    tracemalloc.start()
    num_bytes = sum(len(block.data) for block in iter_blocks([Endless("endless", "lines")]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_bytes == total // len(piece) * len(piece)
    assert peak < 32 << 20


def test_memory_stays_flat_inside_an_array_and_an_overlong_row() -> None:
    element = json.dumps({"messages": "x" * 100_000}).encode()
    long = b'"' + b"q\\n" * (20 << 20) + b'"'
    data = b"[" + (element + b",") * 200 + long + b"]"
    tracemalloc.start()
    found = [(e.reason, e.size) for e in iter_elements(stream_of(data), 4 << 20)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [("", len(element))] * 200 + [("row_too_long", len(long))]
    assert peak < 24 << 20


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_damaged_compression_is_an_error_and_not_an_end(tmp_path: Path, suffix: str) -> None:
    data = "".join(json.dumps({"messages": i, "x": str(hash(i) * 7919)}) + "\n" for i in range(5000)).encode()
    packed = gzip.compress(data) if suffix == "gz" else zstandard.compress(data)
    path = tmp_path / f"a.jsonl.{suffix}"
    for broken in (packed[:-9], packed[: len(packed) // 2], b"no compression at all"):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.jsonl\.\w+: expected readable data; got: "):
            list(iter_blocks(expand_inputs([str(path)])))


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(OptionError, match="block_bytes: expected at least 1; got 0"):
        list(iter_blocks([], 0))


def test_blocks_of_several_inputs_share_one_numbering(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text('{"messages": []}\n' * 3)
    blocks = list(iter_blocks(expand_inputs([str(tmp_path / "*.jsonl")]), 20))
    assert [Path(block.source).name for block in blocks] == ["a.jsonl"] * 3 + ["b.jsonl"] * 3
    assert [block.index for block in blocks] == list(range(6))
    assert all(isinstance(block, Block) for block in blocks)
