"""Which blocks a removal or an auto-tune took away: every block is followed, drawn, counted, and told in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the report: NOT TESTED HERE (no matplotlib)")
pytest.importorskip("jinja2", reason="the report: NOT TESTED HERE (no Jinja2)")

from cbkernels.drawing.block_figures import Stage, plot_blocks
from cbkernels.page import figures
from cbkernels.page.architectures import picture_of, stages_of_autotune, stages_of_removal
from cbkernels.page.run_page import write_report
from cbkernels.runs.schema import AutotuneResult, Block, NetworkCost, RemoveResult, Round

from .. import sample_runs
from ..sample_runs import copied


def network(*blocks: int, model: str = "resnet") -> dict[str, Any]:
    return {"blocks": list(blocks), "model": model, "width": 10, "width_multiplier": 1.0}


def gone(stages: list[Stage]) -> list[list[int]]:
    return [[place for place, stays in enumerate(stage.stays) if not stays] for stage in stages]


def autotune(**other: Any) -> AutotuneResult:
    """From 3-1-0-4 blocks to 2-1-0-1 in three rounds."""
    rounds = (
        Round(round=0, architecture=network(3, 1, 0, 4), removed=("stages.0.1", "stages.3.1")),
        Round(round=1, architecture=network(2, 1, 0, 3), removed=("stages.3.1", "stages.3.2")),
        Round(round=2, architecture=network(2, 1, 0, 1)),
    )
    ends = {
        "before": NetworkCost(architecture=network(3, 1, 0, 4)),
        "after": NetworkCost(architecture=network(2, 1, 0, 1)),
    }
    return AutotuneResult(**{"rounds": rounds, **ends, **other})


def test_blocks_are_followed_through_the_rounds() -> None:
    """In round 1 the blocks of stage 3 are the first ones 0, 2 and 3, under the names 0, 1 and 2."""
    stages, remark = stages_of_autotune(autotune())
    assert [stage.name for stage in stages] == ["stage 0", "stage 1", "stage 3"]
    assert gone(stages) == [[1], [], [1, 2, 3]]
    assert remark == ""


def test_the_network_of_an_exhausted_autotune_is_the_one_of_its_round() -> None:
    after = NetworkCost(architecture=network(2, 1, 0, 3), round=1)
    stages, remark = stages_of_autotune(autotune(after=after))
    assert (gone(stages), remark) == ([[1], [], [1]], "")


def test_blocks_of_unknown_names_are_counted() -> None:
    rounds = (Round(round=0, architecture=network(4, model="own"), removed=("layer1", "layer3")),)
    known = {"before": NetworkCost(architecture=network(4, model="own")), "after": NetworkCost(architecture=network(2))}
    stages, remark = stages_of_autotune(AutotuneResult(rounds=rounds, **known))
    assert [stage.name for stage in stages] == ["blocks"]
    assert gone(stages) == [[2, 3]]
    assert "Which ones is not known" in remark
    for missing in ("before", "after"):
        assert stages_of_autotune(replace(autotune(), **{missing: None})) == ([], "")
        odd = NetworkCost(architecture={"blocks": "many"})
        assert stages_of_autotune(replace(autotune(), **{missing: odd})) == ([], "")


def test_a_removal_has_its_blocks_stage_by_stage() -> None:
    blocks = tuple(Block(block=f"b{i}", stage=stage) for i, stage in enumerate((0, 0, 1, 1, 1)))
    stages = stages_of_removal(RemoveResult(blocks=blocks, removed=("b1", "b4")))
    assert [stage.name for stage in stages] == ["stage 0", "stage 1"]
    assert gone(stages) == [[1], [2]]
    assert stages_of_removal(RemoveResult()) == []


@pytest.mark.parametrize("counts", [(1,), (2, 2, 2, 2), (120,), (3, 24, 36, 3), (250, 1)])
def test_boxes_are_filled_or_hollow_and_large_enough(counts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    stages = [Stage(f"stage {i}", rng.random(count) < 0.5) for i, count in enumerate(counts)]
    figure = plot_blocks(stages)
    figure.draw_without_rendering()
    ax, edges = figure.axes[0], figure.get_window_extent()
    drawn = {True: 0, False: 0}
    for patch in ax.patches:
        boxes = patch.get_transform().transform(patch.get_path().vertices).reshape(-1, 5, 2) / figure.dpi
        drawn[patch.get_facecolor()[:3] != (1.0, 1.0, 1.0)] += len(boxes)
        assert (np.ptp(boxes, axis=1) > 0.1).all(), "7 pixels on a telephone"
        assert boxes.min() >= 0
        assert (boxes.max(axis=(0, 1)) * figure.dpi <= edges.size).all()
    assert drawn == {True: sum(sum(s.stays) for s in stages), False: sum(sum(~np.array(s.stays)) for s in stages)}
    for words in ax.texts:
        box = words.get_window_extent()
        assert edges.x0 <= box.x0 < box.x1 <= edges.x1, words
    assert [words.get_text() for words in ax.texts if " of " in words.get_text()] == [
        f"{sum(stage.stays)} of {len(stage.stays)}" for stage in stages
    ]
    colours = [patch.get_edgecolor() for patch in ax.patches]
    assert len(set(colours)) == min(4, len(counts)), "stages that follow each other differ"


def test_the_picture_says_its_counts_in_words() -> None:
    picture, caption = picture_of([Stage("stage 0", [True, False]), Stage("stage 1", [True] * 3)], "run-1-") or (
        None,
        "",
    )
    assert caption == "1 of 5 blocks were removed; what stays, stage 0: 1 of 2; stage 1: 3 of 3."
    assert picture
    assert (picture.name, picture.alt) == (
        "run-1-architecture", f"The blocks of the network as boxes, the removed ones hollow. {caption}"
    )  # fmt: skip
    assert picture_of([Stage("stage 0", [True])], "") is None
    assert picture_of([], "") is None
    assert picture_of([Stage("stage 0", [False] * 2001)], "") is None


def test_pages_of_removals_and_autotunes_have_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "rendered", lambda name, alt, draw: figures.Picture(name, alt, b"<svg/>", b"p"))
    for folder, words in (
        (copied("remove", tmp_path / "remove"), "1 of 2 blocks were removed; what stays, stage 0: 1 of 2."),
        (copied("autotune", tmp_path / "tune"), "4 of 8 blocks were removed; what stays, blocks: 4 of 8."),
        (sample_runs.write_rounds(tmp_path / "deep", (120, 61, 12), 1), "108 of 120 blocks were removed; what stays, "),
    ):  # fmt: skip
        source = write_report([folder], folder / "report.html").read_text()
        assert source.count(f"<figcaption>{words}") == 1
        assert source.count(f"hollow. {words}") == 1
