"""What the documents and docstrings show works: code runs, commands exist, links lead somewhere.

A block fenced ``python`` is run, all blocks of a document in one namespace, in an empty folder; ``pycon`` is
run as a doctest. A line ``<!-- not run: reason -->`` before a block leaves it out.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib
import importlib.metadata
import inspect
import io
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import cbkernels

from .test_codebase import public_names

ROOT = Path(__file__).resolve().parents[2]
IN_SOURCE_TREE = (ROOT / "pyproject.toml").is_file() and (ROOT / "README.md").is_file()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], key=lambda p: p.as_posix()) if IN_SOURCE_TREE else []
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(cbkernels.__path__, "cbkernels.")
    if not m.name.endswith(("__main__", "._core"))
)
EXTRAS = {
    "torch", "matplotlib", "safetensors", "tqdm", "sklearn", "ml_dtypes", "torchmetrics", "lightning", "transformers",
    "accelerate", "tensorboard", "pandas", "jinja2", "datasets", "pyarrow", "PIL",
}  # fmt: skip
TRAINS_LONG = ("tutorial.md",)
ALSO_NEEDED = {"cbkernels.integrations.tensorboard": "matplotlib"}
"""Modules whose examples need a package without importing it."""


class Block(NamedTuple):
    language: str
    text: str
    line: int
    """Of the first line of code, counted from 1."""
    not_run: str | None
    words: str
    """All of the fence's opening line, the language included."""


def blocks_of(document: Path) -> list[Block]:
    found: list[Block] = []
    fence: str | None = None
    language, words, start, not_run = "", "", 0, None
    body: list[str] = []
    last_text = ""
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if fence is None:
            opening = re.match(r"\s*(`{3,}|~{3,})\s*(([\w+-]*).*)", line)
            if opening:
                fence, words, language, start, body = opening[1], opening[2], opening[3], number + 1, []
                excuse = re.fullmatch(r"\s*<!--\s*not run:\s*(.+?)\s*-->\s*", last_text)
                not_run = excuse[1] if excuse else None
            elif line.strip():
                last_text = line
        elif line.strip().startswith(fence):
            found.append(Block(language, "\n".join(body) + "\n", start, not_run, words))
            fence, last_text = None, ""
        else:
            body.append(line)
    assert fence is None, f"{document.name}: the block at line {start} is never closed"
    return found


def document_ids(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def need_source_tree() -> None:
    if not IN_SOURCE_TREE:
        pytest.skip("documents: NOT TESTED HERE (no source tree around tests/)")


def test_there_are_documents() -> None:
    need_source_tree()
    assert [b for b in blocks_of(ROOT / "README.md") if b.language == "python"], "README.md shows no code"


# --- code -----------------------------------------------------------------------------------------


# of the Lightning example: Lightning 2.6 uses what torch 2.13 calls deprecated, and advises on workers
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers:UserWarning")
@pytest.mark.parametrize(
    "document",
    [pytest.param(document, marks=[pytest.mark.slow] * (document.name in TRAINS_LONG)) for document in DOCUMENTS],
    ids=document_ids,
)
def test_code_runs(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(document)
    runnable = [b for b in blocks if b.language in ("python", "py", "pycon") and b.not_run is None]
    if not runnable:
        return
    for package in EXTRAS:
        if any(re.search(rf"^\s*(import|from) {package}\b", b.text, re.MULTILINE) for b in runnable):
            pytest.importorskip(package, reason=f"{document.name}: NOT TESTED HERE (needs {package})")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace: dict[str, object] = {"__name__": "__document__"}
    for block in runnable:
        if block.language == "pycon":
            run_doctest(block, document, namespace)
        else:
            # empty lines in front, so that a traceback names the document's own line
            code = compile("\n" * (block.line - 1) + block.text, str(document), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                exec(code, namespace)
            shown_behind(blocks, block, stdout.getvalue(), document)


def shown_behind(blocks: list[Block], block: Block, stdout: str, document: Path) -> None:
    """What a document says its code printed: all of it, or of a training its first line without figures and spaces."""
    shown = next(iter(blocks[blocks.index(block) + 1 :]), None)
    printed = "".join(f"{line.rstrip()}\n" for line in stdout.splitlines())
    if shown is None or not shown.words.startswith("text printed by this block"):
        return
    if shown.words == "text printed by this block on every machine":
        assert printed == shown.text, f"{document.name}:{shown.line} shows something else"
    else:
        first, shown_first = (
            re.sub(r"\[.*\]|-?[\d.]+| +", "#", text.partition("\n")[0]) for text in (printed, shown.text)
        )
        assert first == shown_first, f"{document.name}:{shown.line} shows something else"


def run_doctest(block: Block, document: Path, namespace: dict[str, object]) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    example = doctest.DocTestParser().get_doctest(block.text, namespace, document.name, str(document), block.line - 1)
    assert example.examples, f"{document.name}:{block.line}: a pycon block without >>>"
    report: list[str] = []
    results = doctest.DocTestRunner(optionflags=flags).run(example, out=report.append, clear_globs=False)
    namespace.update(example.globs)
    assert results.failed == 0, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in EXTRAS:
            raise
        pytest.skip(f"{name}: NOT TESTED HERE (needs {error.name})")
    for package in EXTRAS:  # modules that import without it but show how they are used with it
        imported = re.search(rf">>> (import|from) (.*, )?{package}\b", inspect.getsource(module))
        if imported or ALSO_NEEDED.get(name) == package:
            pytest.importorskip(package, reason=f"{name}: NOT TESTED HERE (needs {package})")
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0, f"{results.failed} of {results.attempted} examples; see the output"


def test_public_functions_show_an_example() -> None:
    without = [
        name
        for name, thing in public_names().items()
        if callable(thing)
        and name != "BundleResult"  # what the others return
        and ">>> " not in (thing.__doc__ or "")
    ]
    assert without == []


# --- what one run printed ---------------------------------------------------------------------------


def module_of_documents(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("torch", reason="bench.document_outputs: NOT TESTED HERE (no torch)")
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.document_outputs")


def test_outputs_and_pictures_are_written_by_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_source_tree()
    document_outputs = module_of_documents(monkeypatch)
    document = tmp_path / "lesson.md"
    python = "```python\nprint(6 * 7, ' ')\n{more}```\n"
    (tmp_path / "lesson-plot.png").write_bytes(b"old")
    (tmp_path / "plot.png").write_bytes(b"not in the document")
    pattern = (
        "# 42 is right\n"
        + python.format(more="from pathlib import Path\nPath('plot.png').write_text('new')\nnumber = 5\n")
        + "![a plot](lesson-plot.png)\n```text printed by this block\n{first}```\n```python\nprint(number)\n```\n"
        "<!-- not run: it fails -->\n```python\nraise ValueError\n```\n```text printed by this block\n{second}```\n"
        "```text\n41\n```\n```text printed by cbkernels --version\n{third}```\n```text machine\n{fourth}```\nThe end.\n"
    )
    document.write_text(pattern.format(first="41\n", second="", third="", fourth="a 486\n"))
    (tmp_path / "run").mkdir()
    document_outputs.write(document, tmp_path / "run")
    machine = document_outputs.where()
    assert cbkernels.__version__ in machine
    expected = {"first": "42\n", "second": "5\n", "third": f"cbkernels {cbkernels.__version__}\n", "fourth": machine}
    assert document.read_text() == pattern.format(**expected)
    assert (tmp_path / "lesson-plot.png").read_bytes() == b"new"
    assert (tmp_path / "plot.png").read_bytes() == b"not in the document"


def test_a_document_whose_code_fails_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need_source_tree()
    document_outputs = module_of_documents(monkeypatch)
    text = "```python\nprint(1)\n```\n```text printed by this block\n2\n```\n```python\nraise ValueError\n```\n"
    (tmp_path / "lesson.md").write_text(text)
    before = Path.cwd()
    with pytest.raises(ValueError, match=r"^$"):
        document_outputs.write(tmp_path / "lesson.md", tmp_path)
    assert (tmp_path / "lesson.md").read_text() == text
    assert Path.cwd() == before


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_ids)
def test_figures_of_a_run_stand_in_what_it_printed(document: Path) -> None:
    """Prose beside the output of a training says what holds on every machine: no accuracy that one of them reached."""
    text = document.read_text(encoding="utf-8")
    if "```text machine" not in text:
        assert "```text printed by" not in text, "the document does not say where its outputs are from"
        return
    shown = re.findall(r"^```text (?:printed by [^\n]+|machine)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert all(shown), "python -m bench.document_outputs has not been run"
    prose = re.sub(r"^```.*?^```$|`[^`]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"\d[\d.]*\s?%", prose) == []


# --- commands -------------------------------------------------------------------------------------


def commands_of(document: Path) -> list[tuple[int, list[str]]]:
    """(line, words) of every command shown: in shell blocks, in indented ones, and in `inline code`."""
    lines: list[tuple[int, str]] = []
    text = document.read_text(encoding="utf-8")
    fenced = set()
    for block in blocks_of(document):
        count = block.text.count("\n")
        fenced |= set(range(block.line - 1, block.line + count + 1))
        if block.language in ("sh", "bash", "shell", "console"):
            joined = block.text.replace("\\\n", " ")
            prompts = any(line.startswith("$ ") for line in joined.splitlines())
            for offset, line in enumerate(joined.splitlines()):
                if not prompts or line.startswith("$ "):  # with prompts, other lines are output
                    lines.append((block.line + offset, line.removeprefix("$ ")))
    for number, line in enumerate(text.splitlines(), 1):
        if number not in fenced:
            lines += [(number, code) for code in re.findall(r"`([^`]+)`", line)]
            if re.match(r" {4}(\$ )?(make|cbkernels|python) ", line):
                lines.append((number, line.strip().removeprefix("$ ")))
    found = []
    for number, line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # prose in backticks
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            del words[0]
        # one command each: `a && b`, `a; b`, `a | b`
        command: list[str] = []
        for word in [*words, "&&"]:
            if word in ("&&", ";", "|", "||"):
                if command:
                    found.append((number, command))
                command = []
            elif word.endswith(";"):
                found.append((number, [*command, word[:-1]]))
                command = []
            else:
                command.append(word)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_ids)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for number, words in commands_of(document):
        if words[0] == "make":
            wanted = {w for w in words[1:] if re.fullmatch(r"[a-z][a-z-]*", w)}
            assert wanted <= targets, f"{document.name}:{number}: make {' '.join(sorted(wanted - targets))}"


def help_of(*command: str, known: dict[tuple[str, ...], str] = {}) -> str:  # noqa: B006  (a cache)
    if command not in known:
        done = subprocess.run(
            [sys.executable, "-m", "cbkernels", *command, "--help"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )
        known[command] = done.stdout if done.returncode == 0 else ""
    return known[command]


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_ids)
def test_cbkernels_commands_exist(document: Path) -> None:
    for number, words in commands_of(document):
        if words[:3] == ["python", "-m", "cbkernels"]:
            words = words[2:]
        if words[0] != "cbkernels" or len(words) == 1 or not re.fullmatch(r"[a-z]+", words[1]):
            continue
        where = f"{document.name}:{number}: {' '.join(words)}"
        page = help_of(words[1])
        assert page, f"{where}: no such command"
        for option in [w.partition("=")[0] for w in words[2:] if w.startswith("--")]:
            assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", page), f"{where}: no option {option}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_ids)
def test_extras_exist(document: Path) -> None:
    extras = set(importlib.metadata.metadata("cbkernels").get_all("Provides-Extra") or [])
    for shown in re.findall(r"(?:cbkernels|\.)\[([a-z,]+)\]", document.read_text(encoding="utf-8")):
        assert set(shown.split(",")) <= extras, f"{document.name}: [{shown}]"


# --- links ----------------------------------------------------------------------------------------


def anchors_of(document: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+?) *#*$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.replace("`", "").lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_ids)
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"<(?:img|a)[^>]+(?:src|href)=\"([^\"]+)\"", text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue  # the network is not asked
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors_of(file), f"{document.name}: {target}"
