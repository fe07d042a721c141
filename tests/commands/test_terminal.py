"""Names in files are foreign words: a terminal gets no escape, no newline and nothing of theirs that reorders text."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import cbkernels as cb
from cbkernels.command_line import main
from cbkernels.commands import info
from cbkernels.commands.progress import Progress
from cbkernels.tables import format_table, shown, wrapped

NASTY = "conv\x1b[2J\n\u202e\x07\udc80\x9b1"
SPELT = r"conv\x1b[2J\n\u202e\x07\udc80\x9b1"


def is_clean(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("acts.npz", **{NASTY.replace("\udc80", ""): np.zeros((4, 2)), "plain": np.ones((4, 2)), "\x1b]0;x": [1]})
    np.save("labels.npy", np.arange(4))
    return tmp_path


def test_names_are_spelt_out() -> None:
    assert shown(NASTY) == SPELT
    assert shown("größe 5 µm") == "größe 5 µm"
    assert format_table(["layer"], [[NASTY]]) == f"layer\n{SPELT}"
    assert SPELT in format_table(["layer", NASTY], [["a", 1]])
    assert wrapped(f"Removed: {NASTY}.") == f"Removed: {SPELT}."


def test_keys_of_a_file_and_names_of_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "acts.npz", "labels.npy", "--fail-above", "0"]) == 2
    assert main(["measure", "acts.npz:\x1b[2J\nnone", "labels.npy"]) == 1
    assert main(["measure", "\x1b[2J\nnone.npz", "labels.npy"]) == 1
    Path("a\x1b[1m\nb.npz").write_bytes(b"PK")
    assert main(["measure", "a\x1b[1m\nb.npz", "labels.npy"]) == 1
    with pytest.raises(SystemExit):
        main(["measure", "a", "b", "--\x1b[2J"])
    printed = capsys.readouterr()
    assert is_clean(printed.out), printed.out
    assert is_clean(printed.err), printed.err
    assert r"conv\x1b[2J\n\u202e\x07\x9b1" in printed.out
    assert r"\x1b[2J\nnone.npz: No such file" in printed.err
    assert printed.err.count("cbkernels: error: ") == 4


def test_layers_of_a_report() -> None:
    result = cb.bundle_entropy(np.zeros((2, 1)), [0, 1])
    report = cb.LayerReport({NASTY: result}, step=0, skipped={NASTY + "2": NASTY}, notes=[NASTY], model=NASTY)
    assert is_clean(str(report)), str(report)
    assert str(report).count(SPELT) >= 3
    assert is_clean(repr(report))
    step = cb.PruneLog("margin", "one", 0.1, None, 2, reason=NASTY)
    assert is_clean(str(step))


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal in (True, False):
        stream = io.StringIO()
        stream.isatty = lambda is_terminal=is_terminal: is_terminal  # type: ignore[method-assign, misc]
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress(log=True) as progress:
            progress.show(f"{NASTY}: 5 %")
            progress.epoch(NASTY, 1, 2)
        assert "\x1b[2J" not in stream.getvalue()
        assert SPELT in stream.getvalue()


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_line_without_the_place_in_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = warnings.showwarning
    monkeypatch.setattr(info, "run", lambda arguments: warnings.warn(f"two\n  lines {NASTY}", stacklevel=1) or 0)  # type: ignore[func-returns-value]
    assert main(["info"]) == 0
    assert capsys.readouterr().err == f"cbkernels: warning: two lines {SPELT.replace(chr(92) + 'n', ' ')}\n"
    assert warnings.showwarning is before
