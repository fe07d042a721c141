"""What ``--help`` says of every command, and how messages name what was typed."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from cbkernels import installation
from cbkernels.command_line import main
from cbkernels.commands.training_command import REQUIRED
from cbkernels.page.run_page import pictures_folder
from cbkernels.training.policies import POLICIES

COMMANDS = ("", "info", "measure", "scan", "train", "autotune", "remove", "repr", "report", "demo", "completion")
NO_NOUN = re.compile(r"(of|as|at|by|with|without|in|also|from|for|see|where|to|too|inside|often|only|overlap)\b")
"""How a phrase begins that lacks what it speaks of."""


@pytest.fixture
def of_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """What a command says, every help on one line."""
    monkeypatch.setenv("COLUMNS", "9999")
    with pytest.raises(SystemExit) as stopped:
        main([*request.param.split(), "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("of_command", COMMANDS, indirect=True)
def test_every_help_and_every_choice_has_a_noun(of_command: str) -> None:
    helps = re.findall(r"^(?: {20,}|  +\S.*?\S {2,})(\S.*)$", of_command, re.MULTILINE)
    assert helps
    phrases = [phrase for said in helps for phrase in (said, *re.findall(r"(?:^|; )\w+: ([^;]+)", said))]
    assert [phrase for phrase in phrases if NO_NOUN.match(phrase)] == []
    assert "docs/" not in of_command  # who installed the package has no such folder


@pytest.mark.parametrize("of_command", COMMANDS, indirect=True)
def test_exit_code_2_is_explained_where_it_exists(of_command: str, request: pytest.FixtureRequest) -> None:
    said = of_command.partition("exit codes: ")[2]
    command = request.node.callspec.params["of_command"]
    assert ("2" in said.replace("143", "")) == (command == "measure")


@pytest.mark.parametrize("of_command", ["autotune", "demo"], indirect=True)
def test_the_help_itself_explains_the_policies(of_command: str) -> None:
    for policy in POLICIES.values():
        assert f"{policy.name}: {policy.does}" in of_command


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("train --image-size 0", "--image-size is 0;"),
        ("train --epochs 0", "--epochs is 0;"),
        ("train --batch-size 4000", "lower --batch-size"),
        ("train --warmup-epochs 200", "--warmup-epochs is 200.0; it must be less than the 120 epochs"),
        ("remove no --max-drop 3", "--max-drop is 3.0;"),
        ("repr compare --repr-share 2", "--repr-share is 2.0;"),
        ("measure x.npy y.npy --log-epsilon -1", "--log-epsilon is -1.0;"),
        ("measure x.npy y.npy --learning-rate 0 --batch-size 1 --weight-amplitude 1", "--learning-rate is 0.0;"),
        ("measure x.npy y.npy --learning-rate 1 --batch-size 1 --weight-amplitude 1 --grid-dtype a", "--grid-dtype is"),
        ("train --dataset batch_size/image_size.npz", "--dataset is 'batch_size/image_size.npz', which is no file"),
    ],
)  # fmt: skip
def test_messages_name_options_as_they_are_typed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, said: str
) -> None:
    if not typed.startswith("measure"):
        for package in REQUIRED:
            pytest.importorskip(package, reason=f"trainings: NOT TESTED HERE (need {package})")
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros((4, 2)))
    np.save("y.npy", np.arange(4))
    assert main(typed.split()) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("train --lr 0.1", "--lr 0.1 (the nearest option is --learning-rate); see cbkernels train --help"),
        ("autotune --bs=3", "--bs=3 (the nearest option is --batch-size); see cbkernels autotune --help"),
        ("scan a:b --wieghts x", "--wieghts x (the nearest option is --weights); see cbkernels scan --help"),
        ("report a b --zzz", "arguments: --zzz; see cbkernels report --help"),
        ("repr", "required: {compare}; see cbkernels repr --help"),
        ("completion", "required: {bash,zsh,fish}; see cbkernels completion --help"),
    ],
)
def test_wrong_usage_names_the_help_to_read_and_the_nearest_option(
    capsys: pytest.CaptureFixture[str], typed: str, said: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(typed.split())
    assert stopped.value.code == 1
    assert f"{said}\n" in capsys.readouterr().err


@pytest.mark.parametrize("of_command", ["report"], indirect=True)
def test_the_help_of_report_says_where_pictures_go(of_command: str) -> None:
    assert pictures_folder("both.html").name == "both_files"
    assert "(default beside the page, with _files in place of .html)" in of_command


def test_info_says_what_lacks_a_package_and_how_it_is_installed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "_installed", lambda name: None if name in ("torch", "jinja2") else "1")
    assert main(["info"]) == 0
    lines = [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()]
    told = {line[0]: line[1] for line in lines}
    assert told["torch"] == "not installed"
    assert told["LayerMonitor, surgery, pruning, scan"] == "missing torch, of the extra train"
    assert told["pages and pictures"] == "missing jinja2, of the extra plot"
    assert told["data sets of Hugging Face"] == "ready"
    assert told["what is missing"].startswith("pip install '.[train,plot]' in the source folder; where an nvcc is ")
    declared = metadata.requires("cbkernels") or []
    for extra, packages in installation.FEATURES.values():
        listed = {re.split(r"[^\w-]", line)[0] for line in declared if f'"{extra}"' in line.replace("'", '"')}
        assert set(packages) <= listed
