"""Formulas in TeX become MathML, which browsers draw by themselves: no script, no font and no network is needed."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

FORMULA = re.compile(
    r"^```math\n(?P<block>.*?)\n```$|\$`(?P<quoted>[^`]+)`\$|\$(?P<plain>[^\s$`][^$`\n]*)\$"
    r"|^(?P<fence>`{3,}).*?^(?P=fence)$|`[^`\n]+`",  # code, in which a dollar is a dollar
    re.MULTILINE | re.DOTALL,
)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Those of a page."""
    return FORMULA.sub(drawn, markdown)


def drawn(found: re.Match[str]) -> str:
    """A formula as MathML; code as it is."""
    if found["block"]:
        return f"<div>{convert(found['block'], display='block')}</div>"
    tex = found["quoted"] or found["plain"]
    return f"<span>{convert(tex)}</span>" if tex else found[0]
