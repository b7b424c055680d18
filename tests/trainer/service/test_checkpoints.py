from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from renderers import OptionError, UserError
from trainer.protocol import LoraConfig, NotFoundError, ParsedCheckpointTinkerPath
from trainer.service import CheckpointInfo, DamagedCheckpointError, FolderCheckpointStore

PATH = ParsedCheckpointTinkerPath.of("run:train:0", "training", "step-1")
START = datetime(2030, 1, 1, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> FolderCheckpointStore:
    return FolderCheckpointStore(tmp_path / "store", now=clock)


def info(**changes: object) -> CheckpointInfo:
    values = {
        "base_model": "tiny",
        "lora": LoraConfig(rank=4, seed=7),
        "step": 3,
        "has_optimizer": True,
        "owner": "me",
        "created": START,
        "user_metadata": {"note": "first"},
    }
    return CheckpointInfo(**{**values, **changes})  # type: ignore[arg-type]


def write(store: FolderCheckpointStore, path: ParsedCheckpointTinkerPath = PATH, text: str = "one", **more: object):
    return store.write(path, info(), lambda folder: (folder / "a.txt").write_text(text), **more)  # type: ignore[arg-type]


def text_of(store: FolderCheckpointStore) -> str:
    with store.open(PATH) as folder:
        return (folder / "a.txt").read_text()


def test_what_is_written_is_found_by_any_store_on_the_folder(store: FolderCheckpointStore) -> None:
    written = write(store)
    again = FolderCheckpointStore(store.root).find(PATH)
    assert again == written
    assert again.info == info()
    assert text_of(store) == "one"
    assert [c.path for c in store.list()] == [PATH] == [c.path for c in store.list("run:train:0")]
    assert store.list("other") == []
    listed = again.listed()
    assert (listed.checkpoint_id, listed.checkpoint_type, listed.size_bytes) == (
        "weights/step-1",
        "training",
        written.size_bytes,
    )


def test_a_name_is_taken_unless_overwritten(store: FolderCheckpointStore) -> None:
    write(store)
    with pytest.raises(OptionError, match=r"name: expected one that is free.*step-1 exists"):
        write(store, text="two")
    assert text_of(store) == "one"
    write(store, text="two", overwrite=True)
    assert text_of(store) == "two"
    assert len(store.list()) == 1


def test_a_failing_writer_leaves_nothing(store: FolderCheckpointStore) -> None:
    def fill(folder: Path) -> None:
        (folder / "a.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        store.write(PATH, info(), fill)
    with pytest.raises(NotFoundError):
        store.find(PATH)
    assert list(store.folder(PATH).parent.iterdir()) == []


def test_without_a_manifest_nothing_exists(store: FolderCheckpointStore) -> None:
    write(store)
    (store.folder(PATH) / "manifest.json").unlink()
    assert store.list() == []
    with pytest.raises(NotFoundError):
        store.find(PATH)
    write(store, text="again")
    assert text_of(store) == "again"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: f.write_text("two"), "expected sha256"),
        (lambda f: f.write_text("longer"), "expected 3 bytes; got 6"),
        (lambda f: f.unlink(), "the file is missing"),
    ],
)
def test_damage_is_found_before_anything_is_read(store: FolderCheckpointStore, damage: object, said: str) -> None:
    write(store)
    damage(store.folder(PATH) / "a.txt")  # type: ignore[operator]
    with pytest.raises(DamagedCheckpointError, match=said), store.open(PATH):
        pytest.fail("a damaged checkpoint was opened")


def test_expiry(store: FolderCheckpointStore, clock: Clock) -> None:
    assert write(store, ttl_seconds=3600).expires_at == START + timedelta(hours=1)
    clock.now = START + timedelta(minutes=59)
    assert text_of(store) == "one"
    store.set_ttl(PATH, 7200)
    clock.now = START + timedelta(hours=2, minutes=58)
    assert store.find(PATH).expires_at == START + timedelta(hours=2, minutes=59)
    clock.now = START + timedelta(hours=3)
    assert store.list() == []
    with pytest.raises(NotFoundError):
        store.find(PATH)
    assert store.folder(PATH).exists()
    assert store.sweep() == 1
    assert not store.folder(PATH).exists()


@pytest.mark.parametrize("ttl", [0, 3599, 10**10, 3600.5, True, "3600"])
def test_impossible_ttl(store: FolderCheckpointStore, ttl: object) -> None:
    with pytest.raises(OptionError, match=r"ttl_seconds: expected None or 3600 to"):
        write(store, ttl_seconds=ttl)


def test_publishing_and_deleting(store: FolderCheckpointStore) -> None:
    write(store)
    assert store.set_public(PATH, True).public
    assert store.find(PATH).public
    assert not store.set_public(PATH, False).public
    store.delete(PATH)
    assert store.list() == []
    with pytest.raises(NotFoundError):
        store.delete(PATH)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", ".hidden", "a b", "x" * 129, "ä", "a\n", None, 3])
def test_names_that_could_leave_the_folder_are_refused(name: object) -> None:
    with pytest.raises(OptionError, match="name: expected"):
        ParsedCheckpointTinkerPath.of("run", "training", name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tinker://",
        "tinker://a/b",
        "tinker://a/weights",
        "tinker://a/weights/b/c",
        "tinker://a/other/b",
        "/a/weights/b",
        "tinker://../weights/b",
        "tinker://a/weights/..",
        "twinkle://a/weights/b",
        None,
    ],
)
def test_paths_that_are_none(path: object) -> None:
    with pytest.raises(UserError, match="expected"):
        ParsedCheckpointTinkerPath.from_tinker_path(path)  # type: ignore[arg-type]


def _kill_while(store: FolderCheckpointStore, where: str, overwrite: bool) -> None:
    """A process of its own writes the checkpoint and is killed at `where`."""
    script = f"""
import os, signal
from datetime import datetime, UTC
from pathlib import Path
from trainer.protocol import LoraConfig, ParsedCheckpointTinkerPath
from trainer.service import CheckpointInfo, FolderCheckpointStore
from trainer.service import checkpoints

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

store = FolderCheckpointStore({str(store.root)!r})
def fill(folder):
    (folder / "a.txt").write_text("new")
    if {where!r} == "fill":
        die()
if {where!r} == "seal":
    checkpoints.seal = die
if {where!r} == "commit":
    store._commit = die
if {where!r} == "between renames":
    real = Path.rename
    def rename(self, target):
        if ".tmp" in self.name:
            die()
        return real(self, target)
    Path.rename = rename
store.write(ParsedCheckpointTinkerPath.from_tinker_path({PATH.tinker_path!r}),
            CheckpointInfo("tiny", LoraConfig(rank=4), 1, True, "me", datetime.now(UTC)), fill, overwrite={overwrite})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[3], env={**os.environ}
    )
    assert done.returncode == -9


@pytest.mark.parametrize("where", ["fill", "seal", "commit", "between renames"])
def test_a_killed_writer_leaves_no_torn_checkpoint(store: FolderCheckpointStore, where: str) -> None:
    write(store, text="old")
    _kill_while(store, where, overwrite=True)
    after = FolderCheckpointStore(store.root)
    assert text_of(after) == "old"
    assert [p.name for p in after.folder(PATH).parent.iterdir()] == [PATH.name]


def test_a_killed_first_writer_leaves_nothing(store: FolderCheckpointStore) -> None:
    _kill_while(store, "commit", overwrite=False)
    after = FolderCheckpointStore(store.root)
    assert after.list() == []
    assert list(after.folder(PATH).parent.iterdir()) == []
