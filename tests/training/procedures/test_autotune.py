"""Auto-tune: how it ends, what it writes, what each policy looks at and when, and networks of one's own."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="auto-tune: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="auto-tune: NOT TESTED HERE (no safetensors)")

import cbkernels as cb  # noqa: E402
from cbkernels.command_line import main  # noqa: E402
from cbkernels.commands import training_command  # noqa: E402
from cbkernels.commands.autotune import text  # noqa: E402
from cbkernels.files import whole_files  # noqa: E402
from cbkernels.files.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from cbkernels.page.facts import outcome_of  # noqa: E402
from cbkernels.runs.reader import read_run  # noqa: E402
from cbkernels.training.config import AutotuneConfig, to_dict  # noqa: E402
from cbkernels.training.loop.epochs import Training  # noqa: E402
from cbkernels.training.loop.measuring import Measuring  # noqa: E402
from cbkernels.training.networks.architecture import Architecture  # noqa: E402
from cbkernels.training.policies import Policy  # noqa: E402
from cbkernels.training.procedures.autotune import autotune, autotune_configured, of_blocks  # noqa: E402
from cbkernels.training.procedures.rounds import rows_of_rounds  # noqa: E402
from cbkernels.training.trained_run import accuracy_of, load_trained  # noqa: E402
from cbkernels.wording import percent  # noqa: E402

DEEP = AutotuneConfig(
    depth=30, width=8, learning_rate=0.01, batch_size=32, epochs=3, train_size=300, test_size=100, check_epochs=2,
    device="cpu",
)  # fmt: skip
PUBLISHED = ("first", "all", "stage")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def changed(**options: Any) -> AutotuneConfig:
    return AutotuneConfig(**{**to_dict(DEEP), **options})


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


# --- the digits, 50 layers ------------------------------------------------------------------------


def test_digits_with_fifty_layers(tmp_path: Path) -> None:
    """Untrainable before, a network that learns after."""
    config = AutotuneConfig(depth=50, learning_rate=0.01, epochs=16, check_epochs=5, device="cpu", baseline=False)
    result = autotune_configured(config, tmp_path / "run")
    assert result["status"] == "trained"
    assert result["before"]["test_accuracy"] < result["chance_accuracy"] + 0.05 < 0.2
    # seeds 0 to 2 with torch's three kinds of kernels reach 0.58 to 0.84, as 6 to 20 layers are left
    assert result["after"]["test_accuracy"] > result["chance_accuracy"] + 0.25
    assert sum(result["after"]["architecture"]["blocks"]) < 40
    assert any(r["removed"] for r in result["rounds"])
    for measured in ("parameters", "macs", "flops", "peak_memory_bytes"):
        assert result["after"][measured] < result["before"][measured], measured
    run = load_trained(tmp_path / "run")
    assert run.architecture.to_dict() == result["after"]["architecture"]
    accuracy = accuracy_of(run.model, run.data.test_images, run.data.test_labels, run.preparation)
    assert accuracy == result["after"]["test_accuracy"]


# --- fields ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=(*PUBLISHED, "added"))
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run of every policy; its folder and its result."""
    folder = tmp_path_factory.mktemp("autotune") / request.param
    config = changed(policy=request.param)
    return folder, autotune_configured(config, folder)


def test_result_has_the_fields_of_the_design(tuned: Any) -> None:
    folder, result = tuned
    assert json.loads((folder / "result.json").read_text()) == result
    assert list(result) == [
        "command", "version", "status", "reason", "seed", "dataset", "policy", "rounds", "before", "after",
        "chance_accuracy", "equality", "ranks", "seconds_training", "seconds_measuring", "seconds_evaluating",
        "measuring_share",
    ]  # fmt: skip
    assert (result["command"], result["status"], result["seed"]) == ("autotune", "trained", 0)
    assert result["policy"] == folder.name
    for each in (result["before"], result["after"]):
        assert {
            "architecture", "name", "test_accuracy", "epochs", "parameters", "macs", "flops", "latency_ms",
            "latency_ms_p10", "latency_ms_p90", "peak_memory_bytes",
        } <= set(each)  # fmt: skip
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.safetensors", "config.json", "env.json", "history.jsonl", "layers.csv", "result.json",
    ]  # fmt: skip


def test_rounds_shorten_the_network_and_say_why(tuned: Any) -> None:
    _, result = tuned
    rounds = result["rounds"]
    assert [r["round"] for r in rounds] == list(range(len(rounds)))
    assert len(rounds) > 1
    for one, following in itertools.pairwise(rounds):
        blocks = one["architecture"]["blocks"][0]
        assert following["architecture"]["blocks"] == [blocks - len(one["removed"])]
        assert one["removed"] == sorted(set(one["removed"]), key=lambda name: int(name.removeprefix("hidden.")))
        assert (one["epochs"], one["entropy"] > 0) == (one["conflict_epoch"], True)
        assert one["name"] == f"fnn, {blocks} layers of 8"
        assert f"the last block, hidden.{blocks - 1}, had" in one["reason"]
        assert f"policy {result['policy']!r} removed" in one["reason"]
        assert one["removed"][0] in one["reason"]
    last = rounds[-1]
    assert (last["removed"], last["conflict_epoch"], last["entropy"], last["epochs"]) == ([], None, None, 3)
    assert result["reason"].startswith(last["reason"])  # and may say that this is near chance
    assert last["architecture"] == result["after"]["architecture"]
    assert last["test_accuracy"] == result["after"]["test_accuracy"]
    assert rounds[0]["architecture"] == result["before"]["architecture"]


def test_rounds_agree_with_the_history_and_the_layers(tuned: Any) -> None:
    folder, result = tuned
    lines = history_of(folder)
    for each in result["rounds"]:
        of_round = [line for line in lines if line["round"] == each["round"]]
        # the first network is trained to its end, for the comparison
        trained = 3 if each["round"] == 0 else each["epochs"]
        assert [line["epoch"] for line in of_round] == list(range(trained + 1))
        assert {line["run"] for line in of_round} == {"autotune"}
        assert of_round[each["epochs"]]["test_accuracy"] == each["test_accuracy"]
        if each["removed"]:
            assert of_round[each["epochs"]]["num_conflicting_layers"] > 0
    assert result["before"]["test_accuracy"] == [line for line in lines if line["round"] == 0][-1]["test_accuracy"]
    assert result["before"]["epochs"] == 3
    rows = (folder / "layers.csv").read_text().splitlines()[1:]
    measured = sum(result["rounds"][line["round"]]["architecture"]["blocks"][0] for line in lines)
    assert len(rows) == measured
    share = result["seconds_measuring"] / (result["seconds_measuring"] + result["seconds_training"])
    assert result["measuring_share"] == pytest.approx(share)
    assert result["seconds_training"] == pytest.approx(sum(line["seconds_training"] for line in lines))


def test_without_a_baseline_the_first_round_ends_at_its_conflict(tuned: Any, tmp_path: Path) -> None:
    folder, reference = tuned
    result = autotune_configured(changed(policy=folder.name, baseline=False), tmp_path / "run")
    assert [r["architecture"] for r in result["rounds"]] == [r["architecture"] for r in reference["rounds"]]
    assert result["before"]["epochs"] == result["rounds"][0]["epochs"] < 3
    first = [line for line in history_of(tmp_path / "run") if line["round"] == 0]
    assert len(first) == result["rounds"][0]["epochs"] + 1
    assert result["after"]["test_accuracy"] == reference["after"]["test_accuracy"]


# --- the ends -------------------------------------------------------------------------------------


def acts_as_one(monkeypatch: pytest.MonkeyPatch, *, at: set[tuple[int, int]] | None = None) -> list[tuple[int, int]]:
    """Let every block conflict (at some rounds and epochs); returns the (round, epoch) of all measurements."""
    measure, seen = Measuring.__call__, []
    results = {conflicts: cb.bundle_entropy(np.zeros((4, 1)), np.arange(4) % (1 + conflicts)) for conflicts in (0, 1)}

    def measured(self: Measuring, epoch: int) -> list[cb.LayerReport]:
        round_ = sum(e == 0 for _, e in seen) - (epoch != 0)
        seen.append((round_, epoch))
        report = measure(self, epoch)[0]
        conflicts = at is None or (round_, epoch) in at
        return [cb.LayerReport(dict.fromkeys(report, results[int(conflicts)]), step=epoch)]

    monkeypatch.setattr(Measuring, "__call__", measured)
    return seen


@pytest.mark.parametrize("policy", PUBLISHED)
def test_every_block_conflicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    acts_as_one(monkeypatch)
    result = autotune_configured(changed(policy=policy, depth=3, epochs=1), tmp_path / "run")
    assert result["status"] == "exhausted"
    assert result["reason"].startswith(
        "every block conflicted and was removed; a network without blocks was not trained; "
        "the network of round 0, the best by test accuracy, is kept"
    )
    assert [len(r["removed"]) for r in result["rounds"]] == [3]
    after = result["after"]
    assert (after["architecture"]["blocks"], after["round"], after["chosen_by"]) == ([3], 0, "test_accuracy")
    assert after["test_accuracy"] == history_of(tmp_path / "run")[-1]["test_accuracy"]
    run = load_trained(tmp_path / "run")
    assert accuracy_of(run.model, run.data.test_images, run.data.test_labels, run.preparation) == pytest.approx(
        after["test_accuracy"]
    )
    assert result["reason"] in outcome_of(read_run(tmp_path / "run")), "the report says which network is kept"
    result["after"] = None  # as older versions ended
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match="ended as 'exhausted', without a trained network"):
        load_trained(tmp_path / "run")


def test_ties_behind_the_first_block_are_no_reason_to_give_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the published policies remove every block: what is tied behind the first one no later one has tied."""
    acts_as_one(monkeypatch)
    result = autotune_configured(changed(policy="added", depth=3, epochs=1), tmp_path / "run")
    assert (result["status"], result["after"]["architecture"]["blocks"]) == ("trained", [3])
    assert result["reason"].startswith(
        "the last block had no conflict beyond those of the first one in the first 1 epoch; trained to the end"
    )


def the_last_block(conflicting: list[list[str]], block_names: Any) -> list[str]:
    return [block_names[0][-1]]


@pytest.mark.parametrize("most", [1, 3])
def test_max_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    seen = acts_as_one(monkeypatch)
    tuned = autotune(plain, (9,), points(), policy=the_last_block, epochs=1, batch_size=16, max_rounds=most)
    assert tuned.result["status"] == "exhausted"
    assert f"still conflicted in round {most - 1}; max_rounds is reached; the network of" in tuned.result["reason"]
    kept = tuned.result["after"]["round"]
    assert (tuned.architecture, len(tuned.model)) == (Architecture((9 - kept,)), 9 - kept + 1)
    assert [r["removed"] for r in tuned.result["rounds"]] == [[str(9 - k)] for k in range(1, most + 1)]
    assert len([1 for _, epoch in seen if epoch == 0]) == most


BEST = {  # accuracies or losses of the networks of 9, 8, 7 and 6 blocks -> the one that is kept
    "validation_accuracy": ([0.2, 0.5, 0.4, 0.3], 8),
    "test_accuracy": ([0.2, 0.5, 0.5, 0.3], 7),
    "train_loss": ([2.0, 2.5, 1.5, 1.6], 7),
}


@pytest.mark.parametrize("chosen_by", BEST)
def test_exhausted_keeps_the_best_network_of_all_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen_by: str
) -> None:
    """By the held-back samples, else by the test samples, else by the loss; of equals the smaller one. Killed too."""
    blocks = BEST[chosen_by][1]
    acts_as_one(monkeypatch)
    told = {name: {9 - k: value for k, value in enumerate(numbers)} for name, (numbers, _) in BEST.items()}
    told["validation_accuracy" if chosen_by != "validation_accuracy" else "no"] = dict.fromkeys(range(6, 10))
    told["test_accuracy" if chosen_by == "train_loss" else "no"] = dict.fromkeys(range(6, 10), math.nan)
    replace_file, train_epoch = whole_files.os.replace, Training.train_epoch
    trained: dict[int, Any] = {}

    def loss_of(self: Training) -> float:
        train_epoch(self)
        depth = len(self.model) - 1
        trained[depth] = [weight.detach().clone() for weight in self.model.parameters()]
        return told["train_loss"][depth]

    def killed(source: Any, target: Any) -> None:
        if Path(target).name == "result.json" and not trained.pop("was killed", False):
            trained["was killed"] = True
            raise Killed
        replace_file(source, target)

    monkeypatch.setattr(Training, "train_epoch", loss_of)
    for name in ("validation_accuracy", "test_accuracy"):
        monkeypatch.setattr(Training, name, lambda self, name=name: told[name][len(self.model) - 1])
    monkeypatch.setattr(whole_files.os, "replace", killed)

    def tuned(**more: Any) -> Any:
        return autotune(
            plain, (9,), points(), policy=the_last_block, epochs=1, batch_size=16, max_rounds=4, **more
        )  # fmt: skip

    in_memory = tuned()
    with pytest.raises(Killed):
        tuned(out=tmp_path / "run")
    trained_epochs = len(history_of(tmp_path / "run"))
    resumed = tuned(out=tmp_path / "run", resume=True)
    assert len(history_of(tmp_path / "run")) == trained_epochs, "nothing was trained again"
    kept = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    assert kept["architecture"]["blocks"] == [blocks]
    for each in (in_memory, resumed):
        assert (each.result["status"], each.architecture.blocks) == ("exhausted", (blocks,))
        after = each.result["after"]
        assert (after["round"], after["chosen_by"]) == (9 - blocks, chosen_by)
        words = f"the network of round {9 - blocks}, the best by {chosen_by.replace('_', ' ')}, is kept"
        assert each.result["reason"].endswith(words)
        assert not each.model.training
        stored = kept["measured"]["training"]["model"].values()
        for weights in (each.model.parameters(), stored):
            assert all(w.equal(v) for w, v in zip(weights, trained[blocks], strict=True))
    assert timeless(in_memory.result) == timeless(resumed.result)


def test_diverged(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_command, "write_report", lambda folders, out: None)
    arguments = ["--depth=3", "--epochs=2", "--optimizer=sgd", "--learning-rate=1e8", "--out", str(tmp_path / "run")]
    assert main(["autotune", *arguments, "--json"]) == 1
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert (result["status"], result["after"], len(result["rounds"])) == ("diverged", None, 1)
    assert result["reason"].startswith("the loss of epoch 1 is ")
    assert result["rounds"][0]["reason"] == result["reason"]
    errors = [line for line in said.err.splitlines() if line.startswith("cbkernels: error")]
    assert errors == [f"cbkernels: error: the training diverged: {result['reason']}"]


def test_a_baseline_that_diverges_after_its_conflict_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    train_epoch = Training.train_epoch

    def diverging(self: Training) -> float:
        return math.nan if len(self.model.block_names()[0]) == 4 else train_epoch(self)

    monkeypatch.setattr(Training, "train_epoch", diverging)
    for policy, status, reason in (
        ("all", "exhausted", "before the training the last block, 3, had 1 bundle"),
        ("stage", "diverged", "the loss of epoch 1 is nan; lower the learning rate"),
    ):
        with monkeypatch.context() as patched:
            acts_as_one(patched, at={(0, 0)})  # which only policy "all" looks at
            result = autotune(plain, (4,), points(), policy=policy, epochs=2, batch_size=16).result
        assert result["status"] == status
        assert result["rounds"][0]["reason"].startswith(reason)
        assert result["before"]["epochs"] == 1


# --- when it looks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "epochs"), [("all", (0, 1)), ("first", (1, 2)), ("stage", (1, 2))])
def test_epochs_at_which_a_policy_looks(monkeypatch: pytest.MonkeyPatch, policy: str, epochs: tuple[int, int]) -> None:
    """With ``check_epochs=2``: before the epochs 0 and 1, or after the epochs 1 and 2; a conflict elsewhere passes."""
    for epoch in range(5):
        with monkeypatch.context() as patched:
            acts_as_one(patched, at={(0, epoch)})
            tuned = autotune(plain, (3,), points(), policy=policy, epochs=4, batch_size=16, check_epochs=2)
        found = tuned.result["rounds"][0]["conflict_epoch"]
        assert found == (epoch if epoch in epochs else None), epoch
        assert tuned.result["status"] == ("exhausted" if epoch in epochs else "trained")


@pytest.mark.parametrize(("policy", "epochs"), [("all", range(10)), ("first", range(1, 11)), ("stage", range(1, 11))])
def test_ten_epochs_by_default(monkeypatch: pytest.MonkeyPatch, policy: str, epochs: range) -> None:
    for epoch, looks in ((epochs[0], True), (epochs[-1], True), (epochs[-1] + 1, False)):
        with monkeypatch.context() as patched:
            acts_as_one(patched, at={(0, epoch)})
            tuned = autotune(plain, (2,), points(), policy=policy, epochs=12, batch_size=32, baseline=False)
        assert tuned.result["rounds"][0]["conflict_epoch"] == (epoch if looks else None)


@pytest.mark.parametrize(("baseline", "first"), [(True, 3), (False, 1)])
def test_only_the_first_network_is_trained_on_after_its_conflict(
    monkeypatch: pytest.MonkeyPatch, baseline: bool, first: int
) -> None:
    acts_as_one(monkeypatch, at={(0, 1), (1, 2)})
    shown: list[str] = []
    tuned = autotune(
        plain, (3,), points(), policy=lambda conflicting, names: [names[0][0]], epochs=3, batch_size=16,
        check_epochs=3, baseline=baseline, show=lambda status, *_: shown.append(status),
    )  # fmt: skip
    assert (tuned.result["status"], tuned.architecture) == ("trained", Architecture((1,)))
    assert [(r["epochs"], r["conflict_epoch"]) for r in tuned.result["rounds"]] == [(1, 1), (2, 2), (3, None)]
    expected = [(0, epoch) for epoch in range(first + 1)] + [(1, 0), (1, 1), (1, 2)] + [(2, e) for e in range(4)]
    assert [line.split(" of 3")[0] for line in shown] == [f"round {r}: epoch {epoch}" for r, epoch in expected]


def test_the_probe_batch_is_the_same_in_every_round(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another batch could show no conflict in the layers that one conflict was seen in, and start again for ever."""
    probes = []
    start = Measuring.__init__

    def noted(self: Measuring, *arguments: Any) -> None:
        start(self, *arguments)
        probes.append(self._probe)

    monkeypatch.setattr(Measuring, "__init__", noted)
    result = autotune_configured(changed(probe_size=40), tmp_path / "run")
    assert len(probes) == len(result["rounds"]) > 1
    assert {len(labels) for _, labels in probes} == {40}
    assert all(x.equal(probes[0][0]) and y.equal(probes[0][1]) for x, y in probes)


def test_noise_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts_as_one(monkeypatch)
    for least, status in ((4, "exhausted"), (5, "trained")):
        config = changed(depth=3, epochs=1, min_conflicting_rows=least)
        assert autotune_configured(config, tmp_path / str(least))["status"] == status


# --- killed -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """Passes by everything that catches errors, as a kill does."""


def dead_when_deep(architecture: Architecture) -> Any:
    """All rows are one bundle in every layer when there are more than two; else they are apart as the inputs are."""
    model = plain(architecture)
    for block in model[:-1]:
        with torch.no_grad():
            block[0].weight.copy_(torch.eye(4) if len(model) <= 3 else torch.zeros(4, 4))
            block[0].bias.fill_(9.0 if len(model) <= 3 else -1.0)
    return model


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: timeless(v) for k, v in value.items() if "seconds" not in k and "latency" not in k and "share" not in k
        }
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_killed_at_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first network after its conflict was seen, between two rounds, before the result: it goes on the same.

    The conflict is looked for after epoch 1 only, so that one that was forgotten is not found again. A kill before a
    file is replaced leaves what a kill after the file before it leaves.
    """
    options: dict[str, Any] = {
        "policy": lambda conflicting, names: [names[0][-1]], "epochs": 3, "check_epochs": 1, "batch_size": 16,
    }  # fmt: skip
    monkeypatch.setattr("cbkernels.training.procedures.autotune.AT_END", [])  # a page is many files and no part of it
    undisturbed = autotune(dead_when_deep, (4,), points(), out=tmp_path / "undisturbed", **options)
    assert [r["epochs"] for r in undisturbed.result["rounds"]] == [1, 1, 3]
    replace_file, count = whole_files.os.replace, [0]

    def counted(source: Any, target: Any) -> None:
        count[0] -= 1
        if count[0] == 0:
            raise Killed
        replace_file(source, target)

    monkeypatch.setattr(whole_files.os, "replace", counted)
    for n in range(1, 100):
        folder, count[0] = tmp_path / f"run{n}", n
        try:
            autotune(dead_when_deep, (4,), points(), out=folder, **options)
            break
        except Killed:
            count[0] = 0
            resumed = autotune(dead_when_deep, (4,), points(), out=folder, resume=True, **options)
        assert timeless(resumed.result) == timeless(undisturbed.result), n
        assert timeless(history_of(folder)) == timeless(history_of(tmp_path / "undisturbed")), n
        assert (folder / "layers.csv").read_text() == (tmp_path / "undisturbed" / "layers.csv").read_text(), n
    # config and env; the epochs of the rounds but the last one of a round that ended; the tables and the result
    assert n == 2 + 3 * (4 + 1 + 4) + 2 + 1 + 1


# --- networks of one's own --------------------------------------------------------------------------


class Plain(torch.nn.Sequential):  # type: ignore[misc]
    """Dense blocks, then the output."""

    def block_names(self) -> list[list[str]]:
        return [[str(i) for i in range(len(self) - 1)]]


def plain(architecture: Architecture) -> Any:
    blocks = [torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(*architecture.blocks)]
    return Plain(*blocks, torch.nn.Linear(4, 3))


def points(count: int = 48) -> tuple[Any, Any]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


@pytest.mark.parametrize("given", ["dataset", "loader"])
def test_data_sets_and_loaders_are_taken(given: str) -> None:
    """With what a tuple of the same samples gives."""
    x, y = points()
    data: Any = torch.utils.data.TensorDataset(x, y)
    data = data if given == "dataset" else torch.utils.data.DataLoader(data, batch_size=7)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 16, "policy": lambda *_: []}
    (of_data, of_tuple) = (
        autotune(plain, (2,), each, each, min_conflicting_rows=49, **options).result for each in (data, (x, y))
    )
    for field in ("test_accuracy", "mean_test_accuracy"):
        assert of_data["after"][field] == of_tuple["after"][field]
    unlabelled: Any = torch.utils.data.TensorDataset(x)
    with pytest.raises(ValueError, match="train_data gives batches of list; it must give pairs of samples and labels"):
        autotune(plain, (2,), unlabelled, **options)


def test_loss_optimizer_and_schedule_of_ones_own(tmp_path: Path) -> None:
    """Each is called, the grid takes the optimizer's learning rate, and the page of the run is there."""
    pytest.importorskip("matplotlib", reason="the page of a run: NOT TESTED HERE (no matplotlib)")
    pytest.importorskip("jinja2", reason="the page of a run: NOT TESTED HERE (no jinja2)")
    rates: list[float] = []

    def halved(optimizer: Any, updates: int) -> Any:
        assert updates == 2 * 3
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: rates.append(update) or 0.5**update)

    def loss(logits: Any, labels: Any) -> Any:
        return torch.nn.functional.multi_margin_loss(logits, labels)

    tuned = autotune(
        plain, (2,), points(), out=tmp_path / "run", epochs=2, batch_size=16, min_conflicting_rows=49, loss=loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.125), schedule=halved,
    )  # fmt: skip
    assert tuned.result["status"] == "trained"
    assert rates[-1] == 6
    assert "lr=0.125 " in tuned.result["equality"]
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["loss"].endswith("loss")
    assert content["schedule"].endswith("halved")
    assert "<html" in (tmp_path / "run" / "report.html").read_text()


class Convolutions(torch.nn.Module):  # type: ignore[misc]
    """Two stages; knows nothing of auto-tune."""

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.early = torch.nn.ModuleList([torch.nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(blocks[0])])
        self.late = torch.nn.ModuleList([torch.nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(blocks[1])])
        self.head = torch.nn.Linear(16, 4)

    def forward(self, x: Any) -> Any:
        for block in [*self.early, *self.late]:
            x = torch.relu(block(x)) * 0.1
        return self.head(x.flatten(1))


def names_of(model: Any) -> list[list[str]]:
    return [[f"{stage}.{i}" for i in range(len(getattr(model, stage)))] for stage in ("early", "late")]


def test_a_convolutional_network_of_ones_own(tmp_path: Path) -> None:
    """Arrays or tensors, with and without a folder, in one process or another: the same."""
    random = np.random.RandomState(0)
    images, labels = random.rand(96, 1, 4, 4).astype(np.float32), np.arange(96) % 4
    options = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-4, "block_names": names_of, "probe_size": 32}
    built = []

    def build(architecture: Architecture) -> Any:
        built.append(architecture.blocks)
        return Convolutions(architecture.blocks)

    one = autotune(build, (4, 9), (images, labels), (images[:30], labels[:30]), out=tmp_path / "run", **options)
    assert one.result["status"] == "trained"
    assert isinstance(one.model, Convolutions)
    assert not one.model.training
    assert one.architecture.blocks == tuple(map(len, names_of(one.model))) != (4, 9)
    assert built[0] == (4, 9)
    assert one.result["rounds"][0]["removed"][-1] == "late.8"
    assert one.result["after"]["test_accuracy"] == pytest.approx(
        float((one.model(torch.from_numpy(images[:30])).argmax(1).numpy() == labels[:30]).mean())
    )
    tensors = (torch.from_numpy(images), torch.from_numpy(labels))
    torch.manual_seed(99)
    two = autotune(lambda a: Convolutions(a.blocks), Architecture((4, 9)), tensors, **options)
    assert two.architecture == one.architecture
    assert all(w.equal(v) for w, v in zip(one.model.parameters(), two.model.parameters(), strict=True))
    assert two.result["after"]["test_accuracy"] is None, "no test data, no accuracy"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architecture"]["blocks"] == [4, 9]
    assert "dataset" not in config


def test_a_policy_of_ones_own_has_one_name_in_every_process(tmp_path: Path) -> None:
    def the_last_two(conflicting: list[list[str]], block_names: Any) -> list[str]:
        return block_names[0][-2:]  # type: ignore[no-any-return]

    def build(architecture: Architecture) -> Any:
        model = plain(architecture)
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 0.0 if len(model) > 3 else 0.3)
        return model

    options = {"policy": the_last_two, "epochs": 1, "batch_size": 16, "out": tmp_path / "run", "baseline": False}
    tuned = autotune(build, (5,), points(), **options)
    assert [r["removed"] for r in tuned.result["rounds"][:2]] == [["3", "4"], ["1", "2"]]
    name = test_a_policy_of_ones_own_has_one_name_in_every_process.__name__ + ".<locals>.the_last_two"
    assert tuned.result["policy"] == name
    assert f"policy '{name}' removed 2 blocks, 3 to 4" in tuned.result["rounds"][0]["reason"]
    assert autotune(build, (5,), points(), resume=True, **options).result["rounds"] == tuned.result["rounds"]
    with pytest.raises(ValueError, match="holds a run with policy"):
        autotune(build, (5,), points(), resume=True, **{**options, "policy": "all"})


RESNET = AutotuneConfig(
    model="resnet", blocks=(1, 1, 0, 0), width_multiplier=1 / 16, train_size=64, test_size=30, batch_size=16,
    epochs=1, threads=1, device="cpu",
)  # fmt: skip


def test_residual_networks_are_tuned_by_their_branches(tmp_path: Path) -> None:
    assert autotune_configured(RESNET, tmp_path / "run")["status"] == "trained"
    result = cb.bundle_entropy(np.zeros((4, 1)), np.arange(4))
    report = cb.LayerReport({"a.branch": result, "head": result}, blocks={"a.branch": "a"})
    assert of_blocks(report) == {"a": result, "a.branch": result, "head": result}


def test_margins_of_branches_are_written_and_shown(tmp_path: Path) -> None:
    """They are measured with every residual network, whether or not ``--margin`` asks for those of others."""
    autotune_configured(RESNET, tmp_path)
    margins, layers = (
        [line.split(",")[:4] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("margins.csv", "layers.csv")
    )
    assert margins == layers, "a line for every branch and epoch"
    pytest.importorskip("matplotlib", reason="the report: NOT TESTED HERE (no matplotlib)")
    pytest.importorskip("jinja2", reason="the report: NOT TESTED HERE (no jinja2)")
    from cbkernels.page.run_page import write_report

    assert "Conflict margin of every layer" in write_report([tmp_path], tmp_path / "report.html").read_text()


def test_goes_on_with_a_run_that_wrote_no_margins(tmp_path: Path) -> None:
    """As auto-tune of residual networks left it before it wrote them: those of later epochs are there."""

    def killed(status: str, epoch: int, epochs: int) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        autotune_configured(RESNET, tmp_path, show=killed)
    content = load_checkpoint(tmp_path / "checkpoint.safetensors")
    (tmp_path / "margins.csv").unlink(missing_ok=True)
    content["lines"].pop("margins.csv", None)
    save_checkpoint(tmp_path / "checkpoint.safetensors", content)
    assert autotune_configured(RESNET, tmp_path, resume=True)["status"] == "trained"
    header, *lines = (tmp_path / "margins.csv").read_text().splitlines()
    assert header.startswith("run,round,epoch,layer,margin")
    assert [line.split(",")[2] for line in lines] == ["1", "1"]


# --- refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"policy": lambda conflicting, names: []}, r"removes \[\]; it must name blocks, at least one"),
        ({"policy": lambda conflicting, names: ["z"]}, r"removes \['z'\]; it must name blocks"),
        ({"policy": "last"}, "policy is 'last'; choose one of first, all, stage"),
        ({"architecture": (0,)}, "it has no block to start with"),
        ({"architecture": (-1,)}, r"blocks is \(-1,\)"),
        ({"depth": 3}, "depth is 3; it is decided by build and train_data, leave it out"),
        ({"dataset": "digits"}, "dataset is 'digits'; it is decided by build"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epoch": 3}, "'epoch' is not an option of autotune; do you mean 'epochs'\\?"),
        ({"learning_rates": 3}, "do you mean 'learning_rate'"),
        ({"optimizer": lambda parameters: 3}, "optimizer made a int; it must make a torch.optim.Optimizer"),
        ({"block_names": lambda model: [["0"]]}, r"block_names names \[1\] blocks a stage, the architecture has \[6\]"),
        ({"build": lambda architecture: torch.nn.Linear(4, 3)}, r"Linear has no method block_names\(\); pass"),
        ({"train_data": (np.zeros((9, 4), np.float32), np.zeros(8, int))}, "train_data has 9 samples and labels of"),
        ({"train_data": (np.zeros((9, 4), np.float32), np.zeros(9))}, "labels of dtype float64; class labels must be"),
        (
            {"train_data": (np.zeros((9, 4), np.float32), list("ababababa"))},
            "of dtype str; class labels must be integers",
        ),
        ({"train_data": (np.zeros((9, 4), np.float32), -np.ones(9, int))}, "from -1; they must count from 0"),
        ({"train_data": points(12)}, "12 training samples do not fill one batch of 16"),
    ],
)
def test_refusals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    acts_as_one(monkeypatch)
    arguments = {"build": plain, "architecture": (6,), "train_data": points(), "epochs": 1, "batch_size": 16, **given}
    with pytest.raises((ValueError, TypeError), match=said) as error:
        autotune(out=tmp_path / "run", **arguments)
    assert "\n" not in str(error.value)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^'colour' is not an option of autotune; it has amp, baseline, batch_size,"):
        autotune(plain, (3,), points(), colour="red")


def test_it_is_found_where_it_is_documented() -> None:
    assert cb.training.autotune is autotune
    assert cb.training.AutotuneConfig is AutotuneConfig


@pytest.mark.parametrize("baseline", [True, False])
def test_a_network_that_was_not_trained_is_called_so_and_its_epochs_are_one_number(
    monkeypatch: pytest.MonkeyPatch, baseline: bool, tmp_path: Path
) -> None:
    acts_as_one(monkeypatch, at={(0, 0)})
    lines: list[str] = []
    result = autotune(
        plain, (2,), points(), points(), epochs=2, batch_size=16, baseline=baseline, validation_share=0.25,
        policy=Policy("mine", "the first block", lambda _, names: [names[0][0]], looks_before=True),
        show=lambda status, *_: lines.append(status), out=tmp_path / "run",
    ).result  # fmt: skip
    before, after = result["before"], result["after"]
    assert (before["epochs"], before["trained"], after["trained"]) == (2 * baseline, baseline, True)
    assert rows_of_rounds(result)[0][2] == before["epochs"]
    said = text(result)
    assert ("not trained" in said) == (not baseline)
    assert re.search(rf"^validation accuracy +{percent(before['validation_accuracy'])} ", said, re.MULTILINE)
    assert after["validation_accuracy"] == history_of(tmp_path / "run")[-1]["validation_accuracy"]
    assert {line["seed"] for line in history_of(tmp_path / "run")} == {0}
    assert [line.endswith(", trained on for the comparison") for line in lines[:3]] == [False, baseline, baseline]
    for told in (*result["rounds"], before, after):
        assert (told["architecture"]["width"], told["architecture"]["width_multiplier"]) == (None, None)
    with pytest.raises(
        ValueError, match=r"its weights are cbkernels\.files\.checkpoints\.load_checkpoint\("
    ) as refused:
        load_trained(tmp_path / "run")
    weights = re.search(r"weights are cbkernels\.files\.checkpoints\.(.*), for its", str(refused.value))
    assert weights is not None
    model = plain(Architecture.from_dict(after["architecture"]))
    model.load_state_dict(eval(weights[1], {"load_checkpoint": load_checkpoint}))


def test_widths_of_ones_own_that_are_given_are_kept() -> None:
    for architecture in (Architecture((3,), "mine", width=24), Architecture((3,)), Architecture((3,), "fnn")):
        assert Architecture.from_dict(architecture.to_dict()) == architecture
    assert Architecture((3,), "mine", width=24).to_dict()["width"] == 24
    assert Architecture((3,), "fnn").to_dict()["width"] == 10
