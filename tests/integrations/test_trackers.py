"""TensorBoard gets one picture and four numbers, any other tracker a dict; without a package there is one sentence."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels.findings.history import History
from cbkernels.findings.layer_report import LayerReport
from cbkernels.integrations import tensorboard
from cbkernels.integrations.tracking import log_report
from cbkernels.lazy import require_package

LABELS = np.array([0, 0, 1, 1, 2, 2])
GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.7)
SUMMARY = ("num_conflicting_layers", "largest_entropy", "mean_entropy", "smallest_margin_bits")


def report(step: int, num_layers: int = 40, *, collapsed: int = 0) -> LayerReport:
    """The last ``collapsed`` layers have one bundle."""
    layers = {f"block.{i}": np.eye(6) * (i < num_layers - collapsed) for i in range(num_layers)}
    results = cb.bundle_entropy_layers(layers, LABELS, grid=GRID)
    return LayerReport(results, step=step, margins=dict.fromkeys(layers, 0.5), model="Net")


HISTORY = History([report(step, collapsed=step) for step in (0, 5, 10)])


# --- TensorBoard ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What TensorBoard reads after five writes."""
    pytest.importorskip("torch", reason="TensorBoard: NOT TESTED HERE (needs torch)")
    pytest.importorskip("tensorboard", reason="TensorBoard: NOT TESTED HERE (needs tensorboard)")
    pytest.importorskip("matplotlib", reason="TensorBoard: NOT TESTED HERE (needs matplotlib)")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path_factory.mktemp("runs")
    with SummaryWriter(str(folder)) as writer:
        for count in range(1, len(HISTORY) + 1):
            tensorboard.write(writer, History(list(HISTORY)[:count]))
        tensorboard.write(writer, report(99))
        tensorboard.write(writer, HISTORY, step=123)
    read = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    read.Reload()
    return read


def test_one_image_tag_and_four_scalar_tags(events: Any) -> None:
    """However many layers and steps there are."""
    tags = events.Tags()
    assert tags["images"] == ["bundle_entropy_summary/heat_map"]
    assert sorted(tags["scalars"]) == sorted(f"bundle_entropy_summary/{name}" for name in SUMMARY)
    assert not any(found for kind, found in tags.items() if kind not in ("images", "scalars"))


def test_steps_and_numbers_are_those_of_the_last_report(events: Any) -> None:
    for name in SUMMARY:
        written = events.Scalars(f"bundle_entropy_summary/{name}")
        assert [event.step for event in written] == [0, 5, 10, 99, 123]
        expected = [
            r.scalars(layers=False)[f"bundle_entropy_summary/{name}"] for r in (*HISTORY, report(99), HISTORY[-1])
        ]
        assert [event.value for event in written] == pytest.approx(expected)
    assert [event.step for event in events.Images("bundle_entropy_summary/heat_map")] == [0, 5, 10, 99, 123]
    assert events.Scalars("bundle_entropy_summary/num_conflicting_layers")[2].value == 10


def test_the_picture_is_the_heat_map_so_far(events: Any) -> None:
    from matplotlib.image import imread

    from cbkernels.drawing.figures import content_of

    pictures = [imread(io.BytesIO(e.encoded_image_string)) for e in events.Images("bundle_entropy_summary/heat_map")]
    expected = imread(io.BytesIO(content_of(HISTORY.plot())))[..., :3]
    assert pictures[2].shape == expected.shape
    assert np.abs(pictures[2] - expected).max() < 2 / 255
    assert np.array_equal(pictures[2], pictures[4])
    assert not np.array_equal(pictures[1], pictures[2])


def test_what_cannot_be_written_is_refused_and_nothing_is_written() -> None:
    class Writer:
        written: list[str] = []  # noqa: RUF012

        def add_image(self, tag: str, *others: Any, **options: Any) -> None:
            self.written.append(tag)

        add_scalar = add_image

    with pytest.raises(TypeError, match=r"writer is a str; pass a torch.utils.tensorboard.SummaryWriter"):
        tensorboard.write("runs", HISTORY)
    with pytest.raises(TypeError, match="history_or_report is a dict; pass a History or a LayerReport"):
        tensorboard.write(Writer(), {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the history is empty"):
        tensorboard.write(Writer(), History())
    assert Writer.written == []


# --- any tracker ------------------------------------------------------------------------------------------


class Tracker:
    """Two calling conventions: ``wandb.log(data, step=)`` and ``mlflow.log_metrics(metrics, step=)``."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, float], int | None]] = []

    def log(self, data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
        self.calls.append((data, step))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None, synchronous: bool | None = None) -> str:
        assert all(type(value) is float for value in metrics.values())
        self.calls.append((metrics, step))
        return "a future"


@pytest.mark.parametrize("convention", ["log", "log_metrics", "lambda"])
def test_a_tracker_is_called_once_with_plain_numbers(convention: str) -> None:
    tracker = Tracker()
    log = (lambda values, step: tracker.log(values, step)) if convention == "lambda" else getattr(tracker, convention)
    log_report(report(7, collapsed=3), log)
    ((values, step),) = tracker.calls
    assert step == 7
    assert values == report(7, collapsed=3).scalars(layers=False)
    assert set(values) == {f"bundle_entropy_summary/{name}" for name in SUMMARY}
    assert values["bundle_entropy_summary/num_conflicting_layers"] == 3


def test_layers_step_and_prefix_can_be_chosen() -> None:
    tracker = Tracker()
    log_report(report(7, collapsed=1), tracker.log, layers=True, step=1000, prefix="probe")
    ((values, step),) = tracker.calls
    assert (step, len(values)) == (1000, 44)
    assert values["probe/block.39"] == pytest.approx(math.log(3))
    assert values["probe/block.0"] == 0.0
    log_report(LayerReport({}), tracker.log)
    assert tracker.calls[-1][1] is None


def test_what_is_no_report_or_tracker_is_refused() -> None:
    with pytest.raises(TypeError, match=r"report is a History; pass what LayerMonitor.measure\(\) returned"):
        log_report(HISTORY, print)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"log is a Tracker; pass a function like wandb.log or mlflow.log_metrics"):
        log_report(report(0), Tracker())  # type: ignore[arg-type]


def test_tensorboards_writer_is_a_tracker_too() -> None:
    class Writer:
        written: list[tuple[str, float, int | None]] = []  # noqa: RUF012

        def add_scalar(self, tag: str, value: float, step: int | None) -> None:
            self.written.append((tag, value, step))

    log_report(report(7, collapsed=3), Writer())
    assert Writer.written == [(tag, value, 7) for tag, value in report(7, collapsed=3).scalars(layers=False).items()]


# --- the real packages, offline ---------------------------------------------------------------------------

LOGGED = """
import json, os, pathlib
os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_ALLOW_FILE_STORE": "true"}
import numpy as np
import cbkernels as cb
from cbkernels.findings.layer_report import LayerReport
from cbkernels.integrations import log_report
def report(epoch):
    layers = {"fc": np.eye(6) * (epoch < 2)}
    return LayerReport(cb.bundle_entropy_layers(layers, np.array([0, 0, 1, 1, 2, 2])), step=epoch)
def logged(log_batch, log):  # ten batches an epoch, each at a step of its own
    for epoch in range(3):
        for batch in range(10):
            log_batch(10 * epoch + batch)
        log_report(report(epoch), log, layers=True)
"""
WANDB = """
import struct, wandb
from wandb.proto import wandb_internal_pb2
def records(data):  # LevelDB's log format behind a header of 7 bytes: blocks of 32 KiB, records in up to 4 parts
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        size, part = struct.unpack("<HB", data[at + 4 : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if part in (1, 4):  # all of it, the last one
            yield whole
            whole = b""
run = wandb.init(project="offline", dir=".")
logged(lambda step: wandb.log({"loss": 1.0}), wandb.log)
image = wandb.Image(report(2).plot())
run.finish()
(path,) = pathlib.Path("wandb").glob("offline-run-*/*.wandb")
lines = []
for data in records(path.read_bytes()):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    if record.WhichOneof("record_type") == "history":
        items = record.history.item
        lines.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
own = [line for line in lines if "bundle_entropy/fc" in line]
steps = [line["bundle_entropy_summary/step"] for line in own]
print(sum("loss" in line for line in lines), steps, isinstance(image, wandb.Image))
print([round(float(line["bundle_entropy/fc"]), 3) for line in own])
"""
MLFLOW = """
import mlflow
mlflow.set_tracking_uri(pathlib.Path("runs").resolve().as_uri())
with mlflow.start_run() as run:
    logged(lambda step: mlflow.log_metrics({"loss": 1.0}, step=step), mlflow.log_metrics)
history = lambda name: mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
own = history("bundle_entropy/fc")
print(len(history("loss")), [point.step for point in own], True)
print([round(point.value, 3) for point in own])
"""
TENSORBOARD = """
from torch.utils.tensorboard import SummaryWriter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
with SummaryWriter("runs") as writer:
    logged(lambda step: writer.add_scalar("loss", 1.0, step), writer)
read = EventAccumulator("runs", size_guidance={"scalars": 0})
read.Reload()
own = read.Scalars("bundle_entropy/fc")
print(len(read.Scalars("loss")), [event.step for event in own], True)
print([round(event.value, 3) for event in own])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("package", "code"), [("wandb", WANDB), ("mlflow", MLFLOW), ("tensorboard", TENSORBOARD)])
def test_nothing_is_lost_beside_what_is_logged_every_batch(package: str, code: str, tmp_path: Path) -> None:
    """An epoch is less than the number of batches so far: as wandb's own step it was dropped, with a warning."""
    pytest.importorskip(package, reason=f"{package} itself: NOT TESTED HERE (pip install '.[trackers]')")
    pytest.importorskip("matplotlib", reason=f"{package} itself: NOT TESTED HERE (needs matplotlib)")
    if package == "tensorboard":
        pytest.importorskip("torch", reason="TensorBoard: NOT TESTED HERE (needs torch)")
    counts, entropies = run(LOGGED + code, cwd=tmp_path).splitlines()[-2:]
    assert counts == "30 [0, 1, 2] True"
    assert entropies == "[0.0, 0.0, 1.099]"


# --- packages that are not there --------------------------------------------------------------------------

HIDE = """
import importlib.abc, sys
class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {packages!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def run(code: str, *hidden: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HIDE.format(packages=hidden) + code],
        capture_output=True, text=True, timeout=240, check=False, cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


SAY = """
try:
    {}
except ImportError as error:
    print(error)
else:
    print("nothing was raised")
"""


@pytest.mark.parametrize(
    ("module", "hidden", "sentence"),
    [
        ("torchmetrics", ["torchmetrics"], "torchmetrics needs torchmetrics: pip install torchmetrics"),
        ("torchmetrics", ["torch"], "torchmetrics needs torch: pip install torch"),
        ("lightning", ["lightning", "pytorch_lightning"], "lightning needs lightning: pip install lightning"),
        ("transformers", ["transformers"], "transformers needs transformers: pip install transformers"),
    ],
)
def test_a_missing_package_is_one_sentence(module: str, hidden: list[str], sentence: str, tmp_path: Path) -> None:
    for package in {module, "torch"} - set(hidden):
        pytest.importorskip(package, reason=f"missing packages: NOT TESTED HERE (needs {package} for the rest)")
    said = run(SAY.format(f"import cbkernels.integrations.{module}"), *hidden, cwd=tmp_path).strip()
    missing = hidden[0] if hidden != ["lightning", "pytorch_lightning"] else "lightning"
    assert said == f"cbkernels.integrations.{sentence} (No module named '{missing}')"


def test_a_missing_torch_or_matplotlib_is_one_sentence_where_it_is_needed(tmp_path: Path) -> None:
    score = "from cbkernels.integrations.zero_cost import bundle_score; bundle_score(object(), [[1.0]], [0])"
    assert run(SAY.format(score), "torch", cwd=tmp_path).strip() == "a model needs torch: pip install torch"
    write = (
        "import numpy as np, cbkernels as cb; from cbkernels.integrations.tensorboard import write; "
        "from cbkernels.findings.layer_report import LayerReport; from types import SimpleNamespace as W; "
        "write(W(add_image=print, add_scalar=print), LayerReport({'a': cb.bundle_entropy([[1.0]], [0])}, step=0))"
    )
    said = run(SAY.format(write), "matplotlib", cwd=tmp_path).splitlines()
    assert said == ["pictures need matplotlib: pip install matplotlib"]  # and no number was written


def test_what_needs_no_package_works_without(tmp_path: Path) -> None:
    """TensorBoard's writer may be of another package; trackers need none."""
    hidden = ["torch", "tensorboard", "torchmetrics", "lightning", "pytorch_lightning", "transformers", "matplotlib"]
    code = (
        "import sys, numpy as np, cbkernels as cb, cbkernels.integrations, cbkernels.integrations.tensorboard\n"
        "from cbkernels.integrations.tracking import log_report\n"
        "from cbkernels.findings.layer_report import LayerReport\n"
        "log_report(LayerReport({'a': cb.bundle_entropy([[1.0]], [0])}, step=4), lambda values, step: print(step))\n"
    )
    assert run(code, *hidden, cwd=tmp_path) == "4\n"


def test_importing_the_package_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, cbkernels.integrations, cbkernels.integrations.tracking, cbkernels.integrations.tensorboard\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'matplotlib', 'tensorboard', "
        "'lightning', 'transformers', 'torchmetrics', 'pandas', 'tqdm'}))"
    )
    assert run(code, cwd=tmp_path) == "[]\n"


def test_a_package_that_is_there_but_broken_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        require_package("broken_package", "this test")
    assert str(caught.value) == (
        "this test needs broken_package: pip install broken_package (No module named 'nothing_of_this_name')"
    )
    assert caught.value.name == "nothing_of_this_name"
