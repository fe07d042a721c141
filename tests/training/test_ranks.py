"""Training and auto-tune on two processes: as on one but for the noise of other sums; rank 0 writes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training on ranks: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="training on ranks: NOT TESTED HERE (no safetensors)")

from cbkernels.ranks import Ranks, device_named, joined, started_by_torchrun  # noqa: E402
from cbkernels.training.config import AutotuneConfig  # noqa: E402
from cbkernels.training.procedures.train import train  # noqa: E402
from cbkernels.training.trained_run import accuracy_of, load_trained  # noqa: E402

from ..distributed import SCRIPTS, on_forked_ranks, torchrun  # noqa: E402
from ..distributed.trained_on_ranks import FNN, RESNET  # noqa: E402

pytestmark = pytest.mark.xdist_group("ranks")
AUTOTUNE = AutotuneConfig(
    depth=50, learning_rate=0.01, epochs=2, check_epochs=2, train_size=400, test_size=100, batch_size=40,
    policy="stage", baseline=False, device="cpu",
)  # fmt: skip
TIMES = ("seconds_training", "seconds_measuring", "seconds_evaluating", "measuring_share", "latency_ms",
         "latency_ms_p10", "latency_ms_p90")  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process, ``..._alone``, beside those of two."""
    path = tmp_path_factory.mktemp("ranks")
    train(FNN, path / "fnn_alone")
    train(RESNET, path / "resnet_alone")
    return path


@pytest.fixture(scope="module")
def told(root: Path) -> list[tuple[list[str], list[dict[str, Any]], list[float]]]:
    """What the two ranks said and returned."""
    done = on_forked_ranks(2, SCRIPTS / "trained_on_ranks.py", root)
    assert done.returncode == 0, done.stderr
    return [tuple(each) for each in json.loads(done.stdout)]


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def of_epoch_zero(folder: Path) -> list[str]:
    rows = (folder / "layers.csv").read_text().splitlines()
    return [row for row in rows if row.split(",")[2] == "0"]


@pytest.mark.parametrize("name", ["fnn", "resnet"])
def test_entropies_are_those_of_one_process(root: Path, told: Any, name: str) -> None:
    assert of_epoch_zero(root / name) == of_epoch_zero(root / f"{name}_alone") != []
    two, one = history_of(root / name), history_of(root / f"{name}_alone")
    assert [timeless(two[0])] == [timeless(one[0])]
    assert [line["epoch"] for line in two] == [line["epoch"] for line in one]


def test_a_network_without_batch_norm_trains_as_on_one_process(root: Path, told: Any) -> None:
    """Gradients are averaged over equal parts of a batch: other sums, the same values but for rounding."""
    two, one = history_of(root / "fnn"), history_of(root / "fnn_alone")
    assert [line["train_loss"] for line in two[1:]] == pytest.approx([line["train_loss"] for line in one[1:]], rel=1e-3)
    assert [line["test_accuracy"] for line in two] == pytest.approx([line["test_accuracy"] for line in one], abs=0.05)


def test_batch_norm_sees_half_a_batch_so_accuracy_is_within_noise(root: Path, told: Any) -> None:
    two, one = history_of(root / "resnet"), history_of(root / "resnet_alone")
    assert [line["train_loss"] for line in two[1:]] == pytest.approx([line["train_loss"] for line in one[1:]], rel=0.5)
    (*_, of_first), (*_, of_second) = told
    assert len(set(of_first)) > 2
    assert of_first == of_second, "both ranks test with the same running statistics"
    run = load_trained(root / "resnet")
    accuracy = accuracy_of(run.model, run.data.test_images, run.data.test_labels, run.preparation)
    assert accuracy == two[-1]["test_accuracy"]


def test_all_ranks_return_the_same_and_rank_zero_writes_it(root: Path, told: Any) -> None:
    (_, of_first, _), (_, of_second, _) = told
    for name, one, other in zip(("fnn", "resnet"), of_first, of_second, strict=True):
        written = json.loads((root / name / "result.json").read_text())
        assert one == written
        assert (one["ranks"], one["status"]) == (2, "trained")
        assert timeless(one)["test_accuracy"] == timeless(other)["test_accuracy"]
        assert one["entropy_mean"] == pytest.approx(other["entropy_mean"])


def test_a_killed_run_goes_on_as_undisturbed(root: Path, told: Any) -> None:
    assert timeless(history_of(root / "resumed")) == timeless(history_of(root / "resnet"))
    assert (root / "resumed" / "layers.csv").read_text() == (root / "resnet" / "layers.csv").read_text()
    one, other = (json.loads((root / name / "result.json").read_text()) for name in ("resumed", "resnet"))
    assert timeless(one) == timeless(other)


def test_a_batch_that_cannot_be_divided(root: Path, told: Any) -> None:
    assert {said[0] for said, *_ in told} == {"batch_size is 33; it must be a multiple of the 2 ranks"}
    assert not (root / "refused").exists()


def test_what_fails_on_rank_zero_is_said_on_all(root: Path, told: Any) -> None:
    """None of them waits for the other in vain."""
    (folder,) = {said[1] for said, *_ in told}
    assert "holds a run already" in folder
    (disk,) = {said[2] for said, *_ in told}
    assert "No space left on device" in disk


def test_the_first_rank_says_in_one_sentence_that_the_other_one_died(tmp_path: Path) -> None:
    done = on_forked_ranks(2, SCRIPTS / "dying_rank.py", tmp_path / "run")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert said == "cbkernels: error: rank 0 lost the other ranks; see what the first that ended says"


# --- the command line -------------------------------------------------------------------------------


@pytest.mark.slow
def test_autotune_ends_with_the_architecture_of_one_process(tmp_path: Path) -> None:
    from cbkernels.training.procedures.autotune import autotune_configured

    alone = autotune_configured(AUTOTUNE, tmp_path / "alone")
    given = ["depth", "learning_rate", "epochs", "check_epochs", "train_size", "test_size", "batch_size", "policy"]
    options = [f"--{name.replace('_', '-')}={getattr(AUTOTUNE, name)}" for name in given]
    command = ["autotune", *options, "--no-baseline", "--device=cpu", "--out", str(tmp_path / "two")]
    done = torchrun(2, "-m", "cbkernels", *command, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "two" / "result.json").read_text())
    assert (result["status"], result["ranks"], len(result["rounds"]) > 1) == ("trained", 2, True)
    for fields in ("architecture", "epochs", "removed", "name"):
        assert [r[fields] for r in result["rounds"]] == [r[fields] for r in alone["rounds"]]
    assert result["after"]["architecture"] == alone["after"]["architecture"]
    progress = [line for line in done.stderr.splitlines() if line.startswith("round ")]
    assert len(progress) == len(set(progress)) == len(history_of(tmp_path / "two")), "one process tells"
    # again into the same folder: the first rank refuses and tells the other one
    done = on_forked_ranks(2, "-m", "cbkernels", *command)
    assert done.returncode == 1
    (said,) = {line for line in done.stderr.splitlines() if line.startswith("cbkernels: error: ")}
    assert said.startswith(f"cbkernels: error: {tmp_path / 'two'} holds a run already; pass --resume to go on")
    assert "[rank" not in done.stderr, "no traceback of ours"


# --- ranks ------------------------------------------------------------------------------------------


def test_one_process_is_rank_zero_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not started_by_torchrun()
    with joined(torch.device("cpu")) as ranks:
        assert ranks == Ranks(0, 1)
        assert ranks.is_first
        assert ranks.told_by_first("x") == "x"
        assert ranks.sum(torch.tensor(3)).item() == 3
        assert ranks.of_this(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_every_sample_is_one_ranks() -> None:
    parts = [Ranks(rank, 3).of_this(torch.arange(10)).tolist() for rank in range(3)]
    assert sorted(itertools.chain(*parts)) == list(range(10))
    assert parts[0] == [0, 3, 6, 9]


@pytest.mark.parametrize("name", ["cpu", "auto"])
def test_devices(name: str) -> None:
    expected = "cuda" if name == "auto" and torch.cuda.is_available() else "cpu"
    assert device_named(name).type == expected


def test_devices_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="device is 'gpu'; name one such as 'cpu'"):
        device_named("gpu")
    count = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"and there are {count} GPUs" if count else "torch sees no GPU here"):
        device_named("cuda:99")
