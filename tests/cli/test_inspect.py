"""`datumloom inspect`: what it prints, what it refuses, and a page that is safe and works."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

import cli
from datasets_io.inspect_page import MAX_PAGE_TOKENS
from datasets_io.lookup import shard_views
from datasets_io.view_text import plain_text, print_styled

HOSTILE = (
    "<script>alert(1)</script></textarea><!-- <img src=x onerror=alert(1)> & \x00\x1b[31m \u202e\u2028 {{7*7}} \ufeff"
)
ROWS = [
    {"messages": [{"role": "user", "content": "Hi 狐狸"}, {"role": "assistant", "content": "Hello 🦊!\nbye"}]},
    {"messages": [{"role": "system", "content": HOSTILE}, {"role": "user", "content": HOSTILE},
                  {"role": "assistant", "content": HOSTILE, "weight": 0.5}, {"role": "user", "content": "x"},
                  {"role": "assistant", "content": "no", "weight": -1}]},
    {"messages": [{"role": "bot", "content": "x"}]},
    {"prompt": "What?", "chosen": "Yes.", "rejected": "No way."},
]  # fmt: skip


@pytest.fixture(scope="module")
def model(repository: Path) -> str:
    return str(repository / "fixtures" / "tiny-chat")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("in") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, source: str, model: str) -> str:
    folder = str(tmp_path_factory.mktemp("out") / "shards")
    done = invoke("render", source, "--model", model, "--out", folder, "--max-rejects", "1", "--quiet")
    assert done.exit_code == 0, done.output
    return folder


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.command, arguments)


def refusal(*arguments: str) -> str:
    """The one line of an error that is the user's to mend."""
    done = invoke(*arguments)
    assert done.exception is not None
    assert getattr(done.exception, "exit_code", None) == 2, done.exception
    assert "\n" not in str(done.exception)
    return str(done.exception)


def table(text: str) -> list[list[str]]:
    """The token lines of plain output: mark, position, id, token, weight."""
    found = re.findall(r"^(\*?) +(\d+) +(\d+)  (\S+.*?) {2,}(-?[\d.e-]+|-)  (?:\d+|-) \w+  ", text, re.MULTILINE)
    return [list(cells) for cells in found]


# -- in the terminal


def test_a_row_of_shards_as_a_plain_table(shards: str, source: str) -> None:
    done = invoke("inspect", shards)
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert done.output.splitlines()[0].startswith(f"train row 0 · {source}:1 · ")
    cells = table(done.output)
    view = shard_views(shards).views[0]
    assert [int(row[1]) for row in cells] == [token.position for token in view.tokens]
    assert [int(row[2]) for row in cells] == [token.id for token in view.tokens]
    assert [row[0] == "*" for row in cells] == [token.trained for token in view.tokens]
    assert "= 🦊" in done.output
    assert re.search(r"↵ +0  1 assistant  \d+ H", done.output), "the header predicts the turn's first token"


def test_a_line_of_a_file_is_what_the_shards_hold(shards: str, source: str, model: str) -> None:
    from_file, from_shards = invoke("inspect", source, "2", "--model", model), invoke("inspect", shards, "1")
    assert from_file.exit_code == 0, from_file.output
    assert table(from_file.output) == table(from_shards.output) != []


def test_options_of_render_decide_what_is_shown(source: str, model: str) -> None:
    weights = [
        [row[4] for row in table(invoke("inspect", source, "1", "--model", model, *more).output)]
        for more in ([], ["--weights", "mean"], ["--train-on-what", "all_tokens"])
    ]
    assert set(weights[0]) == {"-", "0", "1"}
    assert sum(float(weight) for weight in weights[1] if weight != "-") == pytest.approx(1, abs=1e-4)
    assert weights[2][1:10] == ["1"] * 9, "the user's message too"


def test_several_rows_and_what_is_left_out(source: str, model: str) -> None:
    done = invoke("inspect", source, "--rows", "1:9", "--model", model)
    assert done.exit_code == 0, done.output
    heads = re.findall(r"^line .*? ·", done.stdout, re.MULTILINE)
    assert heads == ["line 1 ·", "line 2 ·", "line 4, chosen ·", "line 4, rejected ·"]
    assert f"{source}:3: messages[0].role: expected one of" in done.stderr


def test_the_rows_of_an_input_line(shards: str) -> None:
    done = invoke("inspect", shards, "--line", "rows.jsonl:4")
    assert re.findall(r"^train row (\d)", done.output, re.MULTILINE) == ["2", "3"]
    why = refusal("inspect", shards, "--line", "rows.jsonl:3")
    assert "got none, as it was rejected: expected one of system" in why
    assert "got none" in refusal("inspect", shards, "--line", "rows.jsonl:400")
    assert "got 'other.jsonl'" in refusal("inspect", shards, "--line", "other.jsonl:1")


def test_elements_of_an_array_are_counted(tmp_path: Path, source: str, model: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    for row in ("1", "2"):
        assert table(invoke("inspect", str(path), row, "--model", model).output) == table(
            invoke("inspect", source, row, "--model", model).output
        )
    assert "expected a line from 1 to 4; got 5" in refusal("inspect", str(path), "5", "--model", model)


def test_json_for_machines(shards: str) -> None:
    value: dict[str, Any] = json.loads(invoke("inspect", shards, "1", "--json").stdout)
    tokens = value["rows"][0]["tokens"]
    text = b"".join(bytes.fromhex(token["bytes"]) for token in tokens).decode()
    assert HOSTILE in text
    assert {token["weight"] for token in tokens} == {None, 0, 0.5, -1}


@pytest.mark.parametrize("styled", [False, True])
def test_what_is_trained_is_marked_without_colour(shards: str, styled: bool) -> None:
    for view in shard_views(shards, range(4)).views:
        if styled:
            console = Console(width=200, force_terminal=True, no_color=True, highlight=False)
            with console.capture() as capture:
                print_styled(view, console)
            text = re.sub(r"\x1b\[[\d;]*m", "", capture.get())
            assert text.count("▸") == text.count("◂") >= 1
        else:
            text = plain_text(view)
        assert "\x1b" not in text
        assert [row[0] == "*" for row in table(text)] == [token.trained for token in view.tokens]


def test_no_colour_without_a_terminal_or_when_unwelcome(shards: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _self: True, raising=False)
    assert "\x1b[" in invoke("inspect", shards).output
    assert "\x1b" not in invoke("inspect", shards, "--plain").output
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in invoke("inspect", shards).output


# -- what is refused


def test_refusals(shards: str, source: str, model: str, repository: Path, tmp_path: Path) -> None:
    assert "expected a row from 0 to 3 of train; got 4" in refusal("inspect", shards, "4")
    assert "expected a split among train; got 'eval'" in refusal("inspect", shards, "--split", "eval")
    assert "expected a line from 1 to 4; got 9" in refusal("inspect", source, "9", "--model", model)
    assert "expected lines from 1 on; got 0" in refusal("inspect", source, "0", "--model", model)
    assert "rows.jsonl:3: messages[0].role" in refusal("inspect", source, "3", "--model", model)
    assert "expected --model" in refusal("inspect", source)
    assert "no such folder" in refusal("inspect", source, "--model", str(tmp_path / "none"))
    assert "expected a finished shard folder" in refusal("inspect", str(tmp_path))
    assert "expected a file that exists" in refusal("inspect", str(tmp_path / "none.jsonl"), "--model", model)
    assert "expected the folder of these shards" in refusal(
        "inspect", str(next(Path(shards).glob("*.arrow"))), "--model", model
    )
    other = str(repository / "fixtures" / "tiny-spm")
    assert "expected the tokenizer that these shards were made with" in refusal("inspect", shards, "--model", other)
    assert "--turns: expected only with a FILE" in refusal("inspect", shards, "--turns", "split")
    assert "--line: expected only with SHARDS" in refusal("inspect", source, "--model", model, "--line", "a:1")
    assert "expected one of ROW, --rows and --line" in refusal("inspect", shards, "1", "--rows", "0:2")
    for wrong in ("x", "3:3", "-1:2", "1:2:3", "", "²"):
        assert "expected a number or a range" in refusal("inspect", shards, "--rows", wrong)
    for wrong in ("x", ":3", "a.jsonl:", "a.jsonl:x", "a.jsonl:²"):
        assert "expected SOURCE:LINE" in refusal("inspect", shards, "--line", wrong)


def test_shards_whose_model_has_moved(shards: str, tmp_path: Path, model: str) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["notes"]["model"] = str(tmp_path / "gone")
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "(--model says where these shards' model is now)" in refusal("inspect", str(folder))
    assert invoke("inspect", str(folder), "--model", model).exit_code == 0
    manifest["notes"]["model"] = ""
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert "expected the folder or hub id" in refusal("inspect", str(folder))


# -- the page


class Page(HTMLParser):
    """Elements in order; fails on an element that is closed wrongly, or never."""

    VOID = ("meta", "link", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len({name for name, _ in attrs})
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        place = self.open[-1] if self.open else ""
        self.texts[place] = self.texts.get(place, "") + data


def assert_self_contained(text: str) -> Page:
    """Nothing is fetched, no handler hides in an attribute, nothing of the data is markup."""
    page = Page(text)
    assert (
        re.findall(r"(?:https?:)?//[a-z0-9]", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL), re.IGNORECASE)
        == []
    )
    assert "url(" not in text
    assert "@import" not in text
    for tag, attributes in page.elements:
        assert tag not in {"img", "iframe", "object", "embed", "base", "form"}
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "action")]
        assert attributes.get("href", "data:,") == "data:,"
    assert "alert(1)" not in page.texts.get("textarea", "") + page.texts.get("style", "")
    controls = set(text) - {"\n"}
    assert not [c for c in controls if not c.isprintable() and c != "\u200d"], "controls are shown, not sent"
    return page


def test_the_page_is_well_formed_and_fetches_nothing(shards: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    done = invoke("inspect", shards, "--html", str(path))
    assert done.exit_code == 0, done.output
    assert done.output == f"{path}: 4 rows, {path.stat().st_size:,} bytes\n"
    page = assert_self_contained(path.read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.elements].count("article") == 4
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert len(scripts) == 2
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    code = path.read_text(encoding="utf-8").rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_page_holds_every_token_of_the_view(shards: str, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    invoke("inspect", shards, "--rows", "0:4", "--html", str(path))
    text = path.read_text(encoding="utf-8")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    views = shard_views(shards, range(4)).views
    assert [row["ids"] for row in data["rows"]] == [[t.id for t in view.tokens] for view in views]
    assert [row["weights"] for row in data["rows"]] == [[t.weight for t in view.tokens] for view in views]
    for view in views:
        for token in view.tokens:
            assert data["vocabulary"][str(token.id)] == [token.bytes.hex(), token.text]
    articles = re.findall(r"<article.*?</article>", text, re.DOTALL)
    for article, view in zip(articles, views, strict=True):
        classes = re.findall(r'<span class="(t(?: [^"]*)?)" tabindex="-1">', article)
        assert len(classes) == len(view.tokens)
        assert [" y" in names for names in classes] == [token.trained for token in view.tokens]
        assert [" neg" in names for names in classes] == [(token.weight or 0) < 0 for token in view.tokens]


def test_a_page_replaces_pages_only(shards: str, tmp_path: Path) -> None:
    page, other = tmp_path / "page.html", tmp_path / "data.jsonl"
    other.write_text("precious", encoding="utf-8")
    assert "expected a new file or a page of ours" in refusal("inspect", shards, "--html", str(other))
    assert other.read_text(encoding="utf-8") == "precious"
    assert "got a folder" in refusal("inspect", shards, "--html", str(tmp_path))
    for _ in range(2):
        assert invoke("inspect", shards, "--html", str(page)).exit_code == 0


def test_a_page_of_too_many_tokens_is_refused(shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_PAGE_TOKENS >= 100_000
    monkeypatch.setattr("datasets_io.inspect_page.MAX_PAGE_TOKENS", 10)
    assert "expected at most 10 tokens in a page" in refusal("inspect", shards, "--html", str(tmp_path / "a.html"))


# Does what a person would, and leaves what it saw in the title.
DRIVER = """
const seen = {}, by = (id) => document.getElementById(id);
const shown = () => [...document.querySelectorAll(".tokens .t")].filter((t) => t.getClientRects().length);
const articles = () => [...document.querySelectorAll("article")].map((a) => a.hidden);
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
seen.first = articles();
seen.all = shown().length;
by("only").click();
seen.only = shown().length;
seen.onlyTrained = shown().every((t) => t.classList.contains("y"));
by("only").click();
press("ArrowRight"); press("ArrowRight");
seen.card = by("card").innerText;
by("next").click();
seen.second = articles();
by("query").value = "🦊!"; by("find").click();
seen.found = by("found").textContent;
seen.hit = document.querySelectorAll(".hit").length;
seen.third = articles();
document.title = "SEEN" + JSON.stringify(seen);
"""


def test_the_page_works_in_a_browser(shards: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here to open the page with")
    path = tmp_path / "page.html"
    invoke("inspect", shards, "--html", str(path))
    digest = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    text = path.read_text(encoding="utf-8")
    # The policy stays, and lets the driver in by its hash: that the page's own script runs under it is the point.
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    path.write_text(text.replace("</body>", f"<script>{DRIVER}</script></body>"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    done = subprocess.run(
        [browser, *flags, "--window-size=1200,900", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    match = re.search(r"<title>SEEN(.*?)</title>", done.stdout)
    assert match, done.stderr[-2000:]
    seen = json.loads(match[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    view = shard_views(shards).views[0]
    assert seen["first"] == [False, True, True, True]
    assert seen["second"] == [True, False, True, True]
    assert seen["third"] == [False, True, True, True], "the search goes to the example that has it"
    assert seen["all"] == len(view.tokens)
    assert seen["only"] == view.num_trained
    assert seen["onlyTrained"] is True
    assert str(view.tokens[1].id) in seen["card"]
    assert view.tokens[2].text in seen["card"]
    assert seen["found"] == "1 of 1"
    fox = next(token.run for token in view.tokens if token.run_text == "🦊")
    assert seen["hit"] == sum(token.run == fox for token in view.tokens) + 1
