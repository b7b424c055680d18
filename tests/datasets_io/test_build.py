"""From files to a finished folder: everything arrives, nothing is lost silently, and again means the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import orjson
import pytest

from datasets_io import (
    Manifest,
    RenderSpec,
    ShardReader,
    TooManyRejectsError,
    build_shards,
    read_conversations,
    run_build,
    run_folder,
    verify_shards,
)
from renderers import InputError, OptionError, UserError, get_renderer, to_datum
from tests.datasets_io.build_samples import (
    CONVERSATIONS,
    MODEL,
    chat,
    files_of,
    lines_of,
    mixed_input,
    spec_of,
    words,
    write_rows,
)

FIXTURES = sorted(str(path) for path in CONVERSATIONS.glob("*.jsonl") if "_chat" not in path.name)


class Interrupt:
    """Progress that behaves like Ctrl-C after some blocks."""

    def __init__(self, blocks: int, error: BaseException | None = None) -> None:
        self.left = blocks
        self.skipped = 0.0
        self.error = error or KeyboardInterrupt()

    def advance(self, amount: float = 1, **counts: int) -> None:
        self.left -= 1
        if not self.left:
            raise self.error

    def skip(self, amount: float) -> None:
        self.skipped += amount


def test_shards_hold_what_the_renderer_gives_row_by_row(tmp_path) -> None:
    manifest = build_shards(FIXTURES, tmp_path / "out", spec_of(), max_rejects="100%")
    renderer = get_renderer(MODEL)
    rejects: list[object] = []
    expected = [
        to_datum(example.tokens, example.weights)
        for conversation in read_conversations(FIXTURES, on_reject=rejects.append)
        for example in renderer.render(conversation.messages, tools=conversation.tools)
    ]
    with ShardReader(tmp_path / "out") as stored:
        assert len(stored) == len(expected) == manifest.totals.rows
        for datum, other in zip(stored, expected, strict=True):
            assert datum.model_input.to_ints() == other.model_input.to_ints()
            for name, tensor in other.loss_fn_inputs.items():
                assert np.array_equal(datum.loss_fn_inputs[name].to_numpy(), tensor.to_numpy())
    assert manifest.totals.rejected == len(rejects) == len(lines_of(tmp_path / "out" / "rejects.jsonl"))
    assert manifest.totals.read == manifest.totals.accepted + manifest.totals.rejected
    assert sum(manifest.formats.values()) == manifest.totals.accepted
    assert set(manifest.formats) == {
        "alpaca", "openai", "preference", "prompt_completion", "sharegpt", "sharegpt_pairs", "sharegpt_roles"
    }  # fmt: skip
    assert verify_shards(tmp_path / "out").ok


def test_rejects_hold_the_whole_row_and_its_place(tmp_path) -> None:
    bad = CONVERSATIONS / "bad.jsonl"
    good = write_rows(tmp_path / "good.jsonl", [chat("Hi", "Hello")])
    manifest = build_shards([bad, good], tmp_path / "out", spec_of(block_bytes=700), max_rejects="100%")
    data = bad.read_bytes()
    expected = orjson.loads((CONVERSATIONS / "bad.expected.json").read_bytes())
    entries = lines_of(tmp_path / "out" / "rejects.jsonl")
    assert len(entries) == len(expected)
    for number, entry in enumerate(entries, 1):
        assert (entry["source"], entry["line"]) == (str(bad), number)
        row = entry["row"].encode() if "row" in entry else None
        assert row is None or data[entry["offset"] :].startswith(row)
    counts = manifest.sources[str(bad)]
    assert (counts.read, counts.accepted, counts.rejected) == (60, 0, 60)
    assert manifest.sources[good].formats == {"openai": 1}


@pytest.mark.parametrize("options", [{}, {"dedup": True}])
def test_the_number_of_workers_changes_nothing(tmp_path, options) -> None:
    inputs = mixed_input(tmp_path)
    spec = spec_of(block_bytes=20_000, eval_fraction=0.2, max_length=60, max_length_policy="keep-start", weights="mean")
    outcomes = [
        run_build(inputs, tmp_path / f"out{workers}", spec, workers=workers, **options)
        for workers in (0, 1 + len(options))
    ]
    first = files_of(tmp_path / "out0")
    assert files_of(tmp_path / f"out{1 + len(options)}") == first
    assert outcomes[0].num_blocks > 2
    assert {"manifest.json", "rejects.jsonl", "train-00000.arrow", "eval-00000.arrow"} <= set(first)
    assert not any(name.startswith((".", "blocks", "run.json")) for name in first)
    assert verify_shards(tmp_path / "out0").ok


@pytest.mark.parametrize("blocks", [1, 4, 9])
def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path, blocks) -> None:
    inputs = mixed_input(tmp_path)
    spec = spec_of(eval_fraction=0.1)
    build_shards(inputs, tmp_path / "whole", spec, max_rejects="100%", dedup=True)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_build(inputs, out, spec, dedup=True, progress=Interrupt(blocks))
    assert not (out / "manifest.json").exists()
    # What a killed writer leaves behind.
    (out / ".tmp-1-train-00003.arrow").write_bytes(b"half")
    (out / "blocks" / ".tmp-1-00003.json").write_bytes(b"half")
    progress = Interrupt(-1)
    outcome = run_build(inputs, out, spec, dedup=True, progress=progress)
    assert outcome.resumed_blocks == blocks
    assert progress.skipped > 0
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_finished_block_counts_only_when_all_of_it_is_there(tmp_path) -> None:
    inputs = mixed_input(tmp_path)
    build_shards(inputs, tmp_path / "whole", spec_of(), max_rejects="100%")
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_build(inputs, out, spec_of(), progress=Interrupt(8))
    (out / "train-00000.arrow").unlink()
    (out / "train-00001.arrow").write_bytes(b"short")
    (out / "blocks" / "00002.json").write_bytes(b"{")
    rejects = next((out / "blocks").glob("*.rejects.jsonl"))
    rejects.unlink()
    outcome = run_build(inputs, out, spec_of())
    assert outcome.resumed_blocks == 8 - 4
    assert files_of(out) == files_of(tmp_path / "whole")


def test_a_repeated_run_does_nothing(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat("Hi", "Hello")])
    build_shards([path], tmp_path / "out", spec_of())
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    outcome = run_build([path], tmp_path / "out", spec_of(), workers=2)
    assert outcome.unchanged
    assert outcome.manifest == Manifest.load(tmp_path / "out")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()} == before


def test_a_run_killed_right_after_its_manifest_is_finished(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat("Hi", "Hello")])
    build_shards([path], tmp_path / "out", spec_of())
    whole = files_of(tmp_path / "out")
    (tmp_path / "out" / "run.json").write_bytes(b"{}")
    (tmp_path / "out" / "blocks").mkdir()
    assert run_build([path], tmp_path / "out", spec_of()).unchanged
    assert files_of(tmp_path / "out") == whole


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def changed_model(folder: Path, change: str) -> str:
    """A copy of the model with one thing changed."""
    shutil.copytree(MODEL, folder)
    if change == "template":
        edit(folder / "chat_template.jinja", "one JSON object per line", "one JSON object on each line")
    elif change == "tokenizer":
        (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    elif change == "stop tokens":
        (folder / "generation_config.json").write_text('{"eos_token_id": [1]}')
    return str(folder)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> tuple[Path, Path]:
    """The same input rendered to the end, and interrupted."""
    folder = tmp_path_factory.mktemp("begun")
    path = write_rows(folder / "rows.jsonl", [chat(words(9, i), "Hello") for i in range(100)])
    build_shards([path], folder / "finished", spec_of())
    with pytest.raises(KeyboardInterrupt):
        run_build([path], folder / "unfinished", spec_of(), progress=Interrupt(1))
    return folder / "finished", folder / "unfinished"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("option", "options.max_length: None -> 50"),
        ("policy", "renderer.settings.turns: auto -> split"),
        ("renderer option", "renderer.options.enable_thinking: none -> False"),
        ("input", "inputs[0].size"),
        ("same size", "inputs[0].sha256"),
        ("more inputs", "inputs[1].path: none -> "),
        ("template", "template_hash"),
        ("tokenizer", "tokenizer_sha256"),
        ("stop tokens", "options.stop_tokens"),
        ("dedup", "options.dedup: False -> True"),
    ],
)
def test_a_change_is_named_and_refused(tmp_path, begun, change, named) -> None:
    inputs = [str(begun[0].parent / "rows.jsonl")]
    changes: dict[str, object] = {}
    if change == "option":
        changes = {"max_length": 50}
    elif change == "policy":
        changes = {"turns": "split"}
    elif change == "renderer option":
        changes = {"renderer_options": {"enable_thinking": False}}
    elif change == "more inputs":
        inputs.append(write_rows(tmp_path / "more.jsonl", [chat("Hi", "Hello")]))
    elif change in ("template", "tokenizer", "stop tokens"):
        changes = {"model": changed_model(tmp_path / "model", change)}
    rows = Path(inputs[0]).read_bytes()
    try:
        if change == "input":
            Path(inputs[0]).write_bytes(rows[: rows.index(b"\n") + 1])
        elif change == "same size":
            edit(Path(inputs[0]), "word1", "ward1")
        build_shards(inputs, tmp_path / "fresh", spec_of(**changes), dedup=change == "dedup")
        for kind, original in zip(("finished", "unfinished"), begun, strict=True):
            out = shutil.copytree(original, tmp_path / kind)
            with pytest.raises(UserError) as caught:
                run_build(inputs, out, spec_of(**changes), dedup=change == "dedup")
            assert named in str(caught.value)
            assert "--overwrite" in str(caught.value)
            assert files_of(out) == files_of(original)
            again = run_build(inputs, out, spec_of(**changes), dedup=change == "dedup", overwrite=True)
            assert (again.unchanged, again.resumed_blocks) == (False, 0)
            assert files_of(out) == files_of(tmp_path / "fresh")
    finally:
        Path(inputs[0]).write_bytes(rows)


def test_a_model_that_changes_is_noticed_within_one_process(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat(words(9, i), "Hello") for i in range(100)])
    model = Path(changed_model(tmp_path / "model", "nothing"))

    class Edit(Interrupt):
        def advance(self, amount: float = 1, **counts: int) -> None:
            edit(model / "chat_template.jinja", "one JSON object per", "one JSON object a")

    with pytest.raises(UserError, match="expected a model that stays as it is; it changed during the run"):
        run_build([path], tmp_path / "out", spec_of(model=str(model)), progress=Edit(0))
    with pytest.raises(UserError, match="changed: template_hash"):
        run_build([path], tmp_path / "out", spec_of(model=str(model)))
    run_build([path], tmp_path / "out", spec_of(model=str(model)), overwrite=True)


def test_a_moved_model_is_the_same_model(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat("Hi", "Hello")])
    build_shards([path], tmp_path / "out", spec_of())
    moved = changed_model(tmp_path / "elsewhere", "nothing")
    assert run_build([path], tmp_path / "out", spec_of(model=str(moved))).unchanged


def test_only_folders_of_runs_are_written_into(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat("Hi", "Hello")])
    precious = tmp_path / "mine"
    precious.mkdir()
    (precious / "thesis.txt").write_text("all I have")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="expected an empty folder, or one of an earlier run; got one with 'thesis"):
            build_shards([path], precious, spec_of(), overwrite=overwrite)
    with pytest.raises(UserError, match="expected a folder for the shards; got a file"):
        build_shards([path], path, spec_of())
    # A page written beside the shards stays.
    build_shards([path], tmp_path / "out", spec_of())
    (tmp_path / "out" / "report.html").write_text("page")
    build_shards([path], tmp_path / "out", spec_of(turns="split"), overwrite=True)
    assert (tmp_path / "out" / "report.html").read_text() == "page"
    assert [file.name for file in precious.iterdir()] == ["thesis.txt"]


def test_two_runs_do_not_write_into_one_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("datasets_io.folder_lock._SECONDS_TO_WAIT", 0.0)
    path = write_rows(tmp_path / "rows.jsonl", [chat("Hi", "Hello")])
    with (
        run_folder.RunFolder(tmp_path / "out"),
        pytest.raises(UserError, match="another run is writing into this folder"),
    ):
        build_shards([path], tmp_path / "out", spec_of())
    build_shards([path], tmp_path / "out", spec_of())


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat(words(50, i), "Hello") for i in range(300)])

    class Append(Interrupt):
        def advance(self, amount: float = 1, **counts: int) -> None:
            with Path(path).open("ab") as file:
                file.write(b"\n")

    with pytest.raises(UserError, match="it changed while it was read"):
        run_build([path], tmp_path / "out", spec_of(), progress=Append(0))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("limit", "fine"), [(0, False), (1, False), (2, True), ("2", True), ("9%", False), ("20%", True), ("100%", True)]
)
def test_the_limit_of_rejects_judges_after_everything_is_written(tmp_path, limit, fine) -> None:
    rows = [chat(f"Hi {i}", "Hello") for i in range(9)]
    path = write_rows(tmp_path / "rows.jsonl", [*rows, "{", '{"messages": []}'])
    for _ in range(2):  # rendered, and found unchanged
        if fine:
            build_shards([path], tmp_path / "out", spec_of(), max_rejects=limit)
        else:
            with pytest.raises(TooManyRejectsError) as caught:
                build_shards([path], tmp_path / "out", spec_of(), max_rejects=limit)
            assert caught.value.exit_code == 3
            assert "of" not in str(limit)
            assert "got 2" in str(caught.value)
        assert Manifest.load(tmp_path / "out").totals.accepted == 9
        assert len(lines_of(tmp_path / "out" / "rejects.jsonl")) == 2


@pytest.mark.parametrize("limit", ["x", "-1", -1, "101%", "nan%", "%", "1.5"])
def test_limits_that_mean_nothing(tmp_path, limit) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat("Hi", "Hello")])
    with pytest.raises(OptionError, match="max_rejects: expected a number of rows or a share such as 5%; got"):
        build_shards([path], tmp_path / "out", spec_of(), max_rejects=limit)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_stops_at_the_first_bad_row_of_the_input(tmp_path, workers) -> None:
    rows = [chat(words(40, i), "Hello") for i in range(200)]
    for place in (61, 100, 190):
        rows[place] = {"messages": [{"role": "bot", "content": "Hi"}]}
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(InputError) as caught:
        build_shards([path], tmp_path / "out", spec_of(), strict=True, workers=workers)
    assert str(caught.value).startswith(f"{path}:62: messages[0].role: expected one of ")
    # The row has to be mended first, which makes another run: nothing is in its way.
    write_rows(tmp_path / "rows.jsonl", [row for row in rows if len(row["messages"]) > 1])
    assert build_shards([path], tmp_path / "out", spec_of(), strict=True).totals.read == 197


def test_nothing_left_to_train_on_is_an_error(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat(words(50), words(50)), "{"])
    with pytest.raises(UserError, match="of 2 rows 1 were rejected and nothing is left of the others"):
        build_shards([path], tmp_path / "out", spec_of(max_length=20), max_rejects=5)
    assert [entry["reason"] for entry in lines_of(tmp_path / "out" / "rejects.jsonl")] == ["invalid_json"]
    assert [entry["reason"] for entry in lines_of(tmp_path / "out" / "drops.jsonl")] == ["too_long"]
    assert not (tmp_path / "out" / "manifest.json").exists()
    # Another option may be tried at once.
    assert build_shards([path], tmp_path / "out", spec_of(), max_rejects=5).totals.rows == 1
    empty = write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(UserError, match="inputs: expected rows; got none"):
        build_shards([empty], tmp_path / "out2", spec_of())


def test_blocks_without_rows_write_no_shard(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", ["", "", chat("Hi", "Hello"), "{", "{"])
    manifest = build_shards([path], tmp_path / "out", spec_of(block_bytes=1), max_rejects=2)
    assert [shard.file for shard in manifest.shards] == ["train-00002.arrow"]
    assert manifest.events == {"blank_lines": 2}


def test_options_are_checked_in_words() -> None:
    with pytest.raises(OptionError, match="max_length: expected greater than or equal to 2; got 1"):
        spec_of(max_length=1)
    with pytest.raises(OptionError, match=r"max_lenght: expected one of .*max_length"):
        spec_of(max_lenght=5)
    with pytest.raises(OptionError, match="model: expected a value; got none"):
        RenderSpec()  # type: ignore[call-arg]
    with pytest.raises(OptionError, match="turns: expected 'auto', 'single', 'split' or 'drop'; got 'both'"):
        spec_of(turns="both")
    with pytest.raises(OptionError, match="map: expected name=column pairs"):
        spec_of(mapping="x")


def test_a_mapping_names_columns(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [{"question": "2 + 2?", "answer": "4"}])
    manifest = build_shards([path], tmp_path / "out", spec_of(mapping="user=question,assistant=answer"))
    assert manifest.formats == {"mapped": 1}
    direct = write_rows(tmp_path / "direct.jsonl", [chat("2 + 2?", "4")])
    build_shards([direct], tmp_path / "direct", spec_of())
    assert ShardReader(tmp_path / "out").tokens(0).tolist() == ShardReader(tmp_path / "direct").tokens(0).tolist()
