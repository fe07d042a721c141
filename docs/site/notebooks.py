"""The notebooks of examples/ as pages, with what they kept of their last run (`make notebooks`); nothing is run here.

Tables are the HTML that a notebook shows; pictures become files beside the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
KEPT = """{% extends 'markdown/index.md.j2' %}
{% macro printed(text) %}

```text title="printed by this cell"
{{ text.rstrip() }}
```

{% endmacro %}
{% block stream %}{{ printed(output.text) }}{% endblock %}
{% block data_text %}{{ printed(output.data['text/plain']) }}{% endblock %}
{% block data_png %}![drawn by this cell]({{ output.metadata.filenames['image/png'] }}){% endblock %}
"""
LINK = re.compile(r"\]\((?:\.\./)*(?:examples/)?(\w+)\.ipynb\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them."""
    exporter = MarkdownExporter(raw_template=KEPT)
    for notebook in sorted(EXAMPLES.glob("*.ipynb")):
        body, resources = exporter.from_filename(str(notebook), {"unique_key": notebook.stem})
        title, _, rest = body.strip().partition("\n")
        note = f"*The notebook `examples/{notebook.name}` of a clone, with what it printed and drew when it was run.*"
        files.append(File.generated(config, f"examples/{notebook.stem}.md", content=f"{title}\n\n{note}\n{rest}"))
        for name, picture in resources["outputs"].items():
            files.append(File.generated(config, f"examples/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links to a notebook lead to its page."""
    folder = "" if page.file.src_uri.startswith("examples/") else "examples/"
    return LINK.sub(rf"]({folder}\1.md)", markdown)
