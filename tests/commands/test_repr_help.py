"""What ``cbkernels repr compare --help`` says is what the command does."""

from __future__ import annotations

import pytest

from cbkernels.command_line import main
from cbkernels.commands.repr import DEFAULTS


def test_help_shows_its_own_defaults_and_no_option_that_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    """It showed those of ``train``: 50 layers, 120 epochs."""
    with pytest.raises(SystemExit):
        main(["repr", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("usage: cbkernels repr compare [options]")
    for option, default in DEFAULTS.items():
        (of_option,) = [part for part in said.split(" --")[1:] if part.startswith((f"{option} N", f"{option} {{"))]
        assert f"(default {default})" in of_option
    for refused in ("--repr,", "--no-repr ", "--repr-criterion"):
        assert refused not in said
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "--repr-criterion" in capsys.readouterr().out
