"""stdout and stderr that are closed, full, gone, narrow or of another encoding: a command ends as it would have."""

from __future__ import annotations

import io
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cbkernels.command_line import main
from cbkernels.commands.output import Output
from cbkernels.commands.progress import Progress

from ..all_of import all_of

COMMANDS: dict[str, list[str]] = {
    "info": [], "measure": ["acts.npy", "labels.npy"], "train": [], "autotune": [], "remove": ["run"],
    "repr": ["compare"], "report": ["run"], "demo": [],
}  # fmt: skip
"""Every command, with what it cannot do without."""
FULL = Path("/dev/full")


class WriteOnly:
    """All that a stream must have."""

    def write(self, text: str) -> int:
        return len(text)


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def of_nobody() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


STREAMS: dict[str, Callable[[], Any]] = {
    "none": lambda: None, "closed": closed, "no reader": of_nobody, "write only": WriteOnly,
    "ascii": lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"), "full": lambda: FULL.open("w"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_stream_changes_how_a_command_ends(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: Any) -> int:
        with Progress(log=True) as progress:
            progress.show("odd \udcff name")
        print("odd \udcff name" * 1000)
        if outcome == 1:
            raise ValueError("odd \udcff name")
        return outcome

    monkeypatch.setattr(f"cbkernels.commands.{command}.run", run)
    with all_of("streams") as case:
        for name, outcome in itertools.product(STREAMS, (1, 2)):
            if name == "full" and not FULL.exists():
                continue
            with case(name, outcome), monkeypatch.context() as patched:
                out, errors = STREAMS[name](), STREAMS[name]()
                patched.setattr(sys, "stdout", out)
                patched.setattr(sys, "stderr", errors)
                assert main([command, *COMMANDS[command]]) == outcome
                for stream in (out, errors):
                    getattr(stream, "close", str)()


def test_names_that_an_encoding_lacks_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbkernels.commands.info.run", lambda arguments: print("odd\udcff é") or 0)
    with all_of("encodings") as case:
        for encoding, shown in {"ascii": rb"odd\udcff \xe9", "utf-8": rb"odd\udcff " + "é".encode()}.items():
            with case(encoding):
                stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
                monkeypatch.setattr(sys, "stdout", stream)
                assert main(["info"]) == 0
                assert stream.buffer.getvalue() == shown + b"\n"  # type: ignore[attr-defined]


@pytest.mark.skipif(not FULL.exists(), reason="streams of a process: NOT TESTED HERE (no /dev/full)")
def test_a_process_keeps_its_exit_code_whatever_its_streams_are(tmp_path: Path) -> None:
    """The guard of ``--fail-above`` is never lost, and what is lost is said where it can be."""
    np.save(tmp_path / "acts.npy", np.zeros((4, 3)))
    np.save(tmp_path / "labels.npy", np.arange(4) % 2)
    command = f"{sys.executable} -m cbkernels measure acts.npy labels.npy --fail-above 0"
    full = "cbkernels: stdout: No space left on device; what was printed is not whole\n"
    above = "cbkernels: 1 layer is above 0 nats: 'acts' (0.693147)\n"
    with all_of("ways to end") as case:
        for streams, said in {
            ">&-": above, "2>&- >/dev/null": "", ">&- 2>&-": "", ">/dev/full": above + full, ">/dev/full 2>&1": "",
        }.items():  # fmt: skip
            with case(streams):
                done = subprocess.run(["bash", "-c", f"{command} {streams}"], cwd=tmp_path, capture_output=True,
                                      text=True, timeout=120, check=False)  # fmt: skip
                assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


class Pieces(io.StringIO):
    """Remembers what was written at once, as a pipe would hand it on."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


def test_a_line_on_stderr_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the lines of several ranks, which share the stream, end up in each other."""
    monkeypatch.setattr(sys, "stderr", stream := Pieces())
    assert main(["measure", "nothing.npy", "labels.npy"]) == 1
    assert main(["report", "nothing"]) == 1
    assert len(stream.pieces) == 2
    for piece in stream.pieces:
        assert re.fullmatch(r"cbkernels: error: .*\n", piece)


def test_what_has_no_end_of_line_is_written_by_a_flush() -> None:
    stream = Pieces()
    out = Output(stream, whole_lines=True)
    out.write("\repoch 1")
    assert stream.pieces == []
    out.flush()
    out.write(" of 2")
    out.close_down()
    assert stream.pieces == ["\repoch 1", " of 2"]


def test_help_fits_into_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    with all_of("commands") as case:
        for command in COMMANDS:
            with case(command), pytest.raises(SystemExit, match="0"):
                main([command, "--help"])
    assert "Traceback" not in capsys.readouterr().err


def test_progress_stays_on_one_line_of_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress(log=False) as progress:
        progress.show("layer conv1: 12 % of 4000000 rows")
        progress.show("done")
    assert max(map(len, re.split("[\r\n]", terminal.getvalue()))) < 20
    assert "\rlayer conv1: 12 %" in terminal.getvalue()
