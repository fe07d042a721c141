"""The grid of a training whose learning rate changes: a schedule changes no result, and none ends in an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE (not installed)")
from torch import nn  # noqa: E402
from torch.optim import lr_scheduler  # noqa: E402

import cbkernels as cb  # noqa: E402
from cbkernels.models.training_grid import TrainingGrid  # noqa: E402
from cbkernels.training import load_digits  # noqa: E402

PEAK, BATCH, EPOCHS, SAMPLES = 0.05, 64, 4, 512
UPDATES = EPOCHS * SAMPLES // BATCH
SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "one cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=UPDATES + 1),
    "cosine to 0": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, UPDATES),
    "linear to 0": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, UPDATES),
    "warm-up, then cosine": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.LinearLR(optimizer, 1e-9, 1.0, 10), lr_scheduler.CosineAnnealingLR(optimizer, UPDATES - 10)],
        [10],
    ),
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def resnet() -> nn.Sequential:
    """Four blocks, of which the third adds nothing to its input, ever."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    model = nn.Sequential(*stem, *[Block() for _ in range(4)], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    for parameter in model[5].body[4].parameters():
        nn.init.zeros_(parameter).requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = (torch.from_numpy(array) for array in load_digits())
    return x.float().reshape(-1, 1, 8, 8)[:SAMPLES], y[:SAMPLES]


def counts(report: Any) -> dict[str, tuple[int, int, int]]:
    return {layer: (r.num_bundles, r.num_conflicting, r.num_conflicting_rows) for layer, r in report.items()}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_epoch_of_a_schedule_has_the_conflicts_of_its_peak(
    schedule: str, digits: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model, (x, y) = resnet(), digits
    optimizer = torch.optim.SGD(model.parameters(), lr=PEAK, momentum=0.9)
    scheduler, probe = SCHEDULES[schedule](optimizer), (x[:128], y[:128])

    def on_the_peak() -> cb.UpdateGrid:
        amplitude = max(float(p.abs().max()) for p in model.parameters() if p.requires_grad)
        return cb.UpdateGrid(PEAK, BATCH, amplitude)

    monitor = cb.LayerMonitor(model, probe, optimizer=optimizer, batch_size=BATCH)
    expected = cb.LayerMonitor(model, probe, grid=on_the_peak)
    for epoch in range(EPOCHS):
        for batch in torch.arange(SAMPLES).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            scheduler.step()
        report, current = monitor.measure(epoch), optimizer.param_groups[0]["lr"]
        assert counts(report) == counts(expected.measure(epoch)), epoch
        assert report.conflicting() == ["5.body"], epoch
        assert report.learning_rates == pytest.approx({"peak": PEAK, "current": current})
    assert f"The grid takes the peak learning rate 0.05; the current one is {current:.3g}." in str(report)
    assert "lr=0.05 " in monitor.history.equality
    assert bool((monitor.history.num_conflicting[:, 0] == monitor.history.num_conflicting[:, -1]).all())
    if current:  # what the grid of the moment makes of it
        now = cb.LayerMonitor(model, probe, optimizer=optimizer, batch_size=BATCH, learning_rate="current").measure()
        assert now.conflicting() == list(now)
        assert now.learning_rates == pytest.approx({"current": current, "peak": PEAK})


def test_what_if_weights_had_16_bits_asks_for_weights_of_that_type() -> None:
    """The largest weight is beside a midpoint of two bfloat16 numbers, as it comes to be in some epochs."""
    model = nn.Sequential(nn.Linear(9, 9, bias=False), nn.Identity())
    rows = 0.1 * (torch.arange(64)[:, None] // 2 ** torch.arange(9) % 2) - 0.05
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    monitor = cb.LayerMonitor(model, (rows, torch.arange(64) % 2), layers=["1"], optimizer=optimizer, batch_size=64)
    for w in (1.0, 1.00390625, 1.0078125):
        model[0].weight.data = w * torch.eye(9)
        report = monitor.measure(dtype="bfloat16")
        assert (report["1"].num_bundles, report.conflicting()) == (1, ["1"])
        assert report.grid == cb.UpdateGrid(1e-3, 64, w, dtype="bfloat16")
        assert monitor.measure()["1"].num_bundles == 64


def rates_of(grid: TrainingGrid, model: nn.Module, *rates: float) -> list[float]:
    """What the grid takes while the optimizer's only group goes through these rates."""
    taken = []
    for rate in rates:
        grid.optimizer.param_groups[0]["lr"] = rate  # type: ignore[union-attr]
        taken.append(grid.of(model)[0].learning_rate)
    return taken


def test_without_a_scheduler_the_peak_is_the_largest_rate_seen() -> None:
    model = nn.Linear(2, 2)
    grid = TrainingGrid(torch.optim.SGD(model.parameters(), lr=0.0), 8)
    with pytest.raises(ValueError, match=r"the learning rate is 0, and no larger .* or an UpdateGrid\(...\) as grid="):
        rates_of(grid, model, 0.0)
    assert rates_of(grid, model, 0.01, 0.1, 0.1, 0.001, 0.0) == [0.01, 0.1, 0.1, 0.1, 0.1]
    assert grid.of(model)[1] == {"peak": 0.1, "current": 0.0}


def test_fields_that_know_no_larger_rate_do_not_hide_the_one_seen() -> None:
    """A warm-up whose optimizer began at 0; a cycle, of which torch leaves only the lower end in the groups."""
    model = nn.Linear(2, 2)
    for initial in (0.0, 0.001):
        grid = TrainingGrid(torch.optim.SGD(model.parameters(), lr=0.1), 8)
        grid.optimizer.param_groups[0]["initial_lr"] = initial  # type: ignore[union-attr]
        assert rates_of(grid, model, 0.01, 0.1, 0.02, 0.0) == [0.01, 0.1, 0.1, 0.1]


def test_a_new_schedule_has_a_peak_of_its_own() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    grid = TrainingGrid(optimizer, 8)
    assert rates_of(grid, model, 0.1, 0.05) == [0.1, 0.1]
    lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=4)
    assert grid.of(model)[0].learning_rate == 0.01


def test_what_a_finished_cycle_left_is_no_peak_of_the_next_phase() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    grid, group = TrainingGrid(optimizer, 8), optimizer.param_groups[0]
    lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=4)
    assert grid.of(model)[0].learning_rate == 1.0
    group["initial_lr"] = 0.01
    assert rates_of(grid, model, 0.01, 0.005) == [0.01, 0.01]
    group["initial_lr"] = 0.001
    assert rates_of(grid, model, 0.001) == [0.001]
    lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=4, div_factor=10)  # a new cycle with the top of the old one
    assert grid.of(model)[0].learning_rate == 1.0


def test_groups_of_several_rates_give_the_coarsest_grid_and_each_has_its_peak() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    optimizer = torch.optim.SGD([{"params": model[at].parameters(), "lr": lr} for at, lr in ((0, 0.2), (2, 0.1))])
    monitor = cb.LayerMonitor(
        model, (torch.randn(4, 2), torch.arange(4) % 2), layers=["1"], optimizer=optimizer, batch_size=8
    )
    assert monitor.measure().learning_rates == {"peak": 0.1, "largest": 0.2}
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.01
    report = monitor.measure()
    assert report.learning_rates == {"peak": 0.1, "current": 0.01, "largest": 0.2}
    assert "the smallest of the optimizer's groups (the largest is 0.2); the current one is 0.01." in str(report)


def test_a_rate_that_is_a_tensor_counts_when_a_grid_is_taken() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.5))
    grid = TrainingGrid(optimizer, 8)
    grid.see(optimizer)
    assert grid.of(model)[0].learning_rate == 0.5
    optimizer.param_groups[0]["lr"].fill_(0.25)
    assert grid.of(model) == (cb.UpdateGrid.from_optimizer(model, optimizer, 8, learning_rate=0.5),
                              {"peak": 0.5, "current": 0.25})  # fmt: skip


def test_the_rate_may_be_given_for_the_grid_of_the_optimizer_only() -> None:
    model, probe = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (torch.randn(4, 2), torch.arange(4) % 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    report = cb.LayerMonitor(model, probe, layers=["1"], optimizer=optimizer, batch_size=8, learning_rate=0.3).measure()
    assert report.learning_rates == {"given": 0.3, "current": 0.0}
    assert report.grid is not None
    assert report.grid.learning_rate == 0.3
    with pytest.raises(ValueError, match="learning_rate is 'current' but grid is not 'optimizer'; leave one of them"):
        cb.LayerMonitor(model, probe, grid=None, learning_rate="current")
    with pytest.raises(ValueError, match="learning_rate is 'now'; pass 'peak', 'current' or a positive number"):
        cb.LayerMonitor(model, probe, optimizer=optimizer, batch_size=8, learning_rate="now")
