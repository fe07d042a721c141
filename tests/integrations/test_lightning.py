"""The Lightning callback: what it measures and logs, resuming, precision, and that it leaves the training alone."""

from __future__ import annotations

import contextlib
import csv
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import cbkernels as cb

torch = pytest.importorskip("torch", reason="Lightning callback: NOT TESTED HERE (needs torch)")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its dependencies use what Python and torch have deprecated
    pl = pytest.importorskip("lightning.pytorch", reason="Lightning callback: NOT TESTED HERE (needs lightning)")

from cbkernels.findings.history import History  # noqa: E402
from cbkernels.integrations.lightning import LayerMonitorCallback  # noqa: E402
from cbkernels.models.monitor import LayerMonitor  # noqa: E402

pytestmark = [
    # Lightning's own: advice about workers, log intervals, folders that exist, missing loaders
    pytest.mark.filterwarnings(r"ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    # Lightning 2.6 uses a function that torch 2.13 calls deprecated
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated"),
]

GENERATOR = torch.Generator().manual_seed(3)
X, Y = torch.randn(32, 8, generator=GENERATOR), torch.arange(32) % 2
SUMMARY = {
    f"bundle_entropy_summary/{name}"
    for name in ("num_conflicting_layers", "largest_entropy", "mean_entropy", "smallest_margin_bits")
}


class Module(pl.LightningModule):  # type: ignore[misc,name-defined]
    """Dropout shows whether random numbers are disturbed, the frozen batch norm whether flags are."""

    def __init__(self, rate: float = 0.1, schedule: Any = None, epoch_schedule: bool = False) -> None:
        super().__init__()
        nn = torch.nn
        self.net = nn.Sequential(
            nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2)
        )  # fmt: skip
        self.rate, self.schedule = rate, schedule
        self.flags: list[bool] = []
        self.outputs_while_validating: list[bool] = []

    def forward(self, x: Any) -> Any:
        return self.net(x)

    def on_train_epoch_start(self) -> None:
        self.net[1].eval()  # frozen

    def training_step(self, batch: Any, index: int) -> Any:
        self.flags.append(self.training and self.net[3].training and not self.net[1].training)
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.outputs_while_validating.append(self.training)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.rate)
        if self.schedule is None:
            return optimizer
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def loader(batch_size: int = 8) -> Any:
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=batch_size)


def fit(
    folder: Path, callbacks: list[Any], module: Any = None, epochs: int = 2, *, resume: str | None = None,
    validate: bool = False, loaders: Any = None, **options: Any,
) -> Any:  # fmt: skip
    torch.manual_seed(0)
    module = module or Module()
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), default_root_dir=folder, accelerator="cpu", devices=1,
        enable_progress_bar=False, enable_model_summary=False, **{"logger": False, **options},
    )  # fmt: skip
    validation = {"val_dataloaders": loader()} if validate else {}
    trainer.fit(module, loaders or loader(), ckpt_path=resume, **validation)
    return trainer


def content(history: History) -> list[dict[str, Any]]:
    """All of it but the times."""
    return [{**r.to_dict(), "seconds": 0, "seconds_since_last": 0} for r in history]


class Recorder(pl.Callback):  # type: ignore[misc,name-defined]
    """Measures by hand, at the same moments."""

    def __init__(self, batch_size: int) -> None:
        self.history, self.batch_size = History(), batch_size

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        monitor = LayerMonitor(pl_module, (X, Y), optimizer=trainer.optimizers[0], batch_size=self.batch_size)
        self.history.append(monitor.measure(trainer.current_epoch))


def test_it_measures_what_a_monitor_by_hand_measures(tmp_path: Path) -> None:
    callback, by_hand = LayerMonitorCallback((X, Y)), Recorder(batch_size=8)
    fit(tmp_path, [callback, by_hand])
    assert callback.history.steps == [0, 1]
    assert callback.history.layers == ["net.2"]
    assert content(callback.history) == content(by_hand.history)
    assert callback.not_measured == {}


def test_the_training_is_the_same_with_and_without_it(tmp_path: Path) -> None:
    watched, alone = Module(), Module()
    alone.load_state_dict(watched.state_dict())
    fit(tmp_path, [LayerMonitorCallback((X, Y), every_n_steps=1)], watched, validate=True)
    fit(tmp_path / "alone", [], alone, validate=True)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert watched.flags == alone.flags == [True] * 8
    assert watched.outputs_while_validating == alone.outputs_while_validating
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched.modules())


@pytest.mark.parametrize("validate", [False, True])
def test_a_resumed_training_has_the_history_of_an_undisturbed_one(tmp_path: Path, validate: bool) -> None:
    """With a validation loop the checkpoint is written before the epoch ends."""
    undisturbed = LayerMonitorCallback((X, Y))
    fit(tmp_path / "a", [undisturbed], epochs=4, validate=validate)
    first = LayerMonitorCallback((X, Y))
    trainer = fit(tmp_path / "b", [first], epochs=2, validate=validate)
    second = LayerMonitorCallback((X, Y))
    fit(tmp_path / "b", [second], epochs=4, validate=validate, resume=trainer.checkpoint_callback.best_model_path)
    assert second.history.steps == [0, 1, 2, 3]
    assert len(first.history) == 2
    assert content(second.history)[:2] == content(first.history)
    assert content(second.history)[2]["grid"] is not None
    assert [r["layers"] for r in content(second.history)[:2]] == [r["layers"] for r in content(undisturbed.history)[:2]]


def test_a_resumed_training_without_randomness_is_equal_to_an_undisturbed_one(tmp_path: Path) -> None:
    def module() -> Module:
        made = Module()
        made.net[3] = torch.nn.Identity()
        return made

    undisturbed, first, second = (LayerMonitorCallback((X, Y)) for _ in range(3))
    fit(tmp_path / "a", [undisturbed], torch.manual_seed(1) and module(), epochs=4)
    trainer = fit(tmp_path / "b", [first], torch.manual_seed(1) and module(), epochs=2)
    fit(tmp_path / "b", [second], module(), epochs=4, resume=trainer.checkpoint_callback.best_model_path)
    assert content(second.history) == content(undisturbed.history)
    assert len({r["grid"]["weight_amplitude"] for r in content(second.history)}) > 1


def test_a_second_training_starts_another_history(tmp_path: Path) -> None:
    callback = LayerMonitorCallback((X, Y))
    fit(tmp_path, [callback])
    fit(tmp_path, [callback], epochs=1)
    assert callback.history.steps == [0]


def test_after_the_training_it_holds_neither_model_nor_optimizer(tmp_path: Path) -> None:
    callback = LayerMonitorCallback((X, Y))

    class Failing(Module):
        def on_train_epoch_end(self) -> None:
            raise KeyError("of the user")

    for module in (Module(), Failing()):  # Lightning itself keeps both in memory, so their end cannot be watched
        with contextlib.suppress(KeyError):
            fit(tmp_path, [callback], module, epochs=1)
        assert len(callback.history) == 1
        assert (callback._monitor._monitor, callback._monitor._grid.optimizer) == (None, None)


# --- when -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "trainer_options", "steps"),
    [
        ({"every_n_epochs": 2}, {}, [1, 3]),
        ({"every_n_steps": 3}, {}, [3, 6, 9, 12, 15]),
        ({"every_n_steps": 3}, {"accumulate_grad_batches": 2}, [3, 6]),
        ({"every_n_epochs": None}, {}, []),
    ],
)
def test_when_it_measures(tmp_path: Path, options: Any, trainer_options: Any, steps: list[int]) -> None:
    callback = LayerMonitorCallback((X, Y), **options)
    fit(tmp_path, [callback], epochs=4, **trainer_options)
    assert callback.history.steps == steps


def test_the_batch_size_is_what_an_update_sees(tmp_path: Path) -> None:
    module = Module()

    def measured(loaders: Any = None, accumulate: int = 1, **options: Any) -> float:
        module.flags.clear()
        callback = LayerMonitorCallback((X, Y), **options)
        fit(tmp_path, [callback], module, epochs=1, loaders=loaders, accumulate_grad_batches=accumulate)
        grid = callback.history[0].grid
        assert grid is not None
        return grid.batch_size

    data = torch.utils.data.TensorDataset(X, Y)
    sampler = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(data), 4, drop_last=False)
    assert measured(loader(16)) == 16
    assert measured(loader(8), accumulate=4) == 32
    assert measured(torch.utils.data.DataLoader(data, batch_sampler=sampler)) == 4
    assert measured(batch_size=100) == 100

    class Own:
        def __iter__(self) -> Any:
            return iter([(X, Y)])

    with pytest.raises(ValueError, match=r"the training's Own has batch size None; pass batch_size="):
        measured(Own())
    assert module.flags == []
    assert measured(Own(), batch_size=32) == 32


def test_only_a_part_of_the_module_and_other_options(tmp_path: Path) -> None:
    grid = cb.UpdateGrid(1e-2, 8, 2.0)
    callback = LayerMonitorCallback((X, Y), module="net", layers=["0", "2"], grid=grid, margin=False)
    fit(tmp_path, [callback], epochs=1)
    (report,) = callback.history
    assert (list(report), report.grid, dict(report.margins)) == (["0", "2"], grid, {})


@pytest.mark.parametrize(
    ("precision", "dtype", "autocast", "grid_dtype"),
    [
        ("bf16-mixed", "bfloat16", "bfloat16", "float32"),
        ("bf16-true", "bfloat16", None, "bfloat16"),
        ("64-true", "float64", None, "float64"),
    ],
)
def test_the_probe_runs_in_the_trainers_precision(
    tmp_path: Path, precision: str, dtype: str, autocast: str | None, grid_dtype: str
) -> None:
    callback = LayerMonitorCallback((X, Y), layers=["net.0"])
    fit(tmp_path, [callback], epochs=1, precision=precision)
    (report,) = callback.history
    assert (report["net.0"].dtype, report.autocast) == (dtype, autocast)
    assert report.grid is not None
    assert report.grid.dtype == grid_dtype


# --- logs -------------------------------------------------------------------------------------------------


def test_four_numbers_are_logged_and_all_layers_on_request(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    callback, second = LayerMonitorCallback((X, Y)), LayerMonitorCallback((X, Y), log_layers=True, name="all")
    trainer = fit(tmp_path, [callback, second], logger=logger)
    of_all = {key.replace("bundle_entropy", "all") for key in SUMMARY} | {"all/net.2"}
    finite = {
        key for key in SUMMARY | of_all if not key.endswith("margin_bits")
    }  # its layer has equal rows, a margin of 0
    assert set(trainer.callback_metrics) == finite
    expected = callback.history[-1].scalars(layers=False)
    for key, value in expected.items():
        assert trainer.callback_metrics[key].item() == pytest.approx(value, rel=1e-6)
    lines = (Path(logger.log_dir) / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2  # a line an epoch
    assert set(trainer.callback_metrics) <= set(lines[0].split(","))


def test_steps_are_logged_at_steps(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    callback = LayerMonitorCallback((X, Y), every_n_steps=3, log_layers=True)
    trainer = fit(tmp_path, [callback], logger=logger, log_every_n_steps=1)
    with (Path(logger.log_dir) / "metrics.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["step"] for line in table] == ["3", "6"]  # of 8, and not again at every later step
    for line, report in zip(table, callback.history, strict=True):
        assert {key: float(line[key]) for key in report.scalars()} == report.scalars()
    finite = {key for key in SUMMARY if not key.endswith("margin_bits")}
    assert set(trainer.callback_metrics) == finite | {"bundle_entropy/net.2"}


def test_the_torchmetrics_metric_is_logged_by_a_module(tmp_path: Path) -> None:
    """Lightning computes it at the end of the epoch, and resets it."""
    pytest.importorskip("torchmetrics", reason="a metric in Lightning: NOT TESTED HERE (needs torchmetrics)")
    from cbkernels.integrations.torchmetrics import BundleEntropy

    class WithMetric(Module):
        def __init__(self) -> None:
            super().__init__()
            self.entropy = BundleEntropy()

        def training_step(self, batch: Any, index: int) -> Any:
            self.entropy(batch[0][:, :2].round(), batch[1])
            self.log("entropy", self.entropy, on_step=False, on_epoch=True)
            return super().training_step(batch, index)

    trainer = fit(tmp_path, [], module := WithMetric())
    expected = cb.bundle_entropy(X[:, :2].round(), Y).entropy
    assert expected > 0
    assert trainer.callback_metrics["entropy"].item() == pytest.approx(expected)
    assert module.entropy.num_rows == 0


def test_two_callbacks_of_two_names_resume_side_by_side(tmp_path: Path) -> None:
    def pair() -> list[Any]:
        return [
            LayerMonitorCallback((X, Y), layers=["net.0"]),
            LayerMonitorCallback((X, Y), layers=["net.2"], name="relu"),
        ]

    trainer = fit(tmp_path, pair())
    resumed = pair()
    fit(tmp_path, resumed, epochs=3, resume=trainer.checkpoint_callback.best_model_path)
    assert [callback.history.layers for callback in resumed] == [["net.0"], ["net.2"]]
    assert [callback.history.steps for callback in resumed] == [[0, 1, 2]] * 2


# --- what cannot be measured ------------------------------------------------------------------------------


class WithoutScheduler(Module):
    """Sets its learning rate itself."""

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        self.optimizers().param_groups[0]["lr"] = self.schedule(self.trainer.global_step)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_learning_rate_0_is_one_warning_and_a_gap(tmp_path: Path) -> None:
    callback = LayerMonitorCallback((X, Y), every_n_steps=1)
    warm_up = WithoutScheduler(schedule=lambda step: 0.0 if step < 2 else 0.1)
    with pytest.warns(UserWarning, match="not measured at step 1: the learning rate is 0, and no larger") as caught:
        fit(tmp_path, [callback], warm_up, epochs=2)
    assert len([w for w in caught if "bundle entropy" in str(w.message)]) == 1
    assert callback.history.steps == [3, 4, 5, 6, 7, 8]
    assert list(callback.not_measured) == [1, 2]


def test_every_step_of_a_schedule_is_measured_on_the_grid_of_its_peak(tmp_path: Path) -> None:
    """A warm-up from 0 and a decay to 0; without a scheduler the peak is the largest rate of an update so far."""
    warm_up, decay = (lambda step: 0.0 if step < 3 else 1.0), (lambda step: 1 - step / 8)
    for module, current in (
        (Module(schedule=warm_up), [0, 0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        (Module(schedule=decay), [0.0875, 0.075, 0.0625, 0.05, 0.0375, 0.025, 0.0125, 0]),
        (WithoutScheduler(schedule=lambda step: 0.1 * (1 - step / 7)), [0.1 * (1 - step / 7) for step in range(8)]),
    ):
        fit(tmp_path, [callback := LayerMonitorCallback((X, Y), every_n_steps=1)], module, epochs=2)
        assert [report.grid.learning_rate for report in callback.history if report.grid is not None] == [0.1] * 8
        found = [report.learning_rates.get("current", 0.1) for report in callback.history]
        assert found == pytest.approx(current, abs=1e-12)
    decay_by_hand = WithoutScheduler(schedule=lambda step: 0.1 * (1 - step / 7))
    trainer = fit(tmp_path, [callback := LayerMonitorCallback((X, Y))], decay_by_hand, epochs=2)
    logged = {name: float(trainer.callback_metrics[f"bundle_entropy_summary/{name}_learning_rate"])
              for name in ("grid", "current")}  # fmt: skip
    assert logged == pytest.approx({"grid": 0.1, "current": 0.0}, abs=1e-7)
    assert [report.learning_rates["peak"] for report in callback.history] == [0.1, 0.1], "of the first update"


def test_the_current_learning_rate_may_be_asked_for(tmp_path: Path) -> None:
    callback = LayerMonitorCallback((X, Y), learning_rate="current")
    with pytest.warns(UserWarning, match="not measured at step 1: the learning rate is 0; pass learning_rate='peak'"):
        fit(tmp_path, [callback], Module(schedule=lambda step: 1 - step / 8), epochs=2)
    assert callback.history[0].learning_rates == {"current": 0.05, "peak": 0.1}


@pytest.mark.filterwarnings("ignore:bundle entropy was not measured")
def test_diverged_weights_do_not_end_a_training_and_differing_groups_are_measured(tmp_path: Path) -> None:
    class Diverging(Module):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.net[4].weight.grad.fill_(math.inf)

    class ManyRates(Module):
        """As with layer-wise rates and adapters: one group is frozen, one never trains, two do."""

        def configure_optimizers(self) -> Any:
            frozen, idle, first, last = (*self.net[0].parameters(), *self.net[4].parameters())
            frozen.requires_grad_(False)
            groups = ((frozen, 1e-9), (idle, 0.0), (first, 0.1), (last, 0.2))
            return torch.optim.SGD([{"params": params, "lr": lr} for params, lr in groups])

    callback = LayerMonitorCallback((X, Y))
    trainer = fit(tmp_path, [callback], Diverging())
    assert trainer.current_epoch == 2
    assert (len(callback.history), list(callback.not_measured)) == (0, [0, 1])
    assert "the training has diverged" in callback.not_measured[1]
    fit(tmp_path, [callback], ManyRates())
    assert [report.learning_rates for report in callback.history] == [{"peak": 0.1, "largest": 0.2}] * 2


def test_strict_raises(tmp_path: Path) -> None:
    module = Module(rate=0.0)
    with pytest.raises(
        ValueError, match="the learning rate is 0, and no larger one is known yet; pass the schedule's peak"
    ):
        fit(tmp_path, [LayerMonitorCallback((X, Y), strict=True)], module)
    assert not any(m._forward_hooks for m in module.modules())


def test_what_is_wrong_from_the_start_is_said_before_the_training(tmp_path: Path) -> None:
    class TwoOptimizers(Module):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[0], self.net[4])]

    with pytest.raises(ValueError, match="the training has 2 optimizers; pass grid= to say what an update is"):
        fit(tmp_path, [LayerMonitorCallback((X, Y))], module := TwoOptimizers())
    assert module.flags == []  # no step was taken
    fit(tmp_path, [callback := LayerMonitorCallback((X, Y), grid=None)], TwoOptimizers())
    assert callback.history.steps == [0, 1]
    with pytest.raises(ValueError, match="nothing"):
        fit(tmp_path, [LayerMonitorCallback((X, Y), layers="nothing")])
    with pytest.raises(ValueError, match="every_n_epochs is 0; it must be a positive integer or None"):
        LayerMonitorCallback((X, Y), every_n_epochs=0)
    with pytest.raises(ValueError, match=r"every_n_steps is 1\.5"):
        LayerMonitorCallback((X, Y), every_n_steps=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="'marign' is no option of the callback; LayerMonitor has autocast, backend"):
        LayerMonitorCallback((X, Y), marign=False)


def test_sharded_weights_need_all_ranks() -> None:
    """A rank that ran the model alone would wait for ever."""
    if not torch.distributed.is_available():
        pytest.skip("sharded weights: NOT TESTED HERE (torch is built without torch.distributed)")
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from cbkernels.integrations.training_monitor import TrainingMonitor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = fully_shard(Module().net, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(ValueError, match=r"the weight '0.weight' is sharded .*; pass process_group='world'"):
            TrainingMonitor((X, Y)).begin(model)
        together = TrainingMonitor((X, Y), process_group="world")
        together.begin(model)
        report = together.measure(0, torch.optim.SGD(model.parameters(), lr=0.1), 8)
        assert report is not None
        assert report["2"].num_rows == 32
    finally:
        dist.destroy_process_group()


# --- ranks, and the other name ----------------------------------------------------------------------------


def test_only_rank_0_measures_unless_there_is_a_group() -> None:
    class Trainer:
        is_global_zero = False

    assert not LayerMonitorCallback((X, Y))._takes_part(Trainer())
    assert LayerMonitorCallback((X, Y), process_group="world")._takes_part(Trainer())


OTHER_NAME = """
import warnings
warnings.simplefilter("ignore")
import torch, pytorch_lightning as pl
from cbkernels.integrations.lightning import LayerMonitorCallback
assert issubclass(LayerMonitorCallback, pl.Callback)
class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))  # no conflicts
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
torch.manual_seed(0)
x, y = torch.randn(16, 8), torch.arange(16) % 2
data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
callback = LayerMonitorCallback((x, y))
trainer = pl.Trainer(max_epochs=2, callbacks=callback, accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Module(), data)
print(callback.history.steps, len(trainer.callback_metrics))
"""


@pytest.mark.slow
def test_the_older_name_of_the_package_works(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_lightning", reason="pytorch_lightning: NOT TESTED HERE (not installed)")
    done = subprocess.run(
        [sys.executable, "-c", OTHER_NAME], capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 1] 4"
