"""Chromium without a window, for tests of pages: what it prints, what its console says, and a look into a page."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="the page in a browser: NOT TESTED HERE (no Chromium on PATH)")


def chromium(tmp_path: Path, page: Path, *options: str) -> tuple[str, list[str]]:
    """What Chromium prints, and the lines of its console."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
               "--enable-logging=stderr",
               f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def looked(
    tmp_path: Path,
    page: Path,
    look: str,
    *,
    widths: tuple[int, ...] = (1280,),
    is_dark: bool = False,
    sandbox: str = "",
) -> tuple[list[Any], list[str]]:
    """What a function ``look(frame)`` in JavaScript returns of the unchanged page in frames of these widths.

    Returns:
        A JSON value for every frame, and the lines of the console.
    """
    source = html.escape(page.read_text(encoding="utf-8"), quote=True)
    frames = "".join(f'<iframe srcdoc="{source}" width="{w}" height="900" {sandbox}></iframe>' for w in widths)
    script = f"""{look}
onload = () => {{
  const seen = [...document.querySelectorAll('iframe')].map(look), pre = document.createElement('pre');
  pre.textContent = JSON.stringify(seen);
  document.body.replaceChildren(pre);
}};"""
    outside = tmp_path / "outside.html"
    style = ":root{color-scheme:light dark} iframe{border:0;color-scheme:light dark}"
    outside.write_text(f"<!DOCTYPE html><meta charset=utf-8><style>{style}</style>"
                       f"<body>{frames}<script>{script}</script>", encoding="utf-8")  # fmt: skip
    dark = ["--blink-settings=preferredColorScheme=0"] if is_dark else []
    dumped, console = chromium(tmp_path, outside, f"--window-size={max(widths) + 60},1000", "--dump-dom", *dark)
    assert "<pre>" in dumped, console
    return json.loads(html.unescape(dumped[dumped.index("<pre>") + 5 : dumped.index("</pre>")])), console
