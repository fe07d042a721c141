"""Pages of the documentation that are files beside docs/: README.md as its first page, CONTRIBUTING.md, CHANGELOG.md.

What they link to inside of docs/ is a page too; of other files there is only the name, since the pages may be read
without a clone. The page of commands is what ``cbkernels COMMAND --help`` prints. Formulas, written as GitHub reads
them, become MathML, which browsers draw without a script.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COMMANDS = [
    "cbkernels",
    *(f"cbkernels {name}" for name in ["measure", "scan", "train", "autotune", "remove", "repr", "report"]),
    *(f"cbkernels {name}" for name in ["demo", "info", "completion"]),
]
FORMULA = re.compile(
    r"^ *```math\n(?P<block>.*?)^ *```$"
    r"|(?P<code>^ *```.*?^ *```$|(?<![`$])(?P<ticks>`+)[^`].*?(?<!`)(?P=ticks)(?![`$]))"
    r"|\$`(?P<ticked>.+?)`\$|\$(?P<inline>[^\s$`](?:[^$\n`]*[^\s$`])?)\$(?!\w)",
    re.MULTILINE | re.DOTALL,
)
LIST_BELOW_TABLE = re.compile(r"^( *\|.*\n)(?= *[*-] )", re.MULTILINE)
LEFT_OVER = re.compile(r"<t[dh][^>]*>[*-] [^<\n]*|\$[^<\n]*")
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
    return f"]({PAGES[path]}{anchor})" if path in PAGES else "]"


def on_page_markdown(markdown: str, **_: object) -> str:
    """Blocks of output with a title that says where it is from; what the commands say of themselves; formulas."""
    markdown = re.sub(r"^```text (printed by .*|machine)$", r'```text title="\1"', markdown, flags=re.MULTILINE)
    markdown = LIST_BELOW_TABLE.sub(r"\1\n", FORMULA.sub(drawn, markdown))
    return re.sub("<!-- commands -->", lambda _: "\n\n".join(map(help_of, COMMANDS)), markdown)


def on_page_content(html: str, page: Page, **_: object) -> None:
    """A warning, which ends the build, where a formula or a list below a table is still source text."""
    for text in LEFT_OVER.findall(without_code(html)):
        get_plugin_logger("pages").warning("%s shows source text: %s", page.file.src_uri, text)


def without_code(html: str) -> str:
    """All that is not shown as code."""
    return re.sub(r"<(pre|code)\b.*?</\1>", "", html, flags=re.DOTALL)


def drawn(found: re.Match[str]) -> str:
    """A formula as MathML; code as it is."""
    if found["code"]:
        return found[0]
    if found["block"]:
        return f"<span>{convert(found['block'].strip(), display='block')}</span>\n"
    return f"<span>{convert(found['ticked'] or found['inline'])}</span>"


def help_of(command: str) -> str:
    """A command's help, as a section."""
    done = subprocess.run(
        [*command.split(), "--help"], cwd=ROOT, env={**os.environ, "COLUMNS": "100"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return f"## {command}\n\n```text\n{done.stdout.rstrip()}\n```"
