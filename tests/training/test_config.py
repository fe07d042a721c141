"""Configs and their options: limits of every field, the way to JSON and back, and what reaches a run from the shell."""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from cbkernels import command_line
from cbkernels.commands.config_options import add_config_options, given_options
from cbkernels.commands.training_command import add_run_options, config_of
from cbkernels.training.config import AutotuneConfig, RemoveConfig, TrainConfig, choices_of, from_dict, to_dict
from cbkernels.training.networks.architecture import Architecture

from ..all_of import all_of

CONFIGS = (TrainConfig, AutotuneConfig, RemoveConfig)
LIMITS = ("least", "above", "most", "below")


def kind_of(field: Any) -> type:
    """What the values of a field are, worked out from its annotation rather than as the package does."""
    return {"int": int, "float": float, "str": str, "bool": bool, "tuple[int": int, "tuple[str": str}[
        field.type.replace(" | None", "").split(",")[0]
    ]


def is_list(field: Any) -> bool:
    return bool(field.type.startswith("tuple"))


def numbers_of(kind: Any) -> list[Any]:
    return [field for field in fields(kind) if kind_of(field) in (int, float)]


def others_of(kind: Any) -> list[Any]:
    return [field for field in fields(kind) if kind_of(field) not in (int, float)]


def for_all(fields_of_kind: Iterable[Any], kind: Any, check: Callable[[Any, Any], None]) -> None:
    with all_of("fields") as of_field:
        for field in fields_of_kind:
            with of_field(f"{kind.__name__}.{field.name}"):
                check(kind, field)


def another(field: Any) -> Any:
    """A legal value that is not the default."""
    if field.name == "blocks":
        return (1, 0, 2, 3)
    if "choices" in field.metadata:
        other = next(c for c in choices_of(field.metadata) if c != field.default)
        return (other,) if is_list(field) else other
    kind = kind_of(field)
    if kind is bool:
        return not field.default
    if kind is str:
        return "cpu" if field.name == "device" else "somewhere"
    return 7 if kind is int else 0.375


# --- limits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_defaults_are_legal_and_frozen(kind: Any) -> None:
    config = kind()
    with pytest.raises(AttributeError):
        config.seed = 1


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_says_what_it_is_and_has_limits_where_it_is_a_number(kind: Any) -> None:
    for_all(fields(kind), kind, check_every_field_says_what_it_is_and_has_limits_where_it_is_a_number)


def check_every_field_says_what_it_is_and_has_limits_where_it_is_a_number(kind: Any, field: Any) -> None:
    assert field.default is not MISSING
    assert field.metadata["help"]
    assert field.metadata["group"]
    if kind_of(field) in (int, float):
        assert set(LIMITS) & set(field.metadata), f"{field.name} may be any number"


def outside(field: Any) -> list[Any]:
    """The nearest numbers that a field must refuse."""
    rules, step = field.metadata, 1 if kind_of(field) is int else 1e-9
    refused = []
    if "least" in rules:
        refused += [rules["least"] - step, -(10**6)]
    if "above" in rules:
        refused += [rules["above"], -1.5]
    if "most" in rules:
        refused += [rules["most"] + step]
    if "below" in rules:
        refused += [rules["below"]]
    return refused


@pytest.mark.parametrize("kind", CONFIGS)
def test_numbers_out_of_range_are_refused_and_the_limits_are_not(kind: Any) -> None:
    for_all(numbers_of(kind), kind, check_numbers_out_of_range_are_refused_and_the_limits_are_not)


def check_numbers_out_of_range_are_refused_and_the_limits_are_not(kind: Any, field: Any) -> None:
    def made(value: Any) -> Any:
        return kind(**{field.name: (value, 1, 1, 1) if is_list(field) else value})

    for value in outside(field):
        with pytest.raises(ValueError, match=rf"{field.name} is {value!r}; it must be"):
            made(value)
    for rule, value in field.metadata.items():
        if rule in ("least", "most"):
            made(value)
    for wrong in ("7", {}, True):
        with pytest.raises(TypeError, match=f"^{field.name} is {wrong!r}; pass"):
            made(wrong)
    if kind_of(field) is float:
        for wrong in (math.nan, math.inf, -math.inf):
            with pytest.raises(ValueError, match=f"^{field.name} is {wrong!r}; it must be finite"):
                made(wrong)
    else:
        with pytest.raises(TypeError, match="pass a whole number"):
            made(3.0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_words_and_switches_of_another_type_are_refused(kind: Any) -> None:
    for_all(others_of(kind), kind, check_words_and_switches_of_another_type_are_refused)


def check_words_and_switches_of_another_type_are_refused(kind: Any, field: Any) -> None:
    with pytest.raises(TypeError, match=f"{field.name} is 3; pass"):
        kind(**{field.name: 3})
    if "choices" in field.metadata:
        unknown = ("purple",) if is_list(field) else "purple"
        first = choices_of(field.metadata)[0]
        with pytest.raises(ValueError, match=f"{field.name} is 'purple'; choose one of {first}"):
            kind(**{field.name: unknown})


def test_limits_of_the_papers_and_the_issue() -> None:
    """Written out by hand: a limit that is lost in the dataclass would be lost in the tests above too."""
    for name, value in {
        "validation_share": 1.0, "learning_rate": 0.0, "weight_decay": -1e-9, "momentum": 1.0, "lookahead_alpha": 1.1,
        "epochs": 0, "batch_size": 0, "depth": 0, "width": 0, "width_multiplier": 0.0, "probe_size": 1, "seed": -1,
        "train_size": 0, "image_size": 0, "threads": 0, "lookahead_steps": 0, "eps": 0.0, "model": "transformer",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} is {value!r}"):
            TrainConfig(**{name: value})  # type: ignore[arg-type]
    for name, value in {"check_epochs": 0, "min_conflicting_rows": 0, "max_rounds": 0, "policy": "none"}.items():
        with pytest.raises(ValueError, match=f"{name} is {value!r}"):
            AutotuneConfig(**{name: value})  # type: ignore[arg-type]
    for name, value in {"max_drop": 1.1, "draws": 0, "heal_epochs": -1, "rank": "first", "most": 0}.items():
        with pytest.raises(ValueError, match=f"{name} is {value!r}"):
            RemoveConfig(**{name: value})  # type: ignore[arg-type]


def test_threads_that_no_machine_has_are_refused_before_torch_starts_them() -> None:
    for kind in (TrainConfig, AutotuneConfig, RemoveConfig):
        with pytest.raises(ValueError, match=r"^threads is 1000000000; it must be at least 1 and at most 1024$"):
            kind(threads=10**9)


def test_blocks_are_four_stages_of_convolutions() -> None:
    with pytest.raises(ValueError, match=r"blocks is \[1, 2\]; vgg has 4 stages"):
        TrainConfig(model="vgg", blocks=(1, 2))
    with pytest.raises(TypeError, match="blocks is '3333'; pass a list"):
        TrainConfig(model="vgg", blocks="3333")  # type: ignore[arg-type]
    config = TrainConfig(model="vgg", blocks=[1, 0, 2, 1], width_multiplier=0.5)  # type: ignore[arg-type]
    assert config.architecture == Architecture((1, 0, 2, 1), "vgg", width_multiplier=0.5)
    assert TrainConfig(depth=7, width=3).architecture == Architecture((7,), "fnn", width=3)


def test_the_papers_are_the_defaults() -> None:
    config = TrainConfig()
    assert (config.learning_rate, config.eps, config.weight_decay, config.batch_size) == (1e-3, 1e-6, 1e-2, 64)
    assert (config.optimizer, config.lookahead_steps, config.lookahead_alpha, config.epochs) == ("radam", 6, 0.5, 120)
    assert (config.blocks, config.weights) == ((3, 12, 41, 3), "he")
    assert (AutotuneConfig().check_epochs, RemoveConfig().draws) == (10, 15)
    tuned = AutotuneConfig()
    assert (tuned.depth, tuned.width) == (50, 10), "too deep, which is where auto-tune starts"
    assert (config.depth, config.width) == (3, 64), "what train trains where nobody says can learn"


@pytest.mark.parametrize(("policy", "samples"), [("first", 512), ("all", 64), ("stage", 64)])
def test_probe_of_every_policy(policy: str, samples: int) -> None:
    assert AutotuneConfig(policy=policy).probe_size == samples
    assert AutotuneConfig(policy=policy, probe_size=100).probe_size == 100


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_survives_json(kind: Any) -> None:
    for_all(fields(kind), kind, check_every_field_survives_json)


def check_every_field_survives_json(kind: Any, field: Any) -> None:
    config = kind(**{field.name: another(field)})
    assert getattr(config, field.name) == another(field) != field.default
    again = from_dict(kind, json.loads(json.dumps(to_dict(config), allow_nan=False)))
    assert again == config
    assert to_dict(again) == to_dict(config)


@pytest.mark.parametrize("kind", CONFIGS)
def test_from_dict_fills_defaults_and_refuses_unknown_keys(kind: Any) -> None:
    assert from_dict(kind, {}) == kind()
    with pytest.raises(ValueError, match=f"'colour' is not an option of {kind.__name__}; it has .*seed"):
        from_dict(kind, {"colour": 1})
    with pytest.raises(TypeError, match="seed is None; pass a whole number"):
        from_dict(kind, {"seed": None})


# --- options --------------------------------------------------------------------------------------


def parser_of(kind: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_config_options(parser, kind)
    return parser


def written(field: Any) -> list[str]:
    """The option as it is typed, with ``another`` value."""
    flag, value = f"--{field.name.replace('_', '-')}", another(field)
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-")]
    return [flag, *map(str, value if is_list(field) else (value,))]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_is_an_option_whose_value_arrives(kind: Any) -> None:
    for_all(fields(kind), kind, check_every_field_is_an_option_whose_value_arrives)


def check_every_field_is_an_option_whose_value_arrives(kind: Any, field: Any) -> None:
    given = given_options(parser_of(kind).parse_args(written(field)), kind)
    assert set(given) == {field.name}, "what was not typed is not given"
    assert from_dict(kind, given) == kind(**{field.name: another(field)})


@pytest.mark.parametrize("kind", CONFIGS)
def test_nothing_given_is_nothing_and_help_names_every_default(kind: Any) -> None:
    parser = parser_of(kind)
    assert given_options(parser.parse_args([]), kind) == {}
    said = " ".join(parser.format_help().split())
    for field in fields(kind):
        assert f"--{field.name.replace('_', '-')}" in said
        if kind_of(field) in (int, float) and field.default is not None and not is_list(field):
            assert f"(default {field.default})" in said or "default" in field.metadata["help"], field.name


@pytest.mark.parametrize("kind", CONFIGS)
def test_switches_go_both_ways(kind: Any) -> None:
    switches = [f.name for f in fields(kind) if kind_of(f) is bool]
    assert switches
    for name in switches:
        flag = name.replace("_", "-")
        for text, value in ((f"--{flag}", True), (f"--no-{flag}", False)):
            assert given_options(parser_of(kind).parse_args([text]), kind) == {name: value}


def test_an_empty_list_can_be_given() -> None:
    given = given_options(parser_of(TrainConfig).parse_args(["--what-if"]), TrainConfig)
    assert from_dict(TrainConfig, given).what_if == ()


# --- --config and --resume ------------------------------------------------------------------------


def config_from(arguments: list[str], command: str = "train", kind: Any = TrainConfig) -> Any:
    parser = argparse.ArgumentParser()
    add_run_options(parser, kind, "runs/none")
    return config_of(parser.parse_args(arguments), command, kind)


def test_config_file_repeats_a_run_and_options_go_first(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    stored = TrainConfig(depth=7, learning_rate=0.125, what_if=("bfloat16",))
    file.write_text(json.dumps({"command": "train", "version": "0.0.1", **to_dict(stored)}))
    assert config_from(["--config", str(file)]) == stored
    changed = config_from(["--config", str(file), "--depth", "9", "--what-if"])
    assert changed == TrainConfig(depth=9, learning_rate=0.125)
    assert config_from(["--depth", "9"]) == TrainConfig(depth=9)


def test_resume_takes_the_options_of_the_run(tmp_path: Path) -> None:
    stored = AutotuneConfig(depth=7, policy="first")
    (tmp_path / "config.json").write_text(json.dumps({"command": "autotune", **to_dict(stored)}))
    arguments = ["--out", str(tmp_path), "--resume", "--threads", "3"]
    assert config_from(arguments, "autotune", AutotuneConfig) == AutotuneConfig(depth=7, policy="first", threads=3)
    for more in ([], ["--config", str(tmp_path / "config.json")]):  # it would begin a run of the default options
        with pytest.raises(ValueError, match=r"none holds no run to go on with; name its folder or leave out --resume"):
            config_from(["--out", str(tmp_path / "none"), "--resume", *more])
    with pytest.raises(ValueError, match="holds a run of another command than 'train'"):
        config_from(["--out", str(tmp_path), "--resume"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "holds no JSON"),
        ("\udcff", "holds no JSON"),
        ("[1]", "holds a list, not a JSON object"),
        ('{"colour": 1}', "'colour' is not an option"),
        ('{"seed": -4}', "seed is -4"),
        ('{"blocks": 4}', "blocks is 4; pass a list"),
    ],
)
def test_config_files_that_are_not(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "config.json"
    if content is not None:
        file.write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises((OSError, TypeError, ValueError), match=said):
        config_from(["--config", str(file)])


# --- presets of RePr ------------------------------------------------------------------------------

PUBLISHED = {
    "repr_full_epochs": 20, "repr_reduced_epochs": 20, "repr_cycles": 9, "repr_share": 0.5,
    "repr_criterion": "orthogonality_published",
}  # fmt: skip


def test_a_preset_sets_what_is_not_named(tmp_path: Path) -> None:
    assert config_from(["--repr-preset", "published"]) == TrainConfig(**PUBLISHED)
    assert config_from(["--repr-preset", "paper"]) == TrainConfig(), "the defaults are the paper's"
    for arguments in ("--repr-cycles 2 --repr-preset published", "--repr-preset published --repr-cycles 2"):
        assert config_from(arguments.split()) == TrainConfig(**{**PUBLISHED, "repr_cycles": 2})
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_dict(TrainConfig(repr=True, repr_share=0.4, repr_max_layer_share=0.6, depth=7))))
    again = config_from(["--config", str(file), "--repr-preset", "published"])
    assert again == TrainConfig(**PUBLISHED, repr=True, repr_max_layer_share=0.6, depth=7), "it was named now"


def test_help_says_in_sentences_what_every_preset_sets(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "repr"):
        with pytest.raises(SystemExit):
            command_line.main([command, "--help"])
        said = " ".join(capsys.readouterr().out.split())
        assert "--repr-preset {paper,published}" in said
        assert (
            "The preset published follows the author's published code: it sets S1 to 20 epochs, S2 to 20 epochs, N to "
            "9 cycles, p to 50% and the criterion to orthogonality_published, and the training must be longer than 360 "
            "epochs."
        ) in said
        assert "The preset paper follows the paper's text: it sets S1 to 20 epochs, S2 to 10 epochs, N to 3" in said


def test_a_preset_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["train", "--repr-preset", "code"])
    assert "--repr-preset: invalid choice: 'code' (choose from" in capsys.readouterr().err


# --- what --help imports --------------------------------------------------------------------------


def subcommands() -> list[str]:
    parser = command_line._parser()
    return list(next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction)).choices)


HELP = """
import json, sys
from cbkernels.command_line import main
for arguments in (["--version"], ["--help"], *([command, "--help"] for command in sys.argv[1:])):
    try:
        main(arguments)
    except SystemExit as end:
        assert not end.code, arguments
print("\\n" + json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_help_imports_nothing_heavy() -> None:
    """Its time, a tenth of a second, is made of imports: these are counted, not timed."""
    commands = subcommands()
    assert {"train", "autotune"} <= set(commands)
    done = subprocess.run([sys.executable, "-c", HELP, *commands], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    *said, modules = done.stdout.splitlines()
    assert sum(line.startswith("usage: cbkernels") for line in said) == len(commands) + 1
    slow = {"numpy", "torch", "matplotlib", "jinja2", "safetensors", "tensorboard", "pandas", "datasets", "PIL",
            "sklearn"}  # fmt: skip
    assert not slow & set(json.loads(modules))
