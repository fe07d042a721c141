"""`make gpu-check` without a GPU: what it says, writes, leaves out; the benchmark and sanitized part on a CPU."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from .cuda_stand_in import CudaHalf
from .gpu import sanitized

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
pytestmark = pytest.mark.skipif(not BENCH.is_dir(), reason="gpu-check: NOT TESTED HERE (no source tree)")

DEVICE = {"name": "NVIDIA H999 80GB", "memory_bytes": 1, "major": 9, "minor": 0}
NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=datetime.timezone.utc)


def load(name: str) -> Any:
    """A file of bench/, which is run as a program and is no part of the package."""
    spec = importlib.util.spec_from_file_location(f"loaded_{name}", BENCH / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    if not BENCH.is_dir():
        pytest.skip("gpu-check: NOT TESTED HERE (no source tree)")
    for name in ("OUT", "LIMIT_S", "PHASES", "COMMIT"):
        monkeypatch.delenv(name, raising=False)
    module = load("gpu_check")
    monkeypatch.setattr(module, "SCRATCH", tmp_path / "scratch")
    return module


@pytest.fixture
def race() -> Any:
    pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    return load("gpu_race")


class FakeClock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- no GPU -----------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so_and_writes_nothing(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "devices", list)
    assert gpu_check.main(["--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "NO NVIDIA GPU ON THIS MACHINE" in out
    assert "NOTHING WAS TESTED. This is not a pass" in out
    assert not (tmp_path / "out").exists()


def test_the_program_itself_ends_well_where_there_is_no_gpu(gpu_check: Any, tmp_path: Path) -> None:
    if gpu_check.devices():
        pytest.skip("gpu-check without a GPU: NOT TESTED HERE (there is one)")
    done = subprocess.run(
        [sys.executable, str(BENCH / "gpu_check.py")], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "OUT": str(tmp_path / "out")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "NOTHING WAS TESTED" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_driver_without_devices_is_no_gpu(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    no_device = SimpleNamespace(cuInit=lambda flags: 100, cuDeviceGetCount=lambda count: 0)
    monkeypatch.setattr(gpu_check.ctypes, "CDLL", lambda name: no_device)
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
    monkeypatch.setattr(gpu_check.ctypes, "CDLL", lambda name: driver)
    found = gpu_check.devices()
    assert len(found) == 2
    assert (found[0]["name"], found[0]["major"], found[0]["minor"]) == ("NVIDIA H999", 9, 1)


@pytest.mark.parametrize(("arguments", "said"), [
    (["--phases", "nonsense"], "there is no phase 'nonsense'; choose from install, facts"),
    (["--limit", "soon"], "argument --limit: invalid float value: 'soon'"),
])  # fmt: skip
def test_bad_arguments(gpu_check: Any, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


# --- phases, time and the file ----------------------------------------------------------------------------


def report_of(gpu_check: Any, folder: Path, chosen: Any = None) -> Any:
    return gpu_check.Report(folder, [DEVICE], NOON, chosen or list(gpu_check.STEPS))


def with_steps(gpu_check: Any, monkeypatch: pytest.MonkeyPatch, clock: FakeClock, **steps: Any) -> list[Any]:
    """Phases that take the seconds given and end as given; returns what is called, with the time allowed."""
    called: list[Any] = []
    plan = dict.fromkeys(gpu_check.STEPS, (10.0, "passed")) | steps

    def step(name: str) -> Any:
        def run(allowed: float, device: Any) -> Any:
            called.append((name, allowed))
            assert device == DEVICE
            seconds, outcome = plan[name]
            clock.now += seconds
            facts = {"measured": {"cases": [1]}} if name == "benchmark" else {}
            return gpu_check.Outcome(outcome, "" if outcome == "passed" else "because", facts)

        return run

    monkeypatch.setattr(gpu_check, "STEPS", {name: step(name) for name in gpu_check.STEPS})
    return called


def outcomes(path: Path) -> dict[str, str]:
    return {p["name"]: p["outcome"] for p in json.loads(path.read_text())["phases"]}


def test_a_run_in_which_all_is_well(gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = FakeClock()
    called = with_steps(gpu_check, monkeypatch, clock)
    report = report_of(gpu_check, tmp_path)
    assert gpu_check.check(report, gpu_check.Budget(540, clock), list(gpu_check.STEPS)) == "passed"
    assert [name for name, _ in called] == [p.name for p in gpu_check.PHASES] == list(gpu_check.STEPS)
    written = json.loads(report.path.read_text())
    assert report.path.name.startswith("gpu-nvidia-h999-80gb-2026-01-02-")
    assert list(tmp_path.iterdir()) == [report.path]
    assert (written["outcome"], written["seconds"], written["benchmark"]) == ("passed", 80.0, {"cases": [1]})
    assert written["device"] == DEVICE
    assert {p["outcome"] for p in written["phases"]} == {"passed"}
    assert all(p["seconds"] == 10.0 for p in written["phases"])
    assert "measured" not in json.dumps(written["phases"])


def test_the_file_is_complete_after_every_phase(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A time limit from outside may end the run at any moment."""
    clock, report = FakeClock(), report_of(gpu_check, tmp_path)
    with_steps(gpu_check, monkeypatch, clock)

    def killed(allowed: float, device: Any) -> Any:
        raise KeyboardInterrupt

    gpu_check.STEPS["memcheck"] = killed
    with pytest.raises(KeyboardInterrupt):
        gpu_check.check(report, gpu_check.Budget(540, clock), list(gpu_check.STEPS))
    assert list(outcomes(report.path)) == ["install", "facts", "gpu_tests", "suite_cuda"]
    assert json.loads(report.path.read_text())["outcome"] == "running"


def test_what_no_time_is_left_for_is_skipped_and_said(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, report = FakeClock(), report_of(gpu_check, tmp_path)
    called = with_steps(gpu_check, monkeypatch, clock, install=(240.0, "passed"), gpu_tests=(150.0, "passed"),
                        suite_cuda=(121.0, "passed"))  # fmt: skip
    assert gpu_check.check(report, gpu_check.Budget(540, clock), list(gpu_check.STEPS)) == "incomplete"
    assert dict(called)["gpu_tests"] == 160.0, "its budget"
    assert dict(called)["suite_cuda"] == 130.0
    found = outcomes(report.path)
    assert [n for n, o in found.items() if o == "skipped"] == ["memcheck", "racecheck", "benchmark", "suite_rest"]
    assert "NOT TESTED HERE (less than 20 s were left)" in capsys.readouterr().out


def test_a_phase_gets_what_is_left_when_that_is_less_than_its_budget(gpu_check: Any) -> None:
    clock = FakeClock()
    budget, phase = gpu_check.Budget(100, clock), gpu_check.Phase("x", 60, 30, False)
    assert budget.allowance(phase) == 60
    clock.now += 55
    assert (budget.allowance(phase), budget.used_s) == (45, 55)
    clock.now += 15
    assert budget.allowance(phase) == 30
    clock.now += 0.5
    assert budget.allowance(phase) is None


@pytest.mark.parametrize("needed", ["install", "facts"])
def test_nothing_runs_after_a_build_that_failed(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, needed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    called = with_steps(gpu_check, monkeypatch, FakeClock(), **{needed: (1.0, "failed")})
    monkeypatch.setattr(gpu_check, "devices", lambda: [DEVICE])
    assert gpu_check.main(["--out", str(tmp_path)]) == 1
    assert called[-1][0] == needed
    out = capsys.readouterr().out
    assert "gpu-check: because" in out
    assert "gpu-check: FAILED (NOT TESTED:" in out
    found = outcomes(next(tmp_path.glob("*.json")))
    assert [found[n] for n in ("gpu_tests", "suite_rest", "benchmark")] == ["skipped"] * 3


def test_a_failed_phase_does_not_stop_the_others(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = with_steps(gpu_check, monkeypatch, FakeClock(), gpu_tests=(1.0, "failed"), racecheck=(1.0, "refused"))
    monkeypatch.setattr(gpu_check, "devices", lambda: [DEVICE])
    monkeypatch.setenv("OUT", str(tmp_path / "from" / "environment"))
    assert gpu_check.main([]) == 1
    assert len(called) == len(gpu_check.PHASES)
    found = outcomes(next((tmp_path / "from" / "environment").glob("*.json")))
    assert (found["gpu_tests"], found["racecheck"], found["benchmark"]) == ("failed", "refused", "passed")


def test_chosen_phases_come_with_those_they_need(
    gpu_check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = with_steps(gpu_check, monkeypatch, FakeClock())
    monkeypatch.setattr(gpu_check, "devices", lambda: [DEVICE])
    monkeypatch.setenv("PHASES", "benchmark")
    assert gpu_check.main(["--out", str(tmp_path)]) == 0
    assert [name for name, _ in called] == ["install", "facts", "benchmark"]
    assert next(tmp_path.glob("*.json")).stem.endswith("-partial")


@pytest.mark.parametrize(("states", "expected"), [
    (["passed", "passed"], "passed"), (["passed", "skipped"], "incomplete"), (["refused", "passed"], "incomplete"),
    (["passed", "failed", "skipped"], "failed"), (["passed", "timed out"], "failed"), ([], "incomplete"),
])  # fmt: skip
def test_verdict(gpu_check: Any, states: list[str], expected: str) -> None:
    assert gpu_check.verdict([{"outcome": state} for state in states]) == expected


def test_the_commit_may_be_named_where_there_is_no_repository(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "_output", lambda *command: "")
    assert gpu_check.commit()["short"] == "nocommit"
    monkeypatch.setenv("COMMIT", "0123456789abcdef")
    assert gpu_check.commit() == {"full": "0123456789abcdef", "short": "01234567", "dirty": False}


# --- children ---------------------------------------------------------------------------------------------


def test_a_child_runs_elsewhere_and_its_output_is_kept(gpu_check: Any) -> None:
    log = gpu_check.SCRATCH / "log"
    code = "import os, sys; print(os.getcwd(), sys.path[1], os.environ['MORE']); sys.exit(3)"
    assert gpu_check.run([sys.executable, "-c", code], 30, log, {"MORE": "more"}) == 3
    assert log.read_text().split() == [str(gpu_check.SCRATCH / "empty"), str(gpu_check.SCRATCH / "site"), "more"]
    outcome = gpu_check.of_status(3, 30, log)
    assert (outcome.outcome, outcome.why) == ("failed", "exit status 3")


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


def test_a_child_that_does_not_end_is_ended(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Politely first; then with everything it has started."""
    monkeypatch.setattr(gpu_check, "GRACE_S", 2.0)
    log, python = gpu_check.SCRATCH / "log", [sys.executable, "-S", "-E"]
    code = "import time\nprint('began', flush=True)\ntry:\n time.sleep(90)\nexcept KeyboardInterrupt:\n print('told')"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    try:
        assert gpu_check.run([*python, "-c", code], 8, log) is None
    finally:
        signal.signal(signal.SIGINT, before)
    assert log.read_text().split() == ["began", "told"]
    code = (
        "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "child = os.fork()\nprint(child, flush=True) if child else None\ntime.sleep(90)"
    )
    assert gpu_check.run([*python, "-c", code], 8, log) is None
    assert ends(int(log.read_text()))
    outcome = gpu_check.of_status(None, 4, log)
    assert (outcome.outcome, outcome.why) == ("timed out", "not done after 4 s")


def test_the_end_of_a_log_does_not_name_this_machine(gpu_check: Any) -> None:
    log = gpu_check.SCRATCH / "log"
    log.parent.mkdir(parents=True)
    log.write_text("x" * 99_999 + f"\n{ROOT}/tests/test_x.py failed in {Path.home()}/y")
    assert gpu_check.tail(log).endswith("./tests/test_x.py failed in ~/y")
    assert len(gpu_check.tail(log)) == gpu_check.TAIL_CHARACTERS


def test_install_asks_for_this_gpu_and_says_what_went_wrong(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(command: Any, seconds: float, log: Path, extra: Any = None) -> int:
        asked.append((command, extra))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(
            "building\nCMake Error at CMakeLists.txt:33 (message):\n  CBKERNELS_CUDA is ON, but no nvcc\nend\n"
        )
        return 1

    monkeypatch.setattr(gpu_check, "run", run)
    outcome = gpu_check.install(100, DEVICE)
    assert outcome.outcome == "failed"
    assert "CBKERNELS_CUDA is ON, but no nvcc" in outcome.why
    assert outcome.why.endswith("NOTHING WAS TESTED")
    command, extra = asked[0]
    assert {"--no-build-isolation", "--no-deps", "--no-index"} <= set(command)
    assert extra == {"CBKERNELS_CUDA": "ON", "CBKERNELS_CUDA_ARCHITECTURES": "90-real"}


@pytest.mark.parametrize(("log", "line"), [
    ("a\nb\nerror: no g++\nc", "error: no g++"), ("a\nlast\n", "last"), ("", "no output"),
    ("warning\nnvcc fatal: unsupported\nerror: 1", "nvcc fatal: unsupported"),
])  # fmt: skip
def test_reason_of_a_failed_build(gpu_check: Any, log: str, line: str) -> None:
    assert gpu_check.reason(log) == line


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
def test_a_build_that_cannot_be_tested_is_refused_in_one_sentence(gpu_check: Any, change: Any, said: str) -> None:
    installed = str((gpu_check.SCRATCH / "site").resolve() / "cbkernels" / "__init__.py")
    why = gpu_check.refusal({"installed": installed} | GOOD_FACTS | change)
    assert said in why
    assert (why == "") == (change == {})
    if why:
        assert why.endswith("NOTHING WAS TESTED")


# --- pytest and the sanitizer as phases -------------------------------------------------------------------


SMALL_SUITE = """
import pytest
def test_one(): pass
def test_two(): assert False
def test_three(): pytest.skip("a thing: NOT TESTED HERE (none)")
"""


def test_tests_are_counted_and_named(gpu_check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "test_small.py"
    target.write_text(SMALL_SUITE)
    monkeypatch.setattr(gpu_check, "_has", lambda package: True)
    outcome = gpu_check.pytest_phase("small", 60, [str(target)])
    facts = outcome.facts
    assert (outcome.outcome, facts["tests"], facts["passed"], facts["failed"], facts["skipped"]) == (
        "failed",
        3,
        1,
        1,
        1,
    )
    assert facts["failures"][0].endswith("::test_two")
    assert facts["skip_reasons"] == {"a thing: NOT TESTED HERE (none)": 1}
    assert gpu_check.pytest_phase("small", 60, [str(target)], "-k", "one").outcome == "passed"
    target.write_text("import pytest\npytest.skip('all of it: NOT TESTED HERE (none)', allow_module_level=True)\n")
    whole_file = gpu_check.pytest_phase("small", 60, [str(target)])
    assert "all of it: NOT TESTED HERE (none)" in next(iter(whole_file.facts["skip_reasons"]))
    target.write_text(SMALL_SUITE)
    only_skipped = gpu_check.pytest_phase("small", 60, [str(target)], "-k", "three")
    assert (only_skipped.outcome, only_skipped.why) == ("failed", "no test passed: nothing was tested")


def test_tests_that_do_not_end_are_counted_so_far(
    gpu_check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "test_slow.py"
    target.write_text("import time\ndef test_one(): pass\ndef test_two(): time.sleep(100)\n")
    monkeypatch.setattr(gpu_check, "_has", lambda package: True)
    outcome = gpu_check.pytest_phase("slow", 16, [str(target)])
    assert (outcome.outcome, outcome.facts["passed"]) == ("timed out", 1)


def test_files_that_need_a_missing_package_are_named(gpu_check: Any, tmp_path: Path) -> None:
    found = gpu_check.hard_imports(ROOT / "tests")
    assert ("test_streaming.py", "hypothesis") in {(path.name, package) for path, package in found}
    assert gpu_check._has("json")
    assert not gpu_check._has("a_package_that_nobody_has")


MEMCHECK = "========= COMPUTE-SANITIZER\nsanitized: 12 calls, 0 wrong answers\n========= ERROR SUMMARY: 0 errors\n"


@pytest.mark.parametrize(("status", "text", "expected"), [
    (0, MEMCHECK, "passed"),
    (99, MEMCHECK.replace("0 errors", "2 errors"), "failed"),
    (1, "sanitized: 12 calls, 1 wrong answers\n========= ERROR SUMMARY: 0 errors", "failed"),
    (0, "========= ERROR SUMMARY: 0 errors\n", "failed"),
    (1, "========= Error: Device not supported. Please refer to the documentation\n", "refused"),
    (None, "sanitized", "timed out"),
])  # fmt: skip
def test_what_a_sanitizer_says(gpu_check: Any, status: int | None, text: str, expected: str) -> None:
    log = gpu_check.SCRATCH / "log"
    log.parent.mkdir(parents=True)
    log.write_text(text)
    outcome = gpu_check.of_sanitizer(status, 30, log)
    assert outcome.outcome == expected
    if expected == "passed":
        assert outcome.facts == {"summary": "ERROR SUMMARY: 0 errors", "calls": 12}
    if expected == "refused":
        assert "Device not supported" in outcome.why


def test_a_machine_without_the_sanitizer(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check.shutil, "which", lambda *a, **k: None)
    outcome = gpu_check.sanitizer("memcheck")(30, DEVICE)
    assert (outcome.outcome, outcome.why) == ("refused", "compute-sanitizer is not on this machine")


def test_a_benchmark_that_was_cut_off_keeps_its_cases(gpu_check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: Any, seconds: float, log: Path, extra: Any = None) -> None:
        path = Path(command[command.index("--out") + 1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"cases": [{"name": "one"}]}')

    monkeypatch.setattr(gpu_check, "run", run)
    outcome = gpu_check.benchmark(60, DEVICE)
    assert (outcome.outcome, outcome.facts["measured"]["cases"]) == ("timed out", [{"name": "one"}])
    monkeypatch.setattr(gpu_check, "run", lambda *a: 0)
    assert gpu_check.benchmark(60, DEVICE).why == "nothing was measured"


# --- the sanitized part on CPU memory ---------------------------------------------------------------------


class HostMemory:
    """What is put is copied into a block of its own."""

    def __init__(self) -> None:
        self.blocks: dict[int, np.ndarray] = {}

    def put(self, values: Any) -> int:
        block = np.frombuffer(values.tobytes() or b"\0", np.uint8).copy()
        self.blocks[block.ctypes.data] = block
        return block.ctypes.data

    def get(self, address: int, shape: tuple[int, ...], kind: Any) -> Any:
        nbytes = int(np.prod(shape)) * np.dtype(kind).itemsize
        return self.blocks[address][:nbytes].view(kind).reshape(shape)

    def clear(self) -> None:
        self.blocks.clear()


class Half(CudaHalf):
    """The stand-in, with launch shapes that are written down."""

    def use_launch_shape(self, blocks: int, threads: int) -> None:
        self.note("use_launch_shape", blocks=blocks, threads=threads)


def test_the_sanitized_part_finds_the_answers_right() -> None:
    half, memory = Half(), HostMemory()
    calls = sanitized.workload(half, memory, 3600.0, most=len(sanitized.TYPES) * len(sanitized.SHAPES))
    assert calls.wrong == []
    assert calls.count > 250
    wanted = {"bundle_ids", "count_bundles", "row_fingerprints", "count_fingerprints", "conflict_margin"}
    assert wanted <= set(half.names())
    assert half.calls[-1] == ("use_launch_shape", {"blocks": 0, "threads": 0})
    assert memory.blocks == {}


@pytest.mark.parametrize("broken", ["bundle_ids", "count_bundles", "row_fingerprints", "conflict_margin"])
def test_the_sanitized_part_notices_a_wrong_answer(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    half, memory = Half(), HostMemory()
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


def test_the_sanitized_part_ends_in_time_and_says_when_it_cannot_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock()

    class Slow(Half):
        def conflict_margin(self, *arguments: Any) -> float:
            clock.now += 5
            return super().conflict_margin(*arguments)

    calls = sanitized.workload(Slow(), HostMemory(), 12.0, clock)
    assert 0 < calls.count < 200
    monkeypatch.setattr(sanitized._core.cuda, "missing_reason", lambda: "there is no driver", raising=False)
    assert sanitized.main([]) == 1
    assert "NOTHING WAS RUN (there is no driver)" in capsys.readouterr().out


# --- the benchmark on CPU tensors -------------------------------------------------------------------------


class Ticks:
    """Runs everything and calls it a millisecond."""

    how = "ticks"

    def __init__(self) -> None:
        self.calls = 0

    def times(self, run: Any, rounds: int) -> list[float]:
        for _ in range(rounds):
            run()
        self.calls += rounds
        return [1e-3] * rounds

    def captured(self, run: Any) -> Any:
        result = run()
        parts = result if isinstance(result, tuple) else (result,)

        def replay() -> None:
            again = run()
            for part, new in zip(parts, again if isinstance(again, tuple) else (again,), strict=True):
                part.copy_(new)

        return replay, result

    def wait(self) -> None:
        return None


SMALL = [((40, 64), "float32"), ((130, 33), "bfloat16"), ((3, 40, 64), "float32")]


def test_everything_is_measured_and_its_answer_asserted(
    race: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(race, "MARGIN_SHAPE", (40, 64))
    cases = [(shape, dtype, data) for shape, dtype in SMALL for data in race.DATA]
    content = race.race(tmp_path / "times.json", 600.0, "cpu", Ticks(), cases)
    assert json.loads((tmp_path / "times.json").read_text()) == content
    assert len(content["cases"]) == len(cases)
    for (shape, _, _), entry in zip(cases, content["cases"], strict=True):
        names = {"copy", "bundle_entropy_layers"}
        if len(shape) == 2:
            names = {"copy", "bundle_rows", "bundle_rows, graph", "bundle_rows, grid", "bundle_rows, grid, graph",
                     "row_fingerprints", "row_fingerprints, graph", "bundle_entropy", "update",
                     "torch.unique(dim=0)"}  # fmt: skip
        names |= {"conflict_margin"} if shape == (40, 64) else set()
        assert set(entry["times"]) == names, entry["name"]
        assert all(t["median_s"] == 1e-3 and t["rounds"] >= 1 for t in entry["times"].values())
        assert entry["skipped"] == {}
    assert content["skipped"] == []
    shown = capsys.readouterr().out
    assert "torch.unique(dim=0)" in shown
    assert "20 x torch.unique, (40, 64) float32 equal: NOT REACHED (1.0 of 20.0)" in shown


def test_the_plan_holds_every_size_and_the_most_telling_first(race: Any) -> None:
    plan = race.plan()
    assert len(plan) == len(set(plan)) == 3 * (len(race.SHAPES) + len(race.LAYERS) + len(race.BFLOAT16_SHAPES))
    assert {shape for shape, dtype, _ in plan if dtype == "float32"} == {*race.SHAPES, *race.LAYERS}
    assert plan[0] == ((512, 16384), "float32", "distinct")


@pytest.mark.parametrize("wrong", ["bundle_rows", "bundle_entropy", "bundle_entropy_layers", "conflict_margin"])
def test_a_wrong_answer_is_not_timed(race: Any, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(race.cb, wrong)
    other = {"bundle_rows": lambda x, **k: right(x, **k) * 0 if len(x) > 39 else right(x, **k),
             "conflict_margin": lambda x, y: 0.0 if len(x) > 39 else right(x, y)}  # fmt: skip
    spoiled = other.get(wrong, lambda x, y: right(x, y * 0 + 1) if wrong == "bundle_entropy" else {})
    monkeypatch.setattr(race, "MARGIN_SHAPE", (40, 64))
    monkeypatch.setattr(race.cb, wrong, spoiled)
    shape = (3, 40, 64) if wrong == "bundle_entropy_layers" else (40, 64)
    case = race.make_case(shape, "equal" if wrong == "bundle_entropy" else "distinct", "float32", "cpu")
    with pytest.raises(AssertionError):
        race.measure(case, Ticks(), lambda: 100.0)


def test_a_graph_that_computes_nothing_is_noticed(race: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stale(Ticks):
        def captured(self, run: Any) -> Any:
            return lambda: None, run()

    with pytest.raises(AssertionError, match="wrong bundles"):
        race.measure(race.make_case((40, 64), "50 bundles", "float32", "cpu"), Stale(), lambda: 100.0)


def test_no_time_left_means_named_and_not_measured(race: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = race.make_case((40, 64), "equal", "float32", "cpu")
    entry = race.measure(case, Ticks(), lambda: 0.0)
    assert set(entry["times"]) == {"copy"}
    assert entry["skipped"]["bundle_rows"] == "no time left"
    assert "torch.unique(dim=0)" in entry["skipped"]
    content = race.race(tmp_path / "x.json", -1.0, "cpu", Ticks(), [((4, 4), "float32", "equal")])
    assert (content["cases"], content["skipped"]) == ([], ["(4, 4) float32 equal"])


def test_a_slow_peer_is_not_called(race: Any) -> None:
    class Slow(Ticks):
        def times(self, run: Any, rounds: int) -> list[float]:
            return [1.0] * rounds

    case = race.make_case((40, 64), "equal", "float32", "cpu")
    race.race_unique(case, Slow(), lambda: 100.0)
    assert (
        case.entry["skipped"]["torch.unique(dim=0)"] == "expected 16.0 s from a sixteenth of the columns, limit 8.0 s"
    )
    assert case.entry["times"] == {}


def test_data_are_what_their_names_say(race: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch: NOT TESTED HERE")
    for dtype in ("float32", "bfloat16"):
        for data, bundles in (("distinct", 3000), ("50 bundles", 50), ("equal", 1)):
            case = race.make_case((3000, 8), data, dtype, "cpu")
            acts = case.acts[0]
            assert len(torch.unique(acts, dim=0)) == case.entry["bundles"] == bundles
            assert case.entry["bytes"] == case.bytes == acts.numel() * acts.element_size()
            assert np.array_equal(case.ids, race.cb.bundle_rows(acts).numpy())


def test_goals_are_computed_from_the_cases(race: Any) -> None:
    def case(name: str, **medians: float) -> dict[str, Any]:
        return {"name": name, "times": {k.replace("_dim0", "(dim=0)"): {"median_s": v} for k, v in medians.items()}}

    cases = [
        case("(4096, 65536) float32 equal", bundle_rows=290e-6),
        case("(4096, 65536) float32 distinct", bundle_rows=31e-6),
        case("120 x (512, 512) float32 equal", bundle_entropy_layers=61e-6),
        {"name": "x", "times": {"bundle_rows": {"median_s": 1.0}, "torch.unique(dim=0)": {"median_s": 20.0}}},
    ]
    found = {g["goal"]: g["reached"] for g in race.goals(cases)}
    assert found["1 GiB with duplicates"] is True
    assert found["1 GiB all distinct"] is False
    assert found["120 layers of (512, 512), equal"] is False
    assert found["120 layers of (512, 16384), equal"] is None
    assert found["20 x torch.unique, x"] is True


def test_makefile_has_the_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile[makefile.index("\ngpu-check:") :].split("\n\n")[0]
    assert "bench/gpu_check.py" in recipe
