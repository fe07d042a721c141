"""The picture of a comparison: means over seeds, also of seeds that ended early."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib", reason="pictures: NOT TESTED HERE (no matplotlib)")

from cbkernels.drawing.repr_figures import comparison_picture


def seed(*accuracies: float) -> dict[str, list[float]]:
    nothing = [float("nan")] * len(accuracies)
    return {"epoch": list(range(len(accuracies))), "test_accuracy": list(accuracies), "orthogonality": nothing}


def test_a_seed_that_diverged_ends_its_mean_early() -> None:
    histories = {
        "standard": [seed(0.25, 0.5), seed(0.75, 0.5, 1.0)],
        "random": [seed(0.0, 0.5, 1.0), seed(0.0, 0.25, 0.5)],
    }
    above, below = comparison_picture(histories, [(1, 2)], "").axes
    assert [line.get_label() for line in above.lines] == ["standard", "random"]
    assert above.lines[0].get_ydata().tolist()[:2] == [0.5, 0.5]
    assert above.lines[1].get_xydata().tolist() == [[0, 0], [1, 0.375], [2, 0.75]]
    assert not below.lines, "what was not measured has no line"
