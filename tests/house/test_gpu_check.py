"""The GPU check without a GPU: what it says, writes, leaves out; hangs, crashes and cuts; its programs on a CPU."""

from __future__ import annotations

import datetime
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ..cuda_stand_in import CudaHalf
from ..gpu import sanitized

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
PROGRAMS = BENCH / "gpu_checks" / "programs"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="gpu-check: NOT TESTED HERE (no source tree)")

DEVICE = {"name": "NVIDIA H999 80GB", "memory_bytes": 1, "major": 9, "minor": 0}
NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)
SHORT = ("clocks", "doors", "known_layers", "peers", "times")
"""Programs import each other by their names, as files in one folder do."""


@pytest.fixture
def bench_on_the_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files of bench/ are programs and no part of the package; nothing of them stays imported."""
    if not BENCH.is_dir():
        pytest.skip("gpu-check: NOT TESTED HERE (no source tree)")
    for folder in (BENCH, PROGRAMS, ROOT / "tests" / "gpu"):
        monkeypatch.syspath_prepend(str(folder))
    for name in ("OUT", "PHASES", "COMMIT", "CBKERNELS_GPU_CHECK_REHEARSAL"):
        monkeypatch.delenv(name, raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("gpu_check") or name in (*SHORT, "sanitized"):
            del sys.modules[name]


@pytest.fixture
def gpu_check(bench_on_the_path: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    module = importlib.import_module("gpu_check")
    monkeypatch.setattr(module, "SCRATCH", tmp_path / "scratch")
    return module


@pytest.fixture
def place(gpu_check: Any, tmp_path: Path) -> Any:
    return gpu_check.Place(tmp_path / "scratch", DEVICE)


class FakeClock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- no GPU -----------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so_and_writes_nothing(
    gpu_check: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_check.main(["--part", "1", "--out", str(tmp_path / "out")], list) == 0
    out = capsys.readouterr().out
    assert "NO NVIDIA GPU ON THIS MACHINE" in out
    assert "NOTHING WAS TESTED. This is not a pass" in out
    assert not (tmp_path / "out").exists()


def test_the_program_itself_ends_well_where_there_is_no_gpu(gpu_check: Any, tmp_path: Path) -> None:
    if gpu_check.devices():
        pytest.skip("gpu-check without a GPU: NOT TESTED HERE (there is one)")
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu_check.py"), "--part", "2"], capture_output=True, text=True, check=False,
        timeout=60, env={**os.environ, "OUT": str(tmp_path / "out")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "NOTHING WAS TESTED" in done.stdout
    assert not (tmp_path / "out").exists()


def machine_of(gpu_check: Any) -> Any:
    return sys.modules["gpu_checks.machine"]


def test_a_driver_without_devices_is_no_gpu(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    no_device = SimpleNamespace(cuInit=lambda flags: 100, cuDeviceGetCount=lambda count: 0)
    monkeypatch.setattr(machine_of(gpu_check).ctypes, "CDLL", lambda name: no_device)
    assert gpu_check.devices() == []


def test_devices_are_described(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(pointer: Any) -> int:
        pointer._obj.value = 2
        return 0

    def name(buffer: Any, size: int, handle: Any) -> int:
        buffer.value = b"NVIDIA H999"
        return 0

    def attribute(pointer: Any, code: int, handle: Any) -> int:
        pointer._obj.value = {75: 9, 76: 1}.get(code, code)
        return 0

    driver = SimpleNamespace(
        cuInit=lambda flags: 0, cuDeviceGetCount=count, cuDeviceGet=lambda handle, index: 0, cuDeviceGetName=name,
        cuDeviceTotalMem_v2=lambda memory, handle: 0, cuDeviceGetAttribute=attribute,
    )  # fmt: skip
    monkeypatch.setattr(machine_of(gpu_check).ctypes, "CDLL", lambda name: driver)
    found = gpu_check.devices()
    assert len(found) == 2
    assert (found[0]["name"], found[0]["major"], found[0]["minor"]) == ("NVIDIA H999", 9, 1)


@pytest.mark.parametrize(("arguments", "said"), [
    ([], "the following arguments are required: --part"),
    (["--part", "3"], "argument --part: invalid choice: 3"),
    (["--part", "1", "--phases", "nonsense"], "part 1 has no phase 'nonsense'; choose from install, facts, smoke"),
    (["--part", "1", "--phases", "peers"], "part 1 has no phase 'peers'"),
    (["--part", "1", "--wheel", "no.whl"], "there is no file 'no.whl'; name a wheel, or leave --wheel out"),
    (["--part", "1", "--limit", "soon"], "argument --limit: invalid float value: 'soon'"),
])  # fmt: skip
def test_bad_arguments(gpu_check: Any, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


# --- phases, time and the file ----------------------------------------------------------------------------


def report_of(gpu_check: Any, folder: Path) -> Any:
    return gpu_check.Report(folder, [DEVICE], NOON, 1, is_whole=True, is_rehearsal=False)


def part_with(gpu_check: Any, clock: FakeClock, called: list[Any], **steps: Any) -> list[Any]:
    """The phases of part 1 that take the seconds given and end as given; ``called`` gets the time allowed."""

    def step(phase: Any) -> Any:
        seconds, outcome = steps.get(phase.name, (10.0, "passed"))

        def run(place: Any, allowed: float) -> Any:
            called.append((phase.name, allowed))
            assert place.device == DEVICE
            clock.now += seconds
            return gpu_check.Outcome(outcome, "" if outcome == "passed" else "because", {"measured": phase.name})

        return phase._replace(run=run)

    return [step(phase) for phase in gpu_check.PARTS[1][1]]


def outcomes(path: Path) -> dict[str, str]:
    return {p["name"]: p["outcome"] for p in json.loads(path.read_text())["phases"]}


@pytest.mark.parametrize(("part", "seconds"), [(1, 240), (2, 400)])
def test_the_budgets_of_a_part_fit_into_its_limit(gpu_check: Any, part: int, seconds: int) -> None:
    limit, phases = gpu_check.PARTS[part]
    assert limit == seconds
    assert sum(phase.budget_s for phase in phases) <= limit
    assert all(phase.minimum_s <= phase.budget_s for phase in phases)


def test_a_run_in_which_all_is_well(gpu_check: Any, place: Any, tmp_path: Path) -> None:
    clock, called = FakeClock(), list[Any]()
    report, phases = report_of(gpu_check, tmp_path / "out"), part_with(gpu_check, clock, called)
    assert gpu_check.check(report, gpu_check.Budget(240, clock), phases, place) == "passed"
    assert [name for name, _ in called] == [phase.name for phase in phases]
    written = json.loads(report.path.read_text())
    assert report.path.name.startswith("gpu-nvidia-h999-80gb-2026-01-02-")
    assert report.path.name.endswith("-part1.json")
    logs = report.path.with_name(report.path.stem + "-logs.txt")
    assert sorted((tmp_path / "out").iterdir()) == sorted([report.path, logs])
    assert (written["outcome"], written["seconds"], written["device"]) == ("passed", 80.0, DEVICE)
    assert [p["measured"] for p in written["phases"]] == [phase.name for phase in phases]
    assert all(p["seconds"] == 10.0 for p in written["phases"])


def test_the_file_is_complete_after_every_phase(gpu_check: Any, place: Any, tmp_path: Path) -> None:
    """A time limit from outside may end the run at any moment."""
    clock, report = FakeClock(), report_of(gpu_check, tmp_path)
    phases = part_with(gpu_check, clock, [])

    def killed(place: Any, allowed: float) -> Any:
        raise KeyboardInterrupt

    phases[3] = phases[3]._replace(run=killed)
    with pytest.raises(KeyboardInterrupt):
        gpu_check.check(report, gpu_check.Budget(240, clock), phases, place)
    assert list(outcomes(report.path)) == ["install", "facts", "smoke"]
    assert json.loads(report.path.read_text())["outcome"] == "running"


def test_a_fault_of_the_check_itself_costs_one_phase(gpu_check: Any, place: Any, tmp_path: Path) -> None:
    clock, report, called = FakeClock(), report_of(gpu_check, tmp_path), list[Any]()
    phases = part_with(gpu_check, clock, called)

    def broken(place: Any, allowed: float) -> Any:
        raise KeyError("tail")

    phases[2] = phases[2]._replace(run=broken)
    assert gpu_check.check(report, gpu_check.Budget(240, clock), phases, place) == "failed"
    written = json.loads(report.path.read_text())["phases"]
    assert written[2]["why"] == "the check itself raised KeyError: 'tail'"
    assert [p["outcome"] for p in written].count("passed") == len(phases) - 1


def test_what_no_time_is_left_for_is_skipped_and_said(
    gpu_check: Any, place: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, report, called = FakeClock(), report_of(gpu_check, tmp_path), list[Any]()
    phases = part_with(gpu_check, clock, called, install=(100.0, "passed"), times=(75.0, "passed"))
    assert gpu_check.check(report, gpu_check.Budget(220, clock), phases, place) == "incomplete"
    allowed = dict(called)
    assert allowed["install"] == 60.0, "its budget"
    assert allowed["times"] == 45.0, "nothing was left over before it"
    assert [n for n, o in outcomes(report.path).items() if o == "skipped"] == ["counters", "memcheck"]
    assert "NOT TESTED HERE (less than 10 s were left)" in capsys.readouterr().out


def test_time_that_others_have_not_used_goes_to_those_that_can_use_it(gpu_check: Any) -> None:
    clock = FakeClock()
    budget = gpu_check.Budget(200, clock)
    first, second = (gpu_check.Phase(name, None, 60, 20) for name in "ab")
    measuring = second._replace(takes_what_is_left_over=True)
    assert budget.allowance(first) == 60
    clock.now += 20
    assert budget.allowance(second) == 60, "its own budget only"
    clock.now += 20
    assert budget.allowance(measuring) == 60 + 80
    clock.now += 130
    assert (budget.allowance(first), budget.used_s) == (30, 170)
    clock.now += 15
    assert budget.allowance(first) is None


@pytest.mark.parametrize("needed", ["install", "facts"])
def test_nothing_runs_after_a_build_that_failed(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, needed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[Any] = []
    phases = part_with(gpu_check, FakeClock(), called, **{needed: (1.0, "failed")})
    monkeypatch.setitem(gpu_check.PARTS, 1, (240.0, tuple(phases)))
    assert gpu_check.main(["--part", "1", "--out", str(tmp_path)], lambda: [DEVICE]) == 1
    assert called[-1][0] == needed
    out = capsys.readouterr().out
    assert "gpu-check: because" in out
    assert "gpu-check, part 1: FAILED (NOT TESTED:" in out
    found = outcomes(next(tmp_path.glob("*.json")))
    assert [found[n] for n in ("smoke", "times", "memcheck")] == ["skipped"] * 3


def test_a_failed_phase_does_not_stop_the_others(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[Any] = []
    phases = part_with(gpu_check, FakeClock(), called, smoke=(1.0, "failed"), counters=(1.0, "refused"))
    monkeypatch.setitem(gpu_check.PARTS, 1, (240.0, tuple(phases)))
    monkeypatch.setenv("OUT", str(tmp_path / "from" / "environment"))
    assert gpu_check.main(["--part", "1"], lambda: [DEVICE]) == 1
    assert len(called) == len(phases)
    found = outcomes(next((tmp_path / "from" / "environment").glob("*.json")))
    assert (found["smoke"], found["counters"], found["times"]) == ("failed", "refused", "passed")


def test_chosen_phases_come_with_those_they_need(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[Any] = []
    monkeypatch.setitem(gpu_check.PARTS, 1, (240.0, tuple(part_with(gpu_check, FakeClock(), called))))
    monkeypatch.setenv("PHASES", "times")
    assert gpu_check.main(["--part", "1", "--out", str(tmp_path)], lambda: [DEVICE]) == 0
    assert [name for name, _ in called] == ["install", "facts", "times"]
    assert next(tmp_path.glob("*.json")).stem.endswith("-part1-partial")


def test_a_run_never_overwrites_an_earlier_one(gpu_check: Any, tmp_path: Path) -> None:
    paths = []
    for _ in range(3):
        report = report_of(gpu_check, tmp_path)
        report.write()
        paths.append(report.path.name)
    assert len(set(paths)) == 3
    assert paths[1] == paths[0].replace(".json", "-2.json")
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("states", "expected"), [
    (["passed", "passed"], "passed"), (["passed", "skipped"], "incomplete"), (["refused", "passed"], "incomplete"),
    (["passed", "failed", "skipped"], "failed"), (["passed", "timed out"], "failed"), ([], "incomplete"),
])  # fmt: skip
def test_verdict(gpu_check: Any, states: list[str], expected: str) -> None:
    assert gpu_check.verdict([{"outcome": state} for state in states]) == expected


def test_the_commit_is_named_where_the_repository_is_not_the_tree_s_own(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machine_of(gpu_check)
    monkeypatch.setenv("COMMIT", "0123456789abcdef")
    assert machine.commit() == {"full": "0123456789abcdef", "short": "01234567", "dirty": False}
    monkeypatch.delenv("COMMIT")
    monkeypatch.setattr(machine, "_output", lambda *command: "")
    assert machine.commit()["short"] == "nocommit"


# --- children ---------------------------------------------------------------------------------------------


def running_of(gpu_check: Any) -> Any:
    return sys.modules["gpu_checks.running"]


def test_a_child_runs_elsewhere_and_its_output_is_kept(gpu_check: Any, place: Any) -> None:
    running = running_of(gpu_check)
    code = "import os, sys; print(os.getcwd(), sys.path[1], os.environ['MORE']); sys.exit(3)"
    assert running.run(place, "x", [sys.executable, "-c", code], 30, MORE="more") == 3
    assert place.log("x").read_text().split() == [str(place.scratch / "empty"), str(place.site), "more"]
    outcome = running.of_status(3, 30, place.log("x"))
    assert (outcome.outcome, outcome.why) == ("failed", "exit status 3")
    assert running.of_status(-signal.SIGSEGV, 30, place.log("x")).why == "ended by SIGSEGV"


def ends(pid: int) -> bool:
    """Is this process gone, or only waiting to be buried, within some seconds?"""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_child_that_does_not_end_is_ended(gpu_check: Any, place: Any) -> None:
    """Politely first; then with everything it has started."""
    running, python = running_of(gpu_check), [sys.executable, "-S", "-E"]
    code = "import time\nprint('began', flush=True)\ntry:\n time.sleep(90)\nexcept KeyboardInterrupt:\n print('told')"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    try:
        assert running.run(place, "polite", [*python, "-c", code], 4) is None
    finally:
        signal.signal(signal.SIGINT, before)
    assert place.log("polite").read_text().split() == ["began", "told"]
    code = (
        "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = os.fork()\nprint(child, flush=True) if child else None\ntime.sleep(90)"
    )
    assert running.run(place, "rude", [*python, "-c", code], 4) is None
    assert ends(int(place.log("rude").read_text()))
    outcome = running.of_status(None, 4, place.log("polite"))
    assert (outcome.outcome, outcome.why) == ("timed out", "not done after 4 s")


def test_a_log_does_not_name_this_machine_and_a_long_one_is_shortened(
    gpu_check: Any, place: Any, tmp_path: Path
) -> None:
    running, log = running_of(gpu_check), place.log("x")
    log.parent.mkdir(parents=True)
    log.write_text("x" * 999_999 + f"\n{ROOT}/tests/test_x.py failed in {Path.home()}/y")
    assert running.tail(log).endswith("./tests/test_x.py failed in ~/y")
    assert len(running.tail(log)) <= running.TAIL_CHARACTERS
    report = report_of(gpu_check, tmp_path)
    report.write_logs(place)
    logs = report.path.with_name(report.path.stem + "-logs.txt").read_text()
    assert logs.startswith("######## x\nxxx")
    assert logs.endswith("./tests/test_x.py failed in ~/y\n")
    assert "characters left out" in logs
    assert len(logs) < 500_000


def fake_programs(gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **code: str) -> None:
    """Child programs of these names and texts in place of the real ones."""
    for name, text in code.items():
        (tmp_path / f"{name}.py").write_text(text)
    parts = sys.modules["gpu_checks.parts"]
    monkeypatch.setattr(parts, "program", lambda name: str(tmp_path / f"{name}.py"))


def test_a_kernel_that_hangs_and_one_that_crashes_leave_the_others_results(
    gpu_check: Any, place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = sys.modules["gpu_checks.parts"]
    code = (
        "import os, signal, sys, time\nprint(sys.argv[1], 'float32 (7, 3) blocks and threads (0, 256)', flush=True)\n"
        "if sys.argv[1] == 'layers': time.sleep(90)\n"
        "if sys.argv[1] == 'tolerance': os.kill(os.getpid(), signal.SIGSEGV)\n"
        "if sys.argv[1] == 'count_bundles': sys.exit(1)\n"
        "print('smoke: 3 calls, 0 wrong answers')\n"
    )
    fake_programs(gpu_check, monkeypatch, tmp_path, smoke=code)
    monkeypatch.setattr(parts, "SECONDS_OF_A_KERNEL", 2.0)
    outcome = parts.smoke(place, 60.0)
    found = {name: part["outcome"] for name, part in outcome.facts["parts"].items()}
    wrong = {"layers": "timed out", "tolerance": "failed", "count_bundles": "failed"}
    assert found == dict.fromkeys(parts.KERNELS, "passed") | wrong
    assert outcome.outcome == "failed"
    assert "layers: timed out, not done after 2 s, in layers float32 (7, 3) blocks and threads (0, 256)" in outcome.why
    assert "tolerance: failed, ended by SIGSEGV, in tolerance float32 (7, 3)" in outcome.why
    short = parts.smoke(place, 0.5)
    assert {part["outcome"] for part in short.facts["parts"].values()} == {"skipped"}


def test_answers_that_differ_are_named_also_when_the_loop_is_cut(
    gpu_check: Any, place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = sys.modules["gpu_checks.parts"]
    shown = "print('7: blocks, threads, rows of a block (1, 32, 64)\\n  WRONG bundle_ids', flush=True)\n"
    fake_programs(gpu_check, monkeypatch, tmp_path, same_answers=shown + "import time; time.sleep(90)")
    outcome = parts.same_answers(place, 3.0)
    assert (outcome.outcome, outcome.facts["num_wrong"]) == ("timed out", 1)
    assert outcome.why.startswith("1 wrong answers; not done after 3 s")
    end = 'print(\'SAME {"inputs": 0, "num_wrong": 0, "wrong": []}\')'
    fake_programs(gpu_check, monkeypatch, tmp_path, same_answers=end)
    assert parts.same_answers(place, 10.0).why == "no input was compared"


def test_a_benchmark_that_was_cut_off_keeps_its_cases(
    gpu_check: Any, place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parts = sys.modules["gpu_checks.parts"]
    code = "import sys, time\nopen(sys.argv[1], 'w').write('{\"cases\": [1]}')\ntime.sleep(90)"
    fake_programs(gpu_check, monkeypatch, tmp_path, times=code, peers="")
    outcome = parts.measured("times")(place, 3.0)
    assert (outcome.outcome, outcome.facts["measured"]) == ("timed out", {"cases": [1]})
    assert parts.measured("peers")(place, 10.0).why == "nothing was measured"


def test_install_asks_for_this_gpu_and_says_what_went_wrong(
    gpu_check: Any, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    building, asked = sys.modules["gpu_checks.building"], list[Any]()
    monkeypatch.delenv("CBKERNELS_CUDA", raising=False)

    def run(place: Any, name: str, command: Any, seconds: float, **extra: str) -> int:
        asked.append((command, extra))
        place.log(name).parent.mkdir(parents=True, exist_ok=True)
        place.log(name).write_text(
            "building\nCMake Error at CMakeLists.txt:33 (message):\n  CBKERNELS_CUDA is ON, but no nvcc\nend\n"
        )
        return 1

    monkeypatch.setattr(building, "run", run)
    outcome = building.install(place, 100)
    assert outcome.outcome == "failed"
    assert "CBKERNELS_CUDA is ON, but no nvcc" in outcome.why
    assert outcome.why.endswith("NOTHING WAS TESTED")
    command, extra = asked[0]
    assert {"--no-build-isolation", "--no-deps", "--no-index"} <= set(command)
    assert command[-1] == str(ROOT)
    assert extra == {"CBKERNELS_CUDA": "ON", "CBKERNELS_CUDA_ARCHITECTURES": "90-real"}
    building.install(gpu_check.Place(place.scratch, DEVICE, wheel=Path("/x/ours.whl")), 100)
    assert asked[1][0][-1] == "/x/ours.whl"


@pytest.mark.parametrize(("log", "line"), [
    ("a\nb\nerror: no g++\nc", "error: no g++"), ("a\nlast\n", "last"), ("", "no output"),
    ("warning\nnvcc fatal: unsupported\nerror: 1", "nvcc fatal: unsupported"),
])  # fmt: skip
def test_reason_of_a_failed_build(gpu_check: Any, log: str, line: str) -> None:
    assert sys.modules["gpu_checks.building"].reason(log) == line


GOOD_FACTS = {
    "build": {"cuda": True, "cuda_reason": ""}, "missing": "", "torch_sees": "H999", "versions": {"torch": "2"},
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), [
    ({}, ""),
    ({"build": {"cuda": False, "cuda_reason": "built with OFF"}}, "this build has no CUDA backend (built with OFF)"),
    ({"missing": "the driver is too old"}, "the CUDA backend cannot use it (the driver is too old)"),
    ({"torch_sees": ""}, "torch 2 does not see it"),
    ({"installed": "/elsewhere/cbkernels/__init__.py"}, "imports another cbkernels than the one just built"),
])  # fmt: skip
def test_a_build_that_cannot_be_tested_is_refused_in_one_sentence(
    gpu_check: Any, place: Any, change: Any, said: str
) -> None:
    installed = str(place.site.resolve() / "cbkernels" / "__init__.py")
    why = sys.modules["gpu_checks.building"].refusal(place, {"installed": installed} | GOOD_FACTS | change)
    assert said in why
    assert (why == "") == (change == {})
    if why:
        assert why.endswith("NOTHING WAS TESTED")


# --- pytest, the sanitizer and the counters as phases -----------------------------------------------------


SMALL_SUITE = """
import pytest
def test_one(): pass
def test_two(): assert False
def test_three(): pytest.skip("a thing: NOT TESTED HERE (none)")
"""


@pytest.fixture
def testing(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = sys.modules["gpu_checks.testing"]
    monkeypatch.setattr(module, "time_limit", lambda place: [])
    return module


@pytest.mark.slow
def test_test_files_are_counted_each_and_together(testing: Any, place: Any, tmp_path: Path) -> None:
    """One that fails, one that passes, one that kills its process, one that does not end."""
    bodies = {
        "test_some": SMALL_SUITE, "test_fine": "def test_it(): pass\n",
        "test_killed": "import os\ndef test_first(): pass\ndef test_dies(): os._exit(9)\n",
        "test_endless": "import time\ndef test_first(): pass\ndef test_stays(): time.sleep(90)\n",
    }  # fmt: skip
    for name, body in bodies.items():
        (tmp_path / f"{name}.py").write_text(body)
    files = [testing.TestFile(str(tmp_path / f"{name}.py")) for name in bodies]
    ended = [testing.xml_of(place, file) for file in files[:2]]

    done: list[float] = []

    def clock() -> float:
        """The time is over soon after the others are done."""
        now = time.monotonic()
        logs = [place.log(name).read_text() if place.log(name).exists() else "" for name in bodies]
        if all(f.exists() for f in ended) and "test_dies" in logs[2] and "test_first PASSED" in logs[3]:
            done.append(now)
        return now + (1000.0 if done and now > done[0] + 2.0 else 0.0)

    outcome = testing.run_files(place, 300.0, files, clock)
    parts = outcome.facts["parts"]
    assert {name: (p["outcome"], p["passed"]) for name, p in parts.items()} == {
        "test_some": ("failed", 1), "test_fine": ("passed", 1), "test_killed": ("failed", 1),
        "test_endless": ("timed out", 1),
    }  # fmt: skip
    assert (outcome.outcome, outcome.facts["passed"], outcome.facts["failed"]) == ("failed", 4, 1)
    assert parts["test_some"]["failures"] == ["test_two: assert False"]
    assert parts["test_some"]["skip_reasons"] == {"a thing: NOT TESTED HERE (none)": 1}
    assert parts["test_killed"]["why"] == "exit status 9, in test_dies"


@pytest.mark.slow
def test_a_warning_at_import_is_no_collection_error(testing: Any, place: Any, tmp_path: Path) -> None:
    (tmp_path / "test_warns.py").write_text("import warnings\nwarnings.warn('old')\ndef test_it(): pass\n")
    (tmp_path / "test_broken.py").write_text("import a_package_that_nobody_has\n")
    warns, broken = (testing.TestFile(str(tmp_path / f"test_{name}.py")) for name in ("warns", "broken"))
    assert testing.run_files(place, 30.0, [warns]).outcome == "passed"
    assert testing.run_files(place, 30.0, [broken]).outcome == "failed"


@pytest.mark.slow
def test_a_file_in_which_nothing_passed_has_tested_nothing(testing: Any, place: Any, tmp_path: Path) -> None:
    file = tmp_path / "test_skips.py"
    file.write_text("import pytest\npytest.skip('all of it: NOT TESTED HERE (none)', allow_module_level=True)\n")
    outcome = testing.run_files(place, 30.0, [testing.TestFile(str(file))])
    assert outcome.outcome == "failed"
    assert "all of it: NOT TESTED HERE (none)" in next(iter(outcome.facts["parts"]["test_skips"]["skip_reasons"]))


def test_every_named_test_file_is_there_and_has_tests_of_the_gpu(gpu_check: Any) -> None:
    parts = sys.modules["gpu_checks.parts"]
    assert all((ROOT / "tests" / "gpu" / f"{name}.py").is_file() for name in (*parts.OWN_FILES, *parts.ALONE))
    assert all((ROOT / "tests" / f"{name}.py").is_file() for name in parts.SUITE_FILES)
    with_a_backend = {
        path.stem
        for path in (ROOT / "tests").rglob("test_*.py")
        if path.parent.name != "gpu"
        and any(f"{fixture}: str" in path.read_text("utf-8") for fixture in ("backend", "compiled", "anything"))
    }
    assert set(parts.SUITE_FILES) <= with_a_backend
    left_out = with_a_backend - set(parts.SUITE_FILES)
    assert left_out <= {"test_install", "test_gpu_check", "test_gpu_arrays"}, "add the file to SUITE_FILES"


MEMCHECK = "========= COMPUTE-SANITIZER\nsanitized: 12 calls, 0 wrong answers\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(("status", "text", "expected"), [
    (0, MEMCHECK, "passed"),
    (99, MEMCHECK.replace("0 errors", "2 errors"), "failed"),
    (1, "sanitized: 12 calls, 1 wrong answers\n========= ERROR SUMMARY: 0 errors", "failed"),
    (0, "========= ERROR SUMMARY: 0 errors\n", "failed"),
    (0, "sanitized: 12 calls, 0 wrong answers\n", "failed"),
    (1, "========= Error: Device not supported. Please refer to the documentation\n", "refused"),
    (None, "sanitized", "timed out"),
])  # fmt: skip
def test_what_a_sanitizer_says(gpu_check: Any, place: Any, status: int | None, text: str, expected: str) -> None:
    log = place.log("memcheck")
    log.parent.mkdir(parents=True)
    log.write_text(text)
    outcome = sys.modules["gpu_checks.tools"].of_sanitizer(status, 30, log)
    assert outcome.outcome == expected
    if expected == "passed":
        assert outcome.facts == {"summary": "ERROR SUMMARY: 0 errors", "calls": 12}
    if expected == "refused":
        assert "Device not supported" in outcome.why


def test_a_machine_without_the_tools(gpu_check: Any, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = sys.modules["gpu_checks.tools"]
    monkeypatch.setattr(tools.shutil, "which", lambda *a, **k: None)
    outcome = tools.sanitizers("memcheck", "racecheck")(place, 30)
    assert outcome.outcome == "refused"
    assert "memcheck: refused, compute-sanitizer is not on this machine" in outcome.why
    assert tools.counters(place, 30).why == "ncu is not on this machine"


NCU = (Path(__file__).with_name("ncu_h200.txt")).read_text(encoding="utf-8")
"""Of a run on a GPU: two launches of four, some sections of each; blanks at the ends of lines are gone."""
SPEED, MEMORY, WARPS = "GPU Speed Of Light Throughput", "Memory Workload Analysis", "Warp State Statistics"


def test_what_ncu_says_is_read(gpu_check: Any) -> None:
    long_rows, layers = sys.modules["gpu_checks.tools"].launches_of(NCU)
    shape = {"kernel": "group_rows_kernel<Float32>", "grid": "(264, 1, 1)", "block": "(256, 1, 1)"}
    assert shape.items() <= long_rows.items()
    assert shape.items() <= layers.items()
    assert (long_rows["call"], layers["call"]) == ("(4096, 65536) equal 1 bundles", "120 x (512, 16384) [50, 50, 50]")
    assert (list(long_rows["sections"]), list(layers["sections"])) == ([SPEED, MEMORY], [SPEED, WARPS, "Occupancy"])
    assert long_rows["sections"][SPEED]["Duration [us]"] == "559.10"
    assert layers["sections"][SPEED]["Duration [ms]"] == "2.78"
    assert [w["percent"] for w in layers["waits"]] == ["57.7", "31.1"]
    assert layers["waits"][1] == {"for": "sibling warps at a CTA barrier", "cycles": "11.1", "percent": "31.1",
                                  "of_cycles": "35.8"}  # fmt: skip
    assert long_rows["waits"] == [], "its section is not in the piece"


def test_a_name_in_two_sections_is_two_values_and_a_value_may_be_words(gpu_check: Any) -> None:
    read = sys.modules["gpu_checks.tools"].launches_of
    long_rows = read(NCU)[0]["sections"]
    assert (long_rows[SPEED]["Memory Throughput [%]"], long_rows[MEMORY]["Memory Throughput [Tbyte/s]"]) == (
        "40.13", "1.93"
    )  # fmt: skip
    assert long_rows[MEMORY]["Local Memory Spilling Request Overhead [%]"] == "no data"
    assert (len(long_rows[SPEED]), len(long_rows[MEMORY])) == (10, 12)
    in_percent = read(NCU.replace("Tbyte/s         1.93", "      %         1.93"))[0]["sections"]
    assert [in_percent[name]["Memory Throughput [%]"] for name in (SPEED, MEMORY)] == ["40.13", "1.93"]


def test_launches_of_a_namespace_and_of_an_ordinary_function_are_read(gpu_check: Any) -> None:
    text = (ROOT / "tests" / "gpu" / "rehearsal_tools" / "ncu").read_text()
    (launch,) = sys.modules["gpu_checks.tools"].launches_of(text)
    assert launch["kernel"] == "cbkernels::cuda::<unnamed>::group_rows_kernel"
    assert launch["sections"][SPEED] == {"Duration [us]": "123.45", "DRAM Throughput [%]": "88.00", "Waves Per SM": "1"}


@pytest.mark.parametrize(("text", "status", "expected"), [
    (NCU, 0, ("passed", "")),
    (NCU, 1, ("failed", "exit status 1")),
    (NCU.replace("  void group_rows", "  a new form of group_rows").replace(", Context", " in context"), 0,
     ("failed", "no launch could be read from ncu's text, which speaks of 2")),
    ("==PROF== Disconnected\n", 0, ("failed", "no launch could be read from ncu's text, which speaks of 0")),
    (NCU[: NCU.rindex("  void group_rows")], 0,
     ("failed", "ncu looked at 2 launches, and only 1 could be read from its text")),
    (NCU.replace("-----------", "==========="), 0,
     ("failed", "ncu's text holds no value for a launch of group_rows_kernel<Float32>")),
    ("==ERROR== ERR_NVGPUCTRPERM: no permission\n", 1, ("refused", "ncu may not read the counters here")),
])  # fmt: skip
def test_counters_that_could_not_be_read_are_no_pass(
    gpu_check: Any, place: Any, monkeypatch: pytest.MonkeyPatch, text: str, status: int, expected: tuple[str, str]
) -> None:
    tools = sys.modules["gpu_checks.tools"]

    def run(place: Any, name: str, command: Any, seconds: float) -> int:
        place.log(name).parent.mkdir(parents=True)
        place.log(name).write_text(text)
        return status

    monkeypatch.setattr(tools, "path_of", lambda place, tool: f"/bin/{tool}")
    monkeypatch.setattr(tools, "run", run)
    outcome = tools.counters(place, 30.0)
    assert (outcome.outcome, outcome.why) == expected
    assert ("tail" in outcome.facts) == (expected[0] != "passed")


@pytest.mark.parametrize(("phase", "program", "said", "why"), [
    ("smoke", "smoke", "smoke: 63 calls, 0 wrong answers", "it counts no call"),
    ("first_captures", "fresh_graph", "fresh graph of update: as on the CPU", "it compared no graph"),
    ("one_rank", "one_rank", "one rank over nccl: 2 results are those of one process", "it compared no layer"),
])  # fmt: skip
def test_a_program_that_ends_well_but_has_done_nothing_is_no_pass(
    gpu_check: Any, place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    phase: str, program: str, said: str, why: str,
) -> None:  # fmt: skip
    parts = sys.modules["gpu_checks.parts"]
    fake_programs(gpu_check, monkeypatch, tmp_path, **{program: f"print({said!r})"})
    assert getattr(parts, phase)(place, 60.0).outcome == "passed"
    nothing = said.replace("63 calls", "0 calls").replace("2 results", "1 results").replace("fresh graph", "no graph")
    for text in ("", f"print({nothing!r})"):
        (tmp_path / f"{program}.py").write_text(text)
        outcome = getattr(parts, phase)(place, 60.0)
        assert outcome.outcome == "failed"
        assert f"it ended well, but {why}: nothing was tested" in outcome.why


@pytest.mark.parametrize(("found", "expected"), [
    ({"cases": []}, "failed"), ({"cases": [{"calls": {}, "skipped": {"bundle_rows": "no time left"}}]}, "failed"),
    ({"cases": [{"bundle_rows": {}, "peers": {}, "skipped": {"cupy": "slow"}}]}, "failed"), ({"layers": 0}, "failed"),
    ({"cases": [{"calls": {"bundle_rows": {}}}]}, "passed"), ({"cases": [{"peers": {"torch": {}}}]}, "passed"),
    ({"layers": 32, "step_s": 0.06}, "passed"),
])  # fmt: skip
def test_a_benchmark_without_a_time_is_no_pass(
    gpu_check: Any, place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: Any, expected: str
) -> None:
    code = f"import sys\nopen(sys.argv[1], 'w').write({json.dumps(found)!r})"
    fake_programs(gpu_check, monkeypatch, tmp_path, times=code)
    outcome = sys.modules["gpu_checks.parts"].measured("times")(place, 30.0)
    assert (outcome.outcome, outcome.facts["measured"]) == (expected, found)
    assert outcome.why == ("" if expected == "passed" else "nothing was measured")


# --- the rehearsal ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("program", ["smoke", "same_answers", "sanitized_calls", "fresh_graph", "one_rank"])
def test_a_program_runs_on_the_emulation(program: str, gpu_check: Any, tmp_path: Path) -> None:
    from .. import emulation

    pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    if emulation.load()[0] is None:
        pytest.skip(f"{program} of the GPU check: NOT TESTED HERE (no emulation; make emulation builds it)")
    arguments = {"smoke": ["bundle_ids"], "same_answers": ["1"], "sanitized_calls": ["1"],
                 "fresh_graph": ["update"], "one_rank": []}[program]  # fmt: skip
    environment = machine_of(gpu_check).environment(tmp_path / "no site", True)
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / f"{program}.py"), *arguments], capture_output=True, text=True, check=False,
        timeout=120, env=environment | {"MASTER_PORT": str(20_000 + os.getpid() % 20_000)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
    assert "WRONG" not in done.stdout
    expected = {"smoke": "63 calls, 0 wrong", "same_answers": '"num_wrong": 0', "sanitized_calls": "0 wrong answers",
                "fresh_graph": "as on the CPU", "one_rank": "are those of one process"}[program]  # fmt: skip
    assert expected in done.stdout


# --- the sanitized part on CPU memory ---------------------------------------------------------------------


@pytest.fixture
def memory(bench_on_the_path: None) -> Any:
    return importlib.import_module("doors").HostMemory()


class Half(CudaHalf):
    """The stand-in, with launch shapes that are written down."""

    def use_launch_shape(self, blocks: int, threads: int) -> None:
        self.note("use_launch_shape", blocks=blocks, threads=threads)


def test_the_sanitized_part_finds_the_answers_right(memory: Any) -> None:
    half = Half()
    calls = sanitized.workload(half, memory, 3600.0, most=len(sanitized.TYPES) * len(sanitized.SHAPES))
    assert calls.wrong == []
    assert calls.count > 250
    wanted = {"bundle_ids", "count_bundles", "row_fingerprints", "count_fingerprints", "conflict_margin"}
    assert wanted <= set(half.names())
    assert half.calls[-1] == ("use_launch_shape", {"blocks": 0, "threads": 0})
    assert memory.blocks == {}


@pytest.mark.parametrize("broken", ["bundle_ids", "count_bundles", "row_fingerprints", "conflict_margin"])
def test_the_sanitized_part_notices_a_wrong_answer(broken: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Half()
    right = getattr(half, broken)

    def wrong(*arguments: Any) -> Any:
        result = right(*arguments)
        if broken in ("bundle_ids", "row_fingerprints"):
            memory.blocks[arguments[-3]][-1] ^= 1
            return None
        return 0.125 if broken == "conflict_margin" else [(9, *counts[1:]) for counts in result]

    monkeypatch.setattr(half, broken, wrong)
    calls = sanitized.workload(half, memory, 3600.0, most=9)
    assert calls.wrong
    assert all("instead of" in line for line in calls.wrong)


def test_the_sanitized_part_ends_in_time(memory: Any) -> None:
    clock = FakeClock()

    class Slow(Half):
        def conflict_margin(self, *arguments: Any) -> float:
            clock.now += 5
            return super().conflict_margin(*arguments)

    calls = sanitized.workload(Slow(), memory, 12.0, clock)
    assert 0 < calls.count < 200


def test_a_program_says_when_it_cannot_begin(bench_on_the_path: None, monkeypatch: pytest.MonkeyPatch) -> None:
    doors = importlib.import_module("doors")
    monkeypatch.setattr(sanitized.backends._core.cuda, "missing_reason", lambda: "there is no driver", raising=False)
    with pytest.raises(SystemExit, match=r"NOTHING WAS RUN \(there is no driver\)"):
        doors.core()


# --- times and peers on CPU tensors -----------------------------------------------------------------------


@pytest.fixture
def times(bench_on_the_path: None) -> Any:
    pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    return importlib.import_module("times")


class Ticks:
    """Runs everything and calls it a millisecond."""

    how = "ticks"

    def on_device(self, run: Any, rounds: int) -> list[float]:
        for _ in range(rounds):
            run()
        return [1e-3] * rounds

    def captured(self, run: Any) -> Any:
        result = run()
        parts = result if isinstance(result, tuple) else (result,)

        def replay() -> None:
            again = run()
            for part, new in zip(parts, again if isinstance(again, tuple) else (again,), strict=True):
                if not callable(part):
                    part.copy_(new)

        return replay, result

    def wait(self) -> None:
        return None


SMALL = [((40, 64), "float32"), ((130, 33), "bfloat16"), ((3, 40, 64), "float32")]


def test_everything_is_measured_and_its_answer_asserted(
    times: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(times, "MARGIN_SHAPE", (40, 64))
    cases = [(shape, dtype, data) for shape, dtype in SMALL for data in times.DATA]
    content = times.race(tmp_path / "times.json", 600.0, "cpu", Ticks(), cases, 1 << 16)
    assert json.loads((tmp_path / "times.json").read_text()) == content
    assert len(content["cases"]) == len(cases)
    for (shape, _, data), entry in zip(cases, content["cases"], strict=True):
        names = {"bundle_entropy_layers, check_nan=False", "bundle_entropy_layers, check_nan=True",
                 "counts queued", "counts queued and read"}  # fmt: skip
        if len(shape) == 2:
            names = {"bundle_rows", "row_fingerprints"}
            names |= {"bundle_rows, grid", "bundle_entropy", "update"} if data in ("distinct", "equal") else set()
            names |= (
                {"conflict_margin", "margin queued"} if shape == (40, 64) and data in ("distinct", "equal") else set()
            )
        assert set(entry["calls"]) == names, entry["name"]
        assert entry["skipped"] == {}
        if len(shape) == 2:
            assert set(entry["calls"]["bundle_rows"]) == {"host", "event", "graph"}
            assert entry["calls"]["bundle_rows"]["event"]["median_us"] == pytest.approx(1000.0)
        else:
            assert set(entry["calls"]["counts queued"]) == {"host", "event", "graph"}
            assert set(entry["calls"]["counts queued and read"]) == {"host"}
    assert content["skipped"] == []
    assert content["yardsticks"]["copy_bytes_per_s"] == pytest.approx(2 * (1 << 16) / 1e-3)
    assert "(40, 64) float32 pairs" in capsys.readouterr().out


def test_the_plan_holds_every_size_and_the_most_telling_first(times: Any) -> None:
    plan = times.plan()
    assert len(plan) == len(set(plan))
    assert {shape for shape, dtype, _ in plan if dtype == "float32"} == {*times.SHAPES, *times.LAYERS, times.ODD_SHAPE}
    for shape in times.SHAPES:
        assert {data for of, dtype, data in plan if of == shape and dtype == "float32"} == set(times.DATA)
    assert plan[0] == ((512, 16384), "float32", "distinct")


@pytest.mark.parametrize("wrong", ["bundle_rows", "bundle_entropy", "bundle_entropy_layers", "conflict_margin"])
def test_a_wrong_answer_is_not_timed(times: Any, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(times.cb, wrong)
    other: dict[str, Callable[..., Any]] = {
        "bundle_rows": lambda x, **k: right(x, **k) * 0 if len(x) > 39 else right(x, **k),
        "conflict_margin": lambda x, y: 0.0 if len(x) > 39 else right(x, y),
        "bundle_entropy": lambda x, y: right(x, y * 0 + 1), "bundle_entropy_layers": lambda x, y, **k: {},
    }  # fmt: skip
    monkeypatch.setattr(times, "MARGIN_SHAPE", (40, 64))
    monkeypatch.setattr(times.cb, wrong, other[wrong])
    shape = (3, 40, 64) if wrong == "bundle_entropy_layers" else (40, 64)
    case = times.make_case(shape, "equal" if wrong == "bundle_entropy" else "distinct", "float32", "cpu")
    with pytest.raises(AssertionError):
        times.measure(case, Ticks(), lambda: 100.0)


def test_a_graph_that_computes_nothing_is_noticed(times: Any) -> None:
    class Stale(Ticks):
        def captured(self, run: Any) -> Any:
            return lambda: None, run()

    with pytest.raises(AssertionError, match="wrong bundles"):
        times.measure(times.make_case((40, 64), "50 bundles", "float32", "cpu"), Stale(), lambda: 100.0)


def test_no_time_left_means_named_and_not_measured(times: Any, tmp_path: Path) -> None:
    case = times.make_case((40, 64), "equal", "float32", "cpu")
    entry = times.measure(case, Ticks(), lambda: 0.0)
    assert entry["calls"] == {}
    assert entry["skipped"]["bundle_rows"] == "no time left"
    content = times.race(tmp_path / "x.json", -1.0, "cpu", Ticks(), [((4, 4), "float32", "equal")], 1 << 10)
    assert (content["cases"], content["skipped"]) == ([], ["(4, 4) float32 equal"])


def test_a_slow_peer_is_not_called(times: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = importlib.import_module("peers")
    called: list[tuple[int, ...]] = []

    def peer(x: Any) -> Any:
        called.append(tuple(x.shape))
        return peers.torch_unique(x)

    monkeypatch.setattr(peers, "PEERS", {"slow": peer})
    monkeypatch.setattr(peers, "seconds_of", lambda run, clock: (run(), 0.5)[1])
    entry = peers.race(times.make_case((200, 64), "equal", "float32", "cpu"), Ticks(), lambda: 100.0)
    assert entry["skipped"] == {"slow": "TimeoutError: expected 8.0 s from a sixteenth of the columns, limit 4.0 s"}
    assert (200, 64) not in called
    monkeypatch.setattr(peers, "ONE_COMPARISON_AT_A_TIME", peer)
    monkeypatch.setattr(peers, "seconds_of", lambda run, clock: 2.0)
    entry = peers.race(times.make_case((200, 64), "equal", "float32", "cpu"), Ticks(), lambda: 100.0)
    assert entry["skipped"] == {"slow": "TimeoutError: expected 8.0 s from 64 rows, limit 4.0 s"}


def test_a_peer_that_is_not_installed_is_said_loudly_and_a_slow_one_comes_last(
    times: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = importlib.import_module("peers")
    asked: list[str] = []

    def noting(name: str) -> Callable[[Any], Any]:
        return lambda x: (asked.append(name), peers.torch_unique(x))[1]

    slow = noting("slow")
    monkeypatch.setattr(peers, "PEERS", {"slow": slow, "quick": noting("quick"), "absent": noting("absent")})
    monkeypatch.setattr(peers, "NEEDS", {"absent": ("a_package_of_nobodys",)})
    monkeypatch.setattr(peers, "ONE_COMPARISON_AT_A_TIME", slow)
    content = peers.race_all(tmp_path / "peers.json", Ticks(), lambda: 100.0, ((40, 64), (70, 9)), "cpu")
    assert content == json.loads((tmp_path / "peers.json").read_text())
    told = "*** absent: a_package_of_nobodys NOT INSTALLED on this machine: NOT MEASURED. ***"
    assert told in capsys.readouterr().out
    assert len(content["cases"]) == 4
    for entry in content["cases"]:
        assert set(entry["peers"]) == {"quick", "slow"}
        assert entry["skipped"] == {"absent": "ImportError: a_package_of_nobodys NOT INSTALLED on this machine"}
    assert set(asked) == {"quick", "slow"}
    assert asked == sorted(asked), "every case with the quick ones first"


def test_a_call_that_cuda_refuses_costs_no_other_one(times: Any) -> None:
    class Refusing(Ticks):
        def captured(self, run: Any) -> Any:
            if callable(run()):
                raise RuntimeError("CUDA failed at capturing")
            return super().captured(run)

    entry = times.measure(times.make_case((3, 40, 64), "equal", "float32", "cpu"), Refusing(), lambda: 100.0)
    assert entry["skipped"] == {"counts queued": "FAILED: CUDA failed at capturing"}
    assert "counts queued and read" in entry["calls"]


def test_a_peer_is_timed_beside_ours_and_must_agree(times: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = importlib.import_module("peers")
    monkeypatch.setattr(peers, "PEERS", {"right": peers.torch_unique, "wrong": lambda x: peers.torch_unique(x) * 0})
    entry = peers.race(times.make_case((40, 64), "pairs", "float32", "cpu"), Ticks(), lambda: 100.0)
    assert entry["peers"]["right"]["ratio"] == pytest.approx(1.0)
    assert "it differs on (40, 64) float32 pairs" in entry["skipped"]["wrong"]


def test_data_are_what_their_names_say(times: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    for dtype in ("float32", "bfloat16"):
        for data, bundles in (("distinct", 3000), ("50 bundles", 50), ("equal", 1), ("pairs", 1500)):
            case = times.make_case((3000, 8), data, dtype, "cpu")
            acts = case.acts[0]
            assert len(torch.unique(acts, dim=0)) == case.entry["bundles"] == bundles
            assert case.entry["bytes"] == case.bytes == acts.numel() * acts.element_size()
            assert np.array_equal(case.ids, times.cb.bundle_rows(acts).numpy())


def test_goals_are_those_of_this_card(times: Any) -> None:
    def case(name: str, data: str, shape: tuple[int, ...], size: int, graph_us: float) -> dict[str, Any]:
        kernels = {"group_rows_kernel": {"median_us": graph_us}}
        return {"name": name, "data": data, "shape": list(shape), "bytes": size, "kernels": kernels,
                "calls": {"bundle_rows": {"graph": {"median_us": graph_us}}} if len(shape) == 2 else {}}  # fmt: skip

    cases = [
        case("(4096, 65536) float32 equal", "equal", (4096, 65536), 1 << 30, 470.0),
        case("(4096, 65536) float32 distinct", "distinct", (4096, 65536), 1 << 30, 46.0),
        case("120 x (512, 512) float32 equal", "equal", (120, 512, 512), 1 << 27, 79.0),
    ]
    found = {goal["goal"]: goal for goal in times.goals(cases, 3.04e12)}
    of_copy = found["(4096, 65536) float32 equal: 75 % of the copy rate"]
    assert of_copy["limit_us"] == pytest.approx((1 << 30) / 3.04e12 / 0.75 * 1e6, abs=0.1)
    assert of_copy["reached"] is True
    assert found["(4096, 65536) distinct in 45 us"]["reached"] is False
    assert found["120 x (512, 512) float32 equal: time of the kernel"]["reached"] is True
    assert found["10^6 rows of 64 distinct in 100 us"]["reached"] is None
    assert found["table work on 10^6 keys in 100 us: rows of 16 bytes, pairs"]["reached"] is None
    slower = {goal["goal"]: goal for goal in times.goals(cases, 4.3e12)}
    assert slower["(4096, 65536) float32 equal: 75 % of the copy rate"]["reached"] is False


def test_makefile_has_the_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile[makefile.index("\ngpu-check:") :].split("\n\n")[0]
    assert "for part in 1 2; do $(PYTHON) bench/gpu_check.py --part $$part $(ARGS) || status=$$?" in recipe
    assert recipe.endswith("exit $$status"), "a failure of part 1 must not be lost"
