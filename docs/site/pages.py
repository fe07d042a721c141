"""Pages of the documentation that are files beside docs/: README.md as its first page, CONTRIBUTING.md, CHANGELOG.md.

What they link to inside of docs/ is a page too; of other files there is only the name, since the pages may be read
without a clone. The page of commands is what ``cbkernels COMMAND --help`` prints.
"""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COMMANDS = [
    "cbkernels",
    *(f"cbkernels {name}" for name in ["measure", "scan", "train", "autotune", "remove", "repr", "report"]),
    *(f"cbkernels {name}" for name in ["demo", "info", "completion"]),
]
LIST_BELOW_TABLE = re.compile(r"^( *\|.*\n)(?= *[*-] )", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=LINK.sub(page_of, text)))
    return files


def page_of(link: re.Match[str]) -> str:
    """The same link, from a page in docs/."""
    path, anchor = link[1], link[2] or ""
    if path.startswith("docs/"):
        return f"]({path.removeprefix('docs/')}{anchor})"
    if path.startswith("examples/"):
        return link[0]
    return f"]({PAGES[path]}{anchor})" if path in PAGES else "]"


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Blocks of output with a title that says where it is from; what the commands say of themselves.

    A page that is alone under its tab has room for its code: no column lists it and nothing else.
    """
    if page.parent is None:
        page.meta["hide"] = ["navigation"]
    markdown = re.sub(r"^```text (printed by .*|machine)$", r'```text title="\1"', markdown, flags=re.MULTILINE)
    markdown = LIST_BELOW_TABLE.sub(r"\1\n", markdown)  # as on GitHub; here it would be rows of the table
    return re.sub("<!-- commands -->", lambda _: "\n\n".join(map(help_of, COMMANDS)), markdown)


def help_of(command: str) -> str:
    """A command's help, as a section."""
    done = subprocess.run(
        [*command.split(), "--help"], cwd=ROOT, env={**os.environ, "COLUMNS": "100"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    lines = [wrapped(line) for line in done.stdout.rstrip().splitlines()]
    return "\n".join([f"## {command}\n\n```text", *lines, "```"])


def wrapped(line: str) -> str:
    """As a terminal of 100 columns shows it."""
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(line, 98, subsequent_indent=indent, break_on_hyphens=False)
