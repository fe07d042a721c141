"""Completion in a shell: by argcomplete, which asks the parser itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cbkernels.command_line import main
from cbkernels.commands.completion import SHELLS


def completed(line: str, folder: Path) -> list[str]:
    """What a shell would offer behind ``line``."""
    answer = folder / "answer"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n",
             "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}  # fmt: skip
    command = [sys.executable, "-m", "cbkernels"]
    subprocess.run(command, env={**os.environ, **asked}, check=True, timeout=60, stdout=subprocess.DEVNULL)
    return sorted(answer.read_text(encoding="utf-8").split())


def test_commands_options_and_names_are_completed(tmp_path: Path) -> None:
    pytest.importorskip("argcomplete", reason="completion: NOT TESTED HERE (pip install '.[completion]')")
    assert completed("cbkernels re", tmp_path) == ["remove", "report", "repr"]
    assert completed("cbkernels train --warm", tmp_path) == ["--warmup-epochs"]
    assert completed("cbkernels train --optimizer a", tmp_path) == ["adamw"]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_its_code(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("argcomplete", reason="completion: NOT TESTED HERE (pip install '.[completion]')")
    assert main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "_ARGCOMPLETE" in code
    assert "cbkernels" in code


def test_without_argcomplete_there_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert main(["completion", "bash"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("cbkernels: error: completion needs argcomplete: pip install argcomplete")
