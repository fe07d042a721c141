"""Choices are values: one that is added while the program runs is offered, accepted, used and told like the others."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import cbkernels
from cbkernels.choices import Choices
from cbkernels.command_line import main
from cbkernels.filters.criteria import COMPARED, CRITERIA, STANDARD, FilterCriterion
from cbkernels.grid import GRID_DTYPES
from cbkernels.surgery.pruning.block_rankings import RANKINGS, BlockRanking
from cbkernels.surgery.pruning.strategies import STRATEGIES, RemovalStrategy
from cbkernels.training.config import WHAT_IF, AutotuneConfig, RemoveConfig, TrainConfig, to_dict
from cbkernels.training.data.augmentation import AUGMENTATIONS, Augmentation
from cbkernels.training.data.data_sets import load_data_set
from cbkernels.training.data.image_files import Part
from cbkernels.training.data.sources import SOURCES, DataSource
from cbkernels.training.healings import HEALINGS, Healing
from cbkernels.training.loop.optimizers import OPTIMIZERS, Optimizer
from cbkernels.training.loop.schedules import SCHEDULES, Schedule
from cbkernels.training.networks.architecture import Architecture
from cbkernels.training.networks.kinds import MODELS, NetworkKind
from cbkernels.training.networks.weights import WEIGHTS, Start
from cbkernels.training.policies import POLICIES, Policy

from ..all_of import all_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROOMS = ("filters", "training", "page", "commands")
DOES = "does what only this one does"
SMALL = {"epochs": 1, "train_size": 100, "test_size": 100, "batch_size": 20, "probe_size": 20, "device": "cpu"}


class Offered(NamedTuple):
    """A table, a value that it does not hold, and where its name is asked for."""

    table: Choices[Any]
    value: Any
    field: str
    command: str
    refusal: Callable[[str], Any]


def nothing(*given: Any) -> Any:
    raise AssertionError("not called")


def option_of(kind: Any, field: str) -> Callable[[str], Any]:
    return lambda name: kind(**{field: name})


OFFERED = [
    Offered(MODELS, NetworkKind("mine", DOES, nothing), "model", "train", option_of(TrainConfig, "model")),
    Offered(WEIGHTS, Start("mine", DOES, nothing), "weights", "train", option_of(TrainConfig, "weights")),
    Offered(OPTIMIZERS, Optimizer("mine", DOES, nothing), "optimizer", "train", option_of(TrainConfig, "optimizer")),
    Offered(SCHEDULES, Schedule("mine", DOES, nothing), "schedule", "train", option_of(TrainConfig, "schedule")),
    Offered(POLICIES, Policy("mine", DOES, nothing), "policy", "autotune", option_of(AutotuneConfig, "policy")),
    Offered(RANKINGS, BlockRanking("mine", DOES, nothing), "rank", "remove", option_of(RemoveConfig, "rank")),
    Offered(
        STRATEGIES, RemovalStrategy("mine", DOES, nothing), "strategy", "remove", option_of(RemoveConfig, "strategy")
    ),
    Offered(HEALINGS, Healing("mine", DOES), "heal", "remove", option_of(RemoveConfig, "heal")),
    Offered(AUGMENTATIONS, Augmentation("mine", DOES), "augmentation", "train", option_of(TrainConfig, "augmentation")),
    Offered(
        CRITERIA, FilterCriterion("mine", DOES, nothing), "repr_criterion", "train",
        option_of(TrainConfig, "repr_criterion"),
    ),
    Offered(SOURCES, DataSource("mine", DOES, read=nothing), "dataset", "train", load_data_set),
]  # fmt: skip


def help_of(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return " ".join(capsys.readouterr().out.split())


def test_a_choice_that_is_added_is_in_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with all_of("tables") as of_table:
        for each in OFFERED:
            with of_table(each.field):
                assert "mine" not in help_of(capsys, each.command)
                with monkeypatch.context() as patched:
                    patched.setitem(each.table, "mine", each.value)
                    told = help_of(capsys, each.command)
                    assert f"; mine: {DOES}" in told
                    assert all(f"{name}: {value.does}" in told for name, value in each.table.items())
    monkeypatch.setitem(CRITERIA, "mine", FilterCriterion("mine", DOES, nothing))
    assert help_of(capsys, "repr").count(f"; mine: {DOES}") == 1, "it can be compared"


def test_a_choice_that_is_added_is_accepted_and_a_wrong_name_is_told_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with all_of("tables") as of_table:
        for each in OFFERED:
            with of_table(each.field):
                with pytest.raises((ValueError, OSError), match=f"{each.field} is 'mine'"):
                    each.refusal("mine")
                monkeypatch.setitem(each.table, "mine", each.value)
                for name in (*each.table, "nine"):
                    if name == "nine":
                        with pytest.raises(
                            (ValueError, OSError), match=rf"{each.field} is 'nine'.*{', '.join(each.table)}"
                        ):
                            each.refusal(name)
                    elif each.table is not SOURCES:  # which would read them
                        config = each.refusal(name)
                        assert to_dict(config)[each.field] == name


# --- one that is added is used ----------------------------------------------------------------------


def trained(folder: Path, **options: Any) -> dict[str, Any]:
    pytest.importorskip("torch", reason="choices in a training: NOT TESTED HERE (no torch)")
    pytest.importorskip("safetensors", reason="choices in a training: NOT TESTED HERE (no safetensors)")
    from cbkernels.training.procedures.train import train

    result = train(TrainConfig(**{**SMALL, "depth": 2, "width": 4, "threads": 1, **options}), folder)
    stored = json.loads((folder / "config.json").read_text())
    assert {name: stored[name] for name in options} == options
    return result


def told_by_the_report(folder: Path) -> str:
    pytest.importorskip("matplotlib", reason="choices in the report: NOT TESTED HERE (no matplotlib)")
    pytest.importorskip("jinja2", reason="choices in the report: NOT TESTED HERE (no Jinja2)")
    from cbkernels.page.run_page import write_report

    return Path(write_report([folder], folder / "report.html")).read_text()


def test_an_optimizer_of_ones_own_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="an optimizer of one's own: NOT TESTED HERE (no torch)")
    built = []

    def build(parameters: Any, config: TrainConfig) -> Any:
        built.append(torch.optim.SGD(parameters, lr=config.learning_rate))
        return built[-1]

    monkeypatch.setitem(OPTIMIZERS, "mine", Optimizer("mine", DOES, build))
    trained(tmp_path / "run", optimizer="mine")
    assert len(built) == 1


def test_a_schedule_of_ones_own_is_followed_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="a schedule of one's own: NOT TESTED HERE (no torch)")
    asked = []

    def build(optimizer: Any, updates: int, warmup: int) -> Any:
        asked.append((updates, warmup))
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.25, updates)

    monkeypatch.setitem(SCHEDULES, "mine", Schedule("mine", DOES, build, warmup_share=0.4))
    trained(tmp_path / "run", schedule="mine")
    assert asked == [(5, 2)]
    assert "mine, 0.00025 to 0.001 after the epochs; " in told_by_the_report(tmp_path / "run")


def test_a_network_of_ones_own_is_built_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="a network of one's own: NOT TESTED HERE (no torch)")
    from cbkernels.training.networks.fully_connected import fnn

    def build(architecture: Architecture, shape: Any, num_classes: int) -> Any:
        return fnn(architecture.blocks[0], architecture.width, int(np.prod(shape)), num_classes)

    kind = NetworkKind("mine", DOES, build, num_stages=1, block_name="hidden.{block}")
    monkeypatch.setitem(MODELS, "mine", kind)
    assert trained(tmp_path / "run", model="mine")["name"] == "mine, 2 layers of 4"
    (tmp_path / "run" / "result.json").unlink()
    assert "mine, 2 layers of 4" in told_by_the_report(tmp_path / "run"), "an unfinished run, by its config"
    assert Architecture((2,), "mine").block_names == [["hidden.0", "hidden.1"]]


def test_images_of_ones_own_are_prepared_in_ones_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL", reason="images of one's own: NOT TESTED HERE (no pillow)")
    random = np.random.RandomState(0)

    def read() -> Any:
        images = random.randint(0, 256, (200, 1, 6, 6)).astype(np.uint8)
        return Part(images, np.arange(200) % 4, "mine"), None, "from nowhere"

    source = DataSource("mine", DOES, read=read, augmentation="brighter", image_size=5)
    monkeypatch.setitem(SOURCES, "mine", source)
    monkeypatch.setitem(AUGMENTATIONS, "brighter", Augmentation("brighter", DOES, standardises=False, brightness=0.5))
    data = load_data_set("mine")
    assert (data.image_shape, data.num_classes, data.source[:12]) == ((1, 5, 5), 4, "from nowhere")
    torch = pytest.importorskip("torch", reason="images of one's own in a training: NOT TESTED HERE (no torch)")
    from cbkernels.training.data.samples import samples_of

    prepared = samples_of(data, TrainConfig(dataset="mine", batch_size=20), torch.device("cpu")).preparation
    assert prepared.name == "brighter"
    assert trained(tmp_path / "run", dataset="mine", test_size=40)["dataset"] == "mine"


def test_a_policy_of_ones_own_has_its_name_its_probe_and_may_look_before_the_training(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="a policy of one's own: NOT TESTED HERE (no torch)")
    pytest.importorskip("safetensors", reason="a policy of one's own: NOT TESTED HERE (no safetensors)")
    from cbkernels.training import autotune

    def build(architecture: Architecture) -> Any:
        blocks = [torch.nn.Linear(3, 3) for _ in range(architecture.num_blocks)]
        if len(blocks) > 2:
            torch.nn.init.zeros_(blocks[-1].weight)  # conflicts at the initial weights already
            torch.nn.init.zeros_(blocks[-1].bias)
        return torch.nn.Sequential(*blocks, torch.nn.Linear(3, 2))

    def last(conflicting: Any, block_names: Any) -> list[str]:
        return [block_names[0][-1]]

    def tuned(policy: Any, folder: Path, **more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        x = torch.randn(96, 3, generator=torch.Generator().manual_seed(0))
        result = autotune(
            build, (3,), (x, (x[:, 0] > 0).long()), policy=policy, out=folder, epochs=1, batch_size=16, device="cpu",
            block_names=lambda model: [[str(i) for i in range(len(model) - 1)]], **more,
        ).result  # fmt: skip
        return result, json.loads((folder / "config.json").read_text())

    result, config = tuned(Policy("the last", DOES, last, probe_size=32, looks_before=True), tmp_path / "run")
    assert (result["policy"], config["policy"], config["probe_size"]) == ("the last", "the last", 32)
    assert result["rounds"][0]["conflict_epoch"] == 0, "it looked at the initial weights"
    assert "before the training the last block, 2, had 1 bundle of 32 samples" in result["rounds"][0]["reason"]
    assert "policy 'the last' removed 2" in result["rounds"][0]["reason"]
    assert "the last" in told_by_the_report(tmp_path / "run")
    assert tuned(Policy("the last", DOES, last), tmp_path / "asked", probe_size=17)[1]["probe_size"] == 17
    result, config = tuned(last, tmp_path / "function")
    assert (config["policy"], config["probe_size"]) == (result["policy"], 64)
    assert config["policy"].endswith("<locals>.last")
    config = AutotuneConfig(policy=last)  # type: ignore[arg-type]
    assert config.policy.endswith("<locals>.last")


def test_a_ranking_of_ones_own_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(tmp_path / "run", model="resnet", blocks=[1, 2, 0, 0], width_multiplier=0.0625)
    from cbkernels.training import load_trained, remove_blocks

    def removed(folder: str, **ranking: Any) -> dict[str, Any]:
        monkeypatch.setitem(RANKINGS, "mine", BlockRanking("mine", DOES, **ranking))
        config = RemoveConfig(rank="mine", study=False, heal="none", max_drop=1.0, probe_size=20)
        return remove_blocks(load_trained(tmp_path / "run", device="cpu"), config, tmp_path / folder)

    result = removed("all", scores=lambda asked: {name: i for i, name in enumerate(sorted(asked.names))})
    assert result["rank"] == "mine"
    assert [step["block"] for step in result["steps"]] == result["removed"] == ["stages.0.0", "stages.1.0"]
    assert all(step["scores"] == [0] for step in result["steps"])
    result = removed("none", scores=lambda asked: {}, none_left="nothing to do")
    assert result["reason"] == "nothing to do"
    monkeypatch.delitem(RANKINGS, "mine")
    with pytest.raises(ValueError, match="rank is 'mine'; choose one of margin, conflicts, similarity, taylor"):
        RemoveConfig(rank="mine")


# --- nothing else knows the names -------------------------------------------------------------------


def test_the_tables_agree_with_themselves() -> None:
    for each in OFFERED:
        for name, value in each.table.items():
            assert (name, value.does[-1:] in ".") == (value.name, False), name
    assert all(source.augmentation in AUGMENTATIONS for source in SOURCES.values())
    assert COMPARED[0] == STANDARD not in CRITERIA
    assert set(COMPARED[1:]) <= set(CRITERIA)
    assert set(WHAT_IF) < set(GRID_DTYPES)


def test_tables_need_nothing_but_the_standard_library() -> None:
    """So ``--help`` is quick; torch, NumPy and the rest are imported when a value is used."""
    for module in {type(next(iter(each.table.values()))).__module__ for each in OFFERED}:
        path = Path(cbkernels.__file__).parents[1] / f"{module.replace('.', '/')}.py"
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert {n.partition(".")[0] for n in names} <= sys.stdlib_module_names, module


def test_no_name_of_a_choice_is_compared() -> None:
    """As in ``if model == "fnn"`` or ``model in ("fnn", "cnn")``: such code forgets the choice that comes next."""
    names = {name for each in OFFERED for name in each.table} - {"torch", "margin"}  # words of other things, too
    found = []
    for path in (p for room in ROOMS for p in (Path(cbkernels.__file__).parent / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for side in [node.left, *node.comparators] if isinstance(node, ast.Compare) else []:
                words = {c.value for c in ast.walk(side) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
                found += [f"{path.name}:{node.lineno}: {word}" for word in words & names]
    assert not found


@pytest.mark.skipif(not DOCS.is_dir(), reason="the documents: NOT TESTED HERE (only tests/ is here)")
def test_documents_list_what_the_tables_hold() -> None:
    training = (DOCS / "training.md").read_text(encoding="utf-8")

    def rows(text: str, head: str) -> list[list[str]]:
        table = text[text.index(head) :].partition("\n\n")[0].splitlines()[2:]
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]

    assert [row[0].strip("` ") for row in rows(training, "| `--model` |")] == list(MODELS)
    policies = rows(training, "| policy |")
    assert [(row[0].strip("` "), row[2].rstrip("| ")) for row in policies] == [
        (p.name, p.does) for p in POLICIES.values()
    ]
    for row, policy in zip(policies, POLICIES.values(), strict=True):
        assert (row[1].startswith("before"), f" {policy.probe_size} samples" in row[1]) == (policy.looks_before, True)
    for head, table in (("| `--heal` |", HEALINGS), ("| `--rank`,", RANKINGS), ("| `--strategy` |", STRATEGIES)):
        assert [row[0].strip("` ") for row in rows(training, head)] == list(table)
    assert [row[2].strip("`| ") for row in rows(training, "| `--heal` |")] == [h.strategy for h in HEALINGS.values()]
    assert all(f"{name}`" in training.partition("## Data")[2].partition("\n## ")[0] for name in SOURCES)
    assert f"--optimizer {'|'.join(list(OPTIMIZERS)[1:])}" in training
    assert f"--schedule {'|'.join(list(SCHEDULES)[1:])}" in training
    criteria = [
        name
        for row in rows((DOCS / "repr.md").read_text(encoding="utf-8"), "| name |")
        for name in re.findall(r"`(\w+)`", row[0])
    ]
    assert criteria == list(CRITERIA)
