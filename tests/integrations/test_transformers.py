"""The Hugging Face callback: what it measures and logs, resuming, and that it leaves the training alone."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest

import cbkernels as cb

torch = pytest.importorskip("torch", reason="Hugging Face callback: NOT TESTED HERE (needs torch)")
transformers = pytest.importorskip("transformers", reason="Hugging Face callback: NOT TESTED HERE (needs transformers)")
pytest.importorskip("accelerate", reason="Hugging Face callback: NOT TESTED HERE (its Trainer needs accelerate)")

from cbkernels.findings.history import History  # noqa: E402
from cbkernels.integrations.transformers import LayerMonitorCallback  # noqa: E402
from cbkernels.models.monitor import LayerMonitor  # noqa: E402

GENERATOR = torch.Generator().manual_seed(1)
IDS = torch.randint(0, 40, (32, 9), generator=GENERATOR)
LABELS = IDS[:, 0] % 2
DATA = [{"input_ids": ids, "labels": label} for ids, label in zip(IDS, LABELS, strict=True)]
PROBE = {"input_ids": IDS, "labels": LABELS}
SUMMARY = {
    f"bundle_entropy_summary/{name}"
    for name in ("num_conflicting_layers", "largest_entropy", "mean_entropy", "smallest_margin_bits")
}


def bert(dropout: float = 0.1) -> Any:
    """A tiny one with random weights."""
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=12, num_labels=2, hidden_dropout_prob=dropout,
        )
    )  # fmt: skip


def arguments(folder: Path, epochs: float = 2, **options: Any) -> Any:
    given = {
        "num_train_epochs": epochs, "per_device_train_batch_size": 8, "report_to": [], "use_cpu": True,
        "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "epoch", "seed": 0, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    return transformers.TrainingArguments(output_dir=str(folder), **{**given, **options})


def train(
    folder: Path, callback: Any = None, *, attach: bool = True, model: Any = None, resume: Path | None = None,
    trainer: type[Any] = transformers.Trainer, more: list[Any] | None = None, **options: Any,
) -> Any:  # fmt: skip
    callbacks = [callback] if callback is not None and not attach else []
    made = trainer(
        model=bert() if model is None else model, args=arguments(folder, **options), train_dataset=DATA,
        eval_dataset=DATA[:8], callbacks=[*(more or []), *callbacks],
    )  # fmt: skip
    if callback is not None and attach:
        assert callback.attach(made) is callback
    made.train(resume_from_checkpoint=None if resume is None else str(resume))
    return made


def content(history: History) -> list[dict[str, Any]]:
    """All of it but the times."""
    return [{**r.to_dict(), "seconds": 0, "seconds_since_last": 0} for r in history]


def logged(trainer: Any) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if set(entry) >= SUMMARY]


class ByHand(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Measures at the same moments."""

    def __init__(self, batch_size: int) -> None:
        self.history, self.batch_size = History(), batch_size

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        monitor = LayerMonitor(
            kwargs["model"], PROBE, optimizer=kwargs["optimizer"], batch_size=self.batch_size, reduce="cls"
        )
        self.history.append(monitor.measure(state.global_step))


def test_it_measures_what_a_monitor_by_hand_measures(tmp_path: Path) -> None:
    callback, by_hand = LayerMonitorCallback(PROBE, reduce="cls"), ByHand(batch_size=16)
    train(tmp_path, callback, more=[by_hand], gradient_accumulation_steps=2)
    assert callback.history.steps == [2, 4]
    assert content(callback.history) == content(by_hand.history)
    assert callback.history[0].grid is not None
    assert (callback.history[0].grid.batch_size, callback.history[0].grid.learning_rate) == (16, 1e-3)
    assert "bert.encoder.layer.1" in callback.history.layers
    assert callback.not_measured == {}


def test_the_training_is_the_same_with_and_without_it(tmp_path: Path) -> None:
    watched, alone = bert(), bert()
    with_it = train(tmp_path / "a", LayerMonitorCallback(PROBE, reduce="cls", every_n_steps=1), model=watched)
    without = train(tmp_path / "b", model=alone)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (with_it, without)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2  # the loss of an epoch is still logged
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched.modules())


class Stream(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """A data set without a length."""

    def __iter__(self) -> Any:
        return iter(DATA)


def test_epochs_of_a_data_set_without_a_length_are_counted(tmp_path: Path) -> None:
    """The state's epoch is a share of max_steps there: epochs 1 and 3 were measured."""
    callback = LayerMonitorCallback(PROBE, reduce="cls", every_n_epochs=2)
    steps = len(DATA) // 8
    made = transformers.Trainer(
        model=bert(), args=arguments(tmp_path, max_steps=4 * steps, logging_strategy="no"), train_dataset=Stream()
    )
    callback.attach(made)
    made.train()
    assert callback.history.steps == [2 * steps, 4 * steps]


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(ValueError, match=r"config\.json cannot be loaded: .*; move that away or pass another name"):
        train(tmp_path, LayerMonitorCallback(PROBE, reduce="cls", name="config"))
    assert (tmp_path / "config.json").read_text() == '{"architectures": ["BertModel"]}'


@pytest.mark.parametrize(("attach", "restore"), [(True, False), (False, True)])
def test_a_resumed_training_has_the_history_of_an_undisturbed_one(tmp_path: Path, attach: bool, restore: bool) -> None:
    """``restore_callback_states_from_checkpoint`` makes the Trainer rebuild stateful callbacks, which needs a probe."""
    undisturbed, first, second = (LayerMonitorCallback(PROBE, reduce="cls") for _ in range(3))
    train(tmp_path / "a", undisturbed, epochs=4, model=bert(dropout=0), attach=attach)
    train(tmp_path / "b", first, epochs=2, model=bert(dropout=0), save_strategy="epoch", attach=attach)
    moved = (tmp_path / "b" / "checkpoint-8").rename(tmp_path / "elsewhere")
    trainer = train(
        tmp_path / "c", second, epochs=4, model=bert(dropout=0), resume=moved, attach=attach, save_strategy="epoch",
        restore_callback_states_from_checkpoint=restore,
    )  # fmt: skip
    assert second.history.steps == undisturbed.history.steps == [4, 8, 12, 16]
    assert content(second.history) == content(undisturbed.history)
    assert len(first.history) == 2
    assert [entry["step"] for entry in logged(trainer)] == [4, 8, 12, 16]
    state = json.loads((tmp_path / "c" / "checkpoint-16" / "trainer_state.json").read_text(encoding="utf-8"))
    assert len(state["stateful_callbacks"]["LayerMonitorCallback[bundle_entropy]"]) == 4


def test_the_history_is_left_in_the_output_folder(tmp_path: Path) -> None:
    callback = LayerMonitorCallback(PROBE, reduce="cls", name="probes/digits")
    train(tmp_path, callback)
    assert History.load(tmp_path / "probes_digits.json") == callback.history
    assert len(callback.history) == 2
    stopped = LayerMonitorCallback(PROBE, reduce="cls")

    class Interrupted(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", stopped, more=[Interrupted()], save_strategy="epoch")
    assert History.load(tmp_path / "b" / "bundle_entropy.json").steps == [4]


def test_a_second_training_starts_another_history(tmp_path: Path) -> None:
    callback = LayerMonitorCallback(PROBE, reduce="cls")
    trainer = train(tmp_path, callback)
    trainer.train()
    assert callback.history.steps == [4, 8]


def test_attaching_twice_joins_once(tmp_path: Path) -> None:
    callback = LayerMonitorCallback(PROBE, reduce="cls")
    trainer = train(tmp_path, callback, epochs=1)
    callback.attach(trainer)
    assert trainer.callback_handler.callbacks.count(callback) == 1


def test_after_the_training_it_holds_neither_model_nor_optimizer(tmp_path: Path) -> None:
    callback = LayerMonitorCallback(PROBE, reduce="cls")
    trainer = train(tmp_path, callback, attach=False, epochs=1)
    model, optimizer = weakref.ref(trainer.model), weakref.ref(trainer.optimizer.optimizer)
    del trainer
    gc.collect()
    assert len(callback.history) == 1
    assert (model(), optimizer()) == (None, None)


# --- when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "training", "steps"),
    [
        ({"every_n_epochs": 2}, {"epochs": 4}, [8, 16]),
        ({"every_n_steps": 3}, {}, [3, 6]),
        ({"every_n_steps": 3}, {"gradient_accumulation_steps": 2, "epochs": 3}, [3, 6]),
        ({"every_n_epochs": None}, {}, []),
        ({"every_n_epochs": None, "on_evaluate": True}, {"eval_strategy": "steps", "eval_steps": 3}, [3, 6, 8]),
        ({"on_evaluate": True}, {"eval_strategy": "epoch"}, [4, 8]),
        ({}, {"eval_strategy": "steps", "eval_steps": 3}, [4, 8]),
        ({}, {"max_steps": 6}, [4, 6]),
    ],
)
def test_when_it_measures(tmp_path: Path, options: Any, training: Any, steps: list[int]) -> None:
    callback = LayerMonitorCallback(PROBE, reduce="cls", **options)
    trainer = train(tmp_path, callback, **training)
    assert callback.history.steps == steps
    trainer.evaluate()  # outside of a training
    assert callback.history.steps == steps


def test_the_users_batch_size_and_grid_come_first(tmp_path: Path) -> None:
    grid = cb.UpdateGrid(1e-2, 8, 2.0)
    for options, expected in (({"batch_size": 100}, 100), ({"grid": grid}, 8)):
        callback = LayerMonitorCallback(PROBE, reduce="cls", **options)  # type: ignore[arg-type]
        train(tmp_path, callback, epochs=1)
        assert callback.history[0].grid is not None
        assert callback.history[0].grid.batch_size == expected


def test_the_probe_runs_in_the_trainings_precision(tmp_path: Path) -> None:
    callback = LayerMonitorCallback(PROBE, reduce="cls", layers=["bert.pooler.dense"])
    train(tmp_path, callback, epochs=1, bf16=True)
    (report,) = callback.history
    assert (report.autocast, report["bert.pooler.dense"].dtype) == ("bfloat16", "bfloat16")
    plain = LayerMonitorCallback(PROBE, reduce="cls", layers=["bert.pooler.dense"])
    train(tmp_path, plain, epochs=1)
    assert (plain.history[0].autocast, plain.history[0]["bert.pooler.dense"].dtype) == (None, "float32")


# --- logs -------------------------------------------------------------------------------------------------


class Reporter(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
    """Stands before other callbacks, as the Trainer's own reporters do."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(dict(kwargs["logs"]))


@pytest.mark.parametrize("layers", [False, True])
def test_attached_it_logs_to_every_reporter(tmp_path: Path, layers: bool) -> None:
    reporter = Reporter()
    callback = LayerMonitorCallback(PROBE, reduce="cls", log_layers=layers, layers=["bert.pooler.activation"])
    trainer = train(tmp_path, callback, more=[reporter])
    expected = [{**report.scalars(layers=layers), "epoch": epoch} for epoch, report in enumerate(callback.history, 1)]
    assert [seen for seen in reporter.seen if set(seen) >= SUMMARY] == expected
    assert logged(trainer) == [{**entry, "step": 4 * i} for i, entry in enumerate(expected, 1)]
    assert ("bundle_entropy/bert.pooler.activation" in expected[0]) is layers
    assert len([seen for seen in reporter.seen if "loss" in seen]) == 2


def test_as_an_argument_it_logs_to_the_log_history(tmp_path: Path) -> None:
    callback = LayerMonitorCallback(PROBE, reduce="cls")
    trainer = train(tmp_path, callback, attach=False)
    assert [(entry["step"], entry["epoch"]) for entry in logged(trainer)] == [(4, 1), (8, 2)]
    assert logged(trainer)[0]["bundle_entropy_summary/largest_entropy"] == max(
        r.entropy for r in callback.history[0].values()
    )


# --- what cannot be measured ------------------------------------------------------------------------------


@pytest.mark.parametrize(("warm_up", "first"), [(0, 5e-4), (4, 1e-3)])
def test_a_schedule_that_ends_at_0_is_measured_on_the_grid_of_its_peak(
    tmp_path: Path, warm_up: int, first: float
) -> None:
    """The Trainer's own default."""
    callback = LayerMonitorCallback(PROBE, reduce="cls")
    trainer = train(tmp_path, callback, lr_scheduler_type="linear", warmup_steps=warm_up)
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.0}
    assert [report.grid.learning_rate for report in callback.history if report.grid is not None] == [1e-3] * 2
    assert [report.learning_rates.get("current", 1e-3) for report in callback.history] == [first, 0.0]
    assert "The grid takes the peak learning rate 0.001; the current one is 0." in str(callback.history[1])
    last = {name.partition("_summary/")[2]: value for name, value in logged(trainer)[-1].items()}
    assert (last["grid_learning_rate"], last["current_learning_rate"]) == (1e-3, 0.0)


class NoUpdates(transformers.Trainer):  # type: ignore[misc,name-defined]
    """A schedule that tells no optimizer where it began: the rate is 0 until the second epoch."""

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        super().create_scheduler(*args, **kwargs)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0 if step > 4 else 0.0)
        for group in self.optimizer.param_groups:
            del group["initial_lr"]
        return self.lr_scheduler


class ManyRates(transformers.Trainer):  # type: ignore[misc,name-defined]
    """As with layer-wise rates and adapters: one group is frozen, one never trains, two do."""

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        frozen, idle, first, *others = self.model.parameters()
        frozen.requires_grad_(False)
        groups = ((frozen, 1e-9), (idle, 0.0), (first, 0.1), (others, 0.2))
        self.optimizer = torch.optim.SGD([{"params": params, "lr": lr} for params, lr in groups])
        return self.optimizer


class Diverging(transformers.Trainer):  # type: ignore[misc,name-defined]
    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(model, *args, **kwargs)
        next(model.parameters()).grad.fill_(float("nan"))
        return loss


def test_groups_of_several_learning_rates_are_measured_on_the_coarsest_grid(tmp_path: Path) -> None:
    """Whatever the schedule makes of them."""
    for schedule, current in (("constant", (0.1, 0.1)), ("linear", (0.05, 0.0))):
        callback = LayerMonitorCallback(PROBE, reduce="cls")
        train(tmp_path, callback, trainer=ManyRates, lr_scheduler_type=schedule)
        for report, rate in zip(callback.history, current, strict=True):
            differing = {} if rate == 0.1 else {"current": rate}
            assert report.learning_rates == {"peak": 0.1, **differing, "largest": 0.2}
            assert (report.grid or pytest.fail("no grid")).learning_rate == 0.1


@pytest.mark.parametrize(
    ("trainer", "words", "steps"),
    [
        (NoUpdates, "the learning rate is 0, and no larger one is known yet; pass the schedule's peak", [8]),
        (Diverging, "the training has diverged", []),
    ],
)
def test_what_cannot_be_measured_is_one_warning_and_a_gap(
    tmp_path: Path, trainer: type[Any], words: str, steps: list[int]
) -> None:
    callback = LayerMonitorCallback(PROBE, reduce="cls")
    with pytest.warns(UserWarning, match=f"bundle entropy was not measured at step 4: .*{words}") as caught:
        made = train(tmp_path, callback, trainer=trainer)
    assert len([w for w in caught if "bundle entropy" in str(w.message)]) == 1
    assert made.state.global_step == 8
    assert callback.history.steps == steps
    assert list(callback.not_measured) == sorted({4, 8} - set(steps))
    with pytest.raises(ValueError, match=words):
        train(tmp_path, LayerMonitorCallback(PROBE, reduce="cls", strict=True), trainer=trainer)


def test_what_is_wrong_from_the_start_is_said_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the probe's dict has the keys"):
        train(tmp_path, LayerMonitorCallback({"input_ids": IDS}))
    with pytest.raises(ValueError, match="every_n_steps is -1; it must be a positive integer or None"):
        LayerMonitorCallback(PROBE, every_n_steps=-1)
    with pytest.raises(TypeError, match="'optimizer' is no option of the callback"):
        LayerMonitorCallback(PROBE, optimizer=None)


def test_only_rank_0_measures_unless_there_is_a_group() -> None:
    state = transformers.TrainerState(is_world_process_zero=False)
    assert not LayerMonitorCallback(PROBE)._takes_part(state)
    assert LayerMonitorCallback(PROBE, process_group="world")._takes_part(state)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """transformers logs to stderr by a handler of its own."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(logging.ERROR)
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.set_verbosity(level)
    transformers.logging.enable_progress_bar()
