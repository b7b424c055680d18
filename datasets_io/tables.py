"""Rows of Parquet files, Arrow files and `datasets` as JSON, so that everything after reading is the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import orjson

from renderers import MissingExtraError, UserError

__all__ = ["TableRow", "arrow_rows", "dataset_rows", "parquet_rows"]

_ROWS_PER_STEP = 256


@dataclass(slots=True)
class TableRow:
    """One row: its JSON, or the reason why it has none (then `data` is what can be shown of it)."""

    data: bytes
    reason: str = ""
    detail: str = ""


def parquet_rows(name: str, path: Path) -> Iterator[TableRow]:
    """Rows of a Parquet file, a few hundred at a time.

    Raises:
        UserError: not a readable Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as table:
            for batch in table.iter_batches(batch_size=_ROWS_PER_STEP):
                yield from _batch_rows(batch)
    except (pa.ArrowException, OSError) as fault:
        raise UserError(f"{name}: expected a readable Parquet file; got: {fault}") from None


def arrow_rows(name: str, path: Path) -> Iterator[TableRow]:
    """Rows of an Arrow IPC file or stream, told apart by the first bytes.

    Raises:
        UserError: neither of the two, or damaged.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            for batch in _ipc_batches(file, is_file):
                for start in range(0, batch.num_rows, _ROWS_PER_STEP):
                    yield from _batch_rows(batch.slice(start, _ROWS_PER_STEP))
    except (pa.ArrowException, OSError) as fault:
        raise UserError(f"{name}: expected an Arrow IPC file or stream; got: {fault}") from None


def _ipc_batches(file: Any, is_file: bool) -> Iterator[Any]:
    import pyarrow as pa

    if not is_file:
        yield from pa.ipc.open_stream(file)
        return
    reader = pa.ipc.open_file(file)
    for i in range(reader.num_record_batches):
        yield reader.get_batch(i)


def dataset_rows(name: str, spec: str) -> Iterator[TableRow]:
    """Rows of a Hugging Face dataset `org/name[:config][:split]`, or of a folder that `datasets` can read.

    Raises:
        MissingExtraError: `datasets` is not installed.
        UserError: it cannot be loaded, or has several splits and none is named.
    """
    dataset = _load_dataset(name, spec)
    nested = _nested_float_columns(dataset.features.arrow_schema)
    for row in dataset:
        yield _encode(cast("dict[str, Any]", row), nested)


def _load_dataset(name: str, spec: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingExtraError("datasets", "data") from None
    path, *rest = spec.split(":")
    if not path or len(rest) > 2:
        raise UserError(f"{name}: expected hf:org/name[:config][:split]; got {name!r}")
    try:
        if (Path(path) / "state.json").is_file() or (Path(path) / "dataset_dict.json").is_file():
            config, split = None, rest[-1] if rest else None
            found = datasets.load_from_disk(path)
        else:
            config, split = _config_and_split(datasets, path, rest)
            found = datasets.load_dataset(path, config)
    except Exception as fault:  # the library raises everything from OSError to its own kinds
        raise UserError(f"{name}: expected a dataset that can be loaded; got: {fault}") from fault
    if isinstance(found, datasets.DatasetDict):
        splits = [str(key) for key in found]
        if split is None and len(splits) > 1:
            raise UserError(
                f"{name}: expected one split to be named, as in {name}:{splits[0]}; got {', '.join(splits)}"
            )
        split = split or splits[0]
        if split not in splits:
            raise UserError(f"{name}: expected one of the splits {', '.join(splits)}; got {split!r}")
        found = found[split]
    return _without_decoding(datasets, found)


def _config_and_split(datasets: Any, path: str, rest: list[str]) -> tuple[str | None, str | None]:
    """One part after the name is a configuration when the dataset has one of that name, else a split."""
    if len(rest) == 2:
        return rest[0], rest[1]
    if rest and rest[0] in datasets.get_dataset_config_names(path):
        return rest[0], None
    return None, rest[0] if rest else None


def _without_decoding(datasets: Any, dataset: Any) -> Any:
    """Images and sounds stay references or bytes: nothing is decoded to be thrown away."""
    for column, feature in dataset.features.items():
        if type(feature).__name__ in ("Image", "Audio", "Video", "Pdf"):
            dataset = dataset.cast_column(column, getattr(datasets, type(feature).__name__)(decode=False))
    return dataset


def _batch_rows(batch: Any) -> Iterator[TableRow]:
    nested = _nested_float_columns(batch.schema)
    for row in _python_rows(batch):
        yield row if isinstance(row, TableRow) else _encode(row, nested)


def _python_rows(batch: Any) -> Iterable[dict[str, Any] | TableRow]:
    try:
        return batch.to_pylist()
    except (UnicodeDecodeError, ValueError):
        return [_python_row(batch.slice(i, 1)) for i in range(batch.num_rows)]


def _python_row(batch: Any) -> dict[str, Any] | TableRow:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as fault:
        return TableRow(b"", "invalid_utf8", f"expected UTF-8 text in every column; got {fault}")
    except ValueError as fault:
        return TableRow(b"", "unsupported_value", f"expected values that JSON can hold; got {fault}")


def _nested_float_columns(schema: Any) -> list[str]:
    """Columns with floats inside lists or structs, where NaN is a fault and not an empty cell."""
    return [field.name for field in schema if field.type.num_fields and _has_float(field.type)]


def _has_float(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_floating(kind):
        return True
    return any(_has_float(kind.field(i).type) for i in range(kind.num_fields)) if kind.num_fields else False


def _encode(row: dict[str, Any], nested_float_columns: list[str]) -> TableRow:
    for column in nested_float_columns:
        if not _all_finite(row[column]):
            shown = repr(row).encode("utf-8", "backslashreplace")
            return TableRow(shown, "not_finite", f"{column}: expected finite numbers; got NaN or infinity")
    try:
        return TableRow(orjson.dumps(row, default=_plain))
    except TypeError as fault:
        shown = repr(row).encode("utf-8", "backslashreplace")
        return TableRow(shown, "unsupported_value", f"expected values that JSON can hold; got: {fault}")


def _all_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_all_finite, cast("dict[str, Any]", value).values()))
    if isinstance(value, (list, tuple)):
        return all(map(_all_finite, cast("list[Any]", value)))
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__}")
