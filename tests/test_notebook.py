"""What a notebook, or a prompt, shows of the objects that people hold: one line, and a table as HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

torch = pytest.importorskip("torch", reason="objects of a notebook: NOT TESTED HERE (no torch)")

import cbkernels as cb  # noqa: E402
from cbkernels.training import Architecture, Autotuned  # noqa: E402


class Cells(HTMLParser):
    """The texts of the cells, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.texts.append(data)


def cells(thing: object) -> list[str]:
    html = thing._repr_html_()  # type: ignore[attr-defined]
    read = Cells(html)
    assert read.open == []
    assert "<script" not in html
    return read.texts


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


@pytest.fixture
def probe() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.eye(4), torch.tensor([0, 1, 0, 1])


def test_a_monitor_and_its_history(probe: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    monitor = cb.LayerMonitor(model, probe, grid=None)
    assert repr(monitor) == "LayerMonitor(Sequential, probe of 4 rows, 0 measurements)"
    assert repr(monitor.history) == "History(0 reports of 0 layers)"
    with torch.no_grad():
        model[0].bias.fill_(-9.0)
    monitor.measure(step=3)
    assert repr(monitor.history) == "History(1 report of 1 layers, step 3)"
    assert repr(monitor).startswith("LayerMonitor(Sequential, probe of 4 rows, 1 measurements; the last: LayerReport(")
    assert cells(monitor) == cells(monitor.history)
    assert cells(monitor)[-5:] == ["3", "1", "1", "0.693147", "1"]


def test_a_pruning_and_its_summary(probe: tuple[torch.Tensor, torch.Tensor]) -> None:
    model = torch.nn.Sequential(*[Block() for _ in range(4)], torch.nn.Linear(4, 2))
    model, surgery, log = cb.prune_blocks(model, probe, evaluate=lambda model: 1.0, rank="random", target=0.5)
    summary = surgery.summary(probe[0], repeats=1)
    assert repr(summary) == "SurgerySummary(4 -> 2 blocks, 90 -> 50 parameters)"
    assert cells(summary)[:8] == ["before", "after", "change", "residual blocks", "4", "2", "-50.0 %", "parameters"]
    assert repr(log).startswith("PruneLog(2 of 4 blocks removed by random; ")
    assert "2 of 4" in cells(log)
    assert "kept" in cells(log)


def test_an_autotuned_network() -> None:
    rounds = [
        {"round": 0, "name": "<b>", "epochs": 0, "conflict_epoch": 0, "removed": ["1"], "entropy": 0.5},
        {"round": 1, "name": "small", "epochs": 9, "conflict_epoch": None, "removed": [], "entropy": None},
    ]
    result = {
        "status": "trained",
        "reason": "it did",
        "rounds": rounds,
        "before": {"epochs": 2},
        "after": {"test_accuracy": 0.5},
    }
    tuned = Autotuned(None, Architecture((3,), "fnn"), result)
    assert repr(tuned) == f"Autotuned(trained after 2 rounds: {Architecture((3,), 'fnn')}, test accuracy 50.0 %)"
    assert cells(tuned)[6:] == ["0", "<b>", "2", "0", "1", "0.5", "1", "small", "9", "\u2013", "0", "\u2013"]


def test_names_that_are_not_public_are_not_shown() -> None:
    for package in (cb, cb.training, cb.integrations):
        assert {name for name in dir(package) if not name.startswith("__")} == set(package.__all__) - {"__version__"}
