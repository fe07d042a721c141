"""Several runs on one page: seeds are one curve, what differs is a table, and RePr's verdicts stand above its runs."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the report: NOT TESTED HERE (no matplotlib)")
pytest.importorskip("jinja2", reason="the report: NOT TESTED HERE (no Jinja2)")

from cbkernels.page import comparisons, figures
from cbkernels.page.figures import Curve, Picture
from cbkernels.page.run_page import write_report
from cbkernels.runs.reader import read_comparison, read_run

from ..sample_runs import content_of, copied
from .test_run_page import Page


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is spent on pictures."""
    monkeypatch.setattr(figures, "rendered", lambda name, alt, draw: Picture(name, alt, b"<svg/>", b"p"))


def run_of(to: Path, accuracies: list[float], **options: object) -> Path:
    """A training with these options and test accuracies after each epoch."""
    folder = copied("train_fnn", to)
    config, result = (content_of(folder / name) for name in ("config.json", "result.json"))
    (folder / "config.json").write_text(json.dumps({**config, **options}))
    (folder / "result.json").write_text(json.dumps({**result, "seed": options.get("seed", result["seed"])}))
    first = json.loads((folder / "history.jsonl").read_text().splitlines()[0])
    lines = [{**first, "epoch": epoch, "test_accuracy": accuracy} for epoch, accuracy in enumerate(accuracies)]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def seeds(tmp_path: Path) -> list[Path]:
    """Three seeds of one configuration, the last of them unfinished, and a run with another learning rate."""
    return [
        run_of(tmp_path / "small-seed0", [0.1, 0.5, 0.7], seed=0),
        run_of(tmp_path / "small-seed1", [0.2, 0.6, 0.9], seed=1),
        run_of(tmp_path / "small-seed2", [0.3, 0.7], seed=2),
        run_of(tmp_path / "slow", [0.1, 0.1, 0.1], seed=0, learning_rate=1e-5),
    ]


def drawn_curves(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> list[Curve]:
    """What the picture of all runs is drawn from."""
    drawn: list[Curve] = []
    monkeypatch.setattr(figures, "overlaid_curves", lambda curves, chances: drawn.extend(curves))

    def rendered(name: str, alt: str, draw: object) -> Picture:
        draw()  # type: ignore[operator]
        return Picture(name, alt, b"<svg/>", b"p")

    monkeypatch.setattr(figures, "rendered", rendered)
    comparisons.section_of([read_run(folder) for folder in folders])
    return drawn


def test_seeds_are_one_curve_with_a_band(seeds: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    mean, slow = drawn_curves(seeds, monkeypatch)
    assert mean.label == "small, 3 seeds (train)"
    assert list(mean.epochs) == [0, 1], "one seed has no third epoch yet, and a mean of the others would jump"
    assert mean.test_accuracy == pytest.approx([0.2, 0.6])
    assert (mean.low, mean.high) == ([0.1, 0.5], [0.3, 0.7])
    assert (slow.label, list(slow.test_accuracy), slow.low) == ("slow (train)", [0.1] * 3, ())


def test_the_same_seed_twice_is_no_spread_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [run_of(tmp_path / name, [0.1, 0.5], seed=4) for name in ("first", "again")]
    assert [curve.label for curve in drawn_curves(folders, monkeypatch)] == ["first (train)", "again (train)"]


def test_the_band_is_drawn_from_the_lowest_to_the_highest() -> None:
    nothing = [math.nan] * 2
    curve = Curve("small", [0, 1], nothing, [0.2, 0.6], nothing, [0.1, 0.5], [0.3, 0.75])
    corners = figures.overlaid_curves([curve], [None]).axes[0].collections[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (0.1, 0.75)


@pytest.mark.usefixtures("undrawn")
def test_only_what_differs_is_in_the_table(seeds: list[Path], tmp_path: Path) -> None:
    page = Page(write_report(seeds, tmp_path / "r.html"))
    assert page.row("option") == ["small, 3 seeds (train)", "slow (train)"]
    assert page.row("learning_rate") == [json.dumps(content_of(seeds[0] / "config.json")["learning_rate"]), "1e-05"]
    assert page.row("seed") == ["0, 1, 2", "0"]
    for same in ("width", "dataset", "schema", "command"):
        assert [row for row in page.rows if row[:1] == [same]] == []
    assert "in a band from the lowest to the highest" in page.words
    tuned = Page(write_report([seeds[3], copied("autotune", tmp_path / "auto")], tmp_path / "r.html"))
    assert tuned.row("command")[0:2] == ["train", "autotune"]
    assert [row for row in tuned.rows if row[:1] == ["policy"]] == [], "an option of one command alone"


@pytest.mark.usefixtures("undrawn")
def test_runs_that_differ_in_the_seed_alone_need_no_table(seeds: list[Path], tmp_path: Path) -> None:
    page = Page(write_report(seeds[:3], tmp_path / "r.html"))
    assert "The 3 runs differ only in the seed: 0, 1, 2." in page.words
    assert [row for row in page.rows if row[:1] == ["option"]] == []
    again = Page(write_report([seeds[0], seeds[0]], tmp_path / "r.html"))
    assert "Their configurations are the same." in again.words


# --- RePr -----------------------------------------------------------------------------------------


def test_a_comparison_has_its_verdicts_and_its_picture(tmp_path: Path) -> None:
    folder = copied("repr_compare", tmp_path / "repr")
    page = Page(write_report([folder], folder / "report.html"))
    assert page.words.startswith("repr: cbkernels repr compare repr: cbkernels repr compare Does RePr help?")
    content = content_of(folder / "comparison.json")
    assert f"random: {content['rows'][1]['verdict']}." in page.words
    assert [row for row in page.rows if row[0] == "random"] == [
        ["random", "10.0 %", "0.0 points", "+1.3 points", "5.3 points"], ["random", "+5.0 points", "-2.5 points"],
    ]  # fmt: skip
    assert (folder / "report_files" / "repr-0.svg").is_file()
    assert page.row("repr") == ["false", "true"]
    assert page.words.index("Does RePr help?") < page.words.index("standard-seed0 : cnn")
    assert len([line for line in page.rows if line[0].endswith(("-seed0", "-seed1"))]) == 4


def test_the_command_draws_the_same_picture(real_runs: dict[str, Path]) -> None:
    from cbkernels.commands import repr as command

    folder = real_runs["fnn"].parent / "comparison"
    (folder / "comparison.png").unlink(missing_ok=True)
    assert command._draw(folder) == str(folder / "comparison.png")
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    record = read_comparison(folder)
    assert record is not None
    axes = comparisons.picture_of(record).axes
    assert {line.get_label() for line in axes[0].lines} == {"standard", "random"}
    assert len(axes[0].patches) == 1, "one cycle, in which filters were dropped"


def test_two_comparisons_keep_their_pictures_apart(tmp_path: Path) -> None:
    folders = [copied("repr_compare", tmp_path / name) for name in ("one", "two")]
    page = Page(write_report(folders, tmp_path / "r.html"))
    assert "8 runs compared" in page.words
    assert {path.stem for path in (tmp_path / "r_files").iterdir()} >= {"repr-0", "repr-1"}


def test_a_comparison_names_no_folder_but_its_own(tmp_path: Path) -> None:
    """Whoever gives a comparison away could otherwise show other files of this disk."""
    folder = copied("repr_compare", tmp_path / "repr")
    content = content_of(folder / "comparison.json")
    copied("train_fnn", tmp_path / "secret-seed0")
    rows = [*content["rows"], {"criterion": "../secret", "verdict": "so"}]
    (folder / "comparison.json").write_text(json.dumps({**content, "rows": rows}))
    record = read_comparison(folder)
    assert record is not None
    assert record.runs["../secret"] == {}
    (folder / "comparison.json").write_text(json.dumps({**content, "rows": []}))
    with pytest.raises(ValueError, match=r"holds none of the runs that its comparison\.json names"):
        write_report([folder], tmp_path / "r.html")
    (folder / "comparison.json").write_text('{"command": "chess"}')
    with pytest.raises(ValueError, match="is not of cbkernels repr compare; name the folder of a run"):
        write_report([folder], tmp_path / "r.html")


def test_hostile_names_and_numbers_of_a_comparison_are_shown_and_drawn(tmp_path: Path) -> None:
    folder, name = copied("repr_compare", tmp_path / "repr"), "<b>$\\frac{1}{$\u202e"
    for seed in (0, 1):
        run = (folder / f"random-seed{seed}").rename(folder / f"{name}-seed{seed}")
        history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
        lines = [{**line, "orthogonality": 1e308, "test_accuracy": 0.5} for line in history]
        (run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        result = content_of(run / "result.json")
        cycles = [{"cycle": 0, "before": {"epoch": 1e308}, "reduced": {"epoch": 2}}]
        (run / "result.json").write_text(json.dumps({**result, "repr": cycles}))
    content = content_of(folder / "comparison.json")
    rows = [content["rows"][0], {**content["rows"][1], "criterion": name, "mean": "much", "verdict": "<i>so</i>"}]
    config = {**content["config"], "repr_share": "all", "dataset": [name]}
    (folder / "comparison.json").write_text(json.dumps({**content, "rows": rows, "config": config, "seeds": [0, 1]}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = Page(write_report([folder], folder / "report.html"))
    assert "<b>$\\frac{1}{$\ufffd: <i>so</i>." in page.words
    assert "\u202e" not in page.source
    assert not page.all("b")
    record = read_comparison(folder)
    assert record is not None
    labels = [line.get_label() for line in comparisons.picture_of(record).axes[0].lines]
    assert labels == ["standard", "<b>$\\frac{1}{$\ufffd"]
