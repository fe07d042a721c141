"""`make gpu-check`: build, tests, sanitizer and benchmark on an NVIDIA GPU, offline, in less than ten minutes.

Runs under the machine's own python3 and needs nothing but the standard library itself; phases are processes of
their own with a time limit each, so that a crash or a hang loses one phase. After every phase the JSON in the
folder OUT (default bench/results) is written aside and renamed. Without a GPU: a box saying that nothing was
tested, exit 0. Environment: OUT, LIMIT_S, PHASES (names, blank-separated), COMMIT where there is no git.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / "build" / "gpu_check"
LIMIT_S = 540.0
GRACE_S = 15.0
"""From the polite signal to the other one; part of a phase's time."""
TAIL_CHARACTERS = 5000
NO_GPU = """
  ****************************************************************
  *  gpu-check: NO NVIDIA GPU ON THIS MACHINE.                   *
  *  NOTHING WAS TESTED. This is not a pass of the CUDA backend. *
  ****************************************************************
"""

Json = dict[str, Any]


class Phase(NamedTuple):
    """A step with its own process."""

    name: str
    budget_s: float
    minimum_s: float
    """With less time left it is skipped."""
    is_needed: bool
    """The later ones are skipped when it fails."""


PHASES = (
    Phase("install", 240, 20, True),
    Phase("facts", 40, 5, True),
    Phase("gpu_tests", 160, 30, False),
    Phase("suite_cuda", 130, 30, False),
    Phase("memcheck", 60, 20, False),
    Phase("racecheck", 60, 20, False),
    Phase("benchmark", 190, 40, False),
    Phase("suite_rest", 400, 40, False),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a phase."""

    outcome: str
    """passed, failed, timed out, skipped, refused (the tool does not work on this machine)."""
    why: str = ""
    facts: Json = field(default_factory=dict)


class Budget:
    """How long a phase may take."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._limit_s, self._start = clock, limit_s, clock()

    @property
    def used_s(self) -> float:
        return self._clock() - self._start

    def allowance(self, phase: Phase) -> float | None:
        """Seconds for this phase; None when too little is left for it to be of use."""
        left = self._limit_s - self.used_s
        return min(phase.budget_s, left) if left >= phase.minimum_s else None


# --- the machine ------------------------------------------------------------------------------------------


def devices() -> list[Json]:
    """Every GPU that the driver shows: name, compute capability, memory. Empty without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_device(driver, index) for index in range(count.value)]


def _device(driver: Any, index: int) -> Json:
    handle, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(128)
    attributes = {"major": 75, "minor": 76, "multiprocessors": 16, "l2_bytes": 38, "cooperative_launch": 95}
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    found: Json = {"name": name.value.decode(), "memory_bytes": memory.value}
    for attribute, code in attributes.items():
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), code, handle)
        found[attribute] = value.value
    return found


def driver_versions() -> Json:
    """The driver's own version and the newest CUDA it understands."""
    found: Json = {"driver": None, "driver_cuda": None, "nvcc": None}
    loaded = re.search(r"(\d+\.\d+[.\d]*)", _first_line("/proc/driver/nvidia/version"))
    asked = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    found["driver"] = asked[0].strip() if asked else loaded[1] if loaded else None
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
        found["driver_cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    except OSError:
        pass
    release = re.search(r"release ([\d.]+), V([\d.]+)", _output("nvcc", "--version"))
    found["nvcc"] = release[2] if release else None
    return found


def commit() -> Json:
    """Commit and whether the tree differs from it; COMMIT answers where there is no repository."""
    full = _output("git", "-C", str(ROOT), "rev-parse", "HEAD").strip() or os.environ.get("COMMIT", "")
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!bench/results")
    return {"full": full or None, "short": (full or "nocommit")[:8], "dirty": bool(changed.strip())}


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().splitlines()[0]
    except (OSError, IndexError):
        return ""


# --- the JSON ---------------------------------------------------------------------------------------------


class Report:
    """What is known so far, on disk after every phase."""

    def __init__(self, folder: Path, found: list[Json], now: datetime.datetime, chosen: Sequence[str]) -> None:
        stamp, self.commit = f"{now:%Y-%m-%d}", commit()
        device = re.sub(r"[^a-z0-9]+", "-", found[0]["name"].lower()).strip("-")
        mark = "" if set(chosen) == {phase.name for phase in PHASES} else "-partial"
        self.path = folder / f"gpu-{device}-{stamp}-{self.commit['short']}{mark}.json"
        self.content: Json = {
            "format": 1, "what": "gpu-check", "date": now.isoformat(timespec="seconds"), "commit": self.commit,
            "device": found[0], "num_devices": len(found), "versions": {"python": platform.python_version()},
            "outcome": "running", "seconds": 0.0, "phases": [], "benchmark": None,
        }  # fmt: skip

    def add(self, phase: Phase, outcome: Outcome, seconds: float) -> None:
        self.content["phases"].append(
            {"name": phase.name, "outcome": outcome.outcome, "why": outcome.why, "seconds": round(seconds, 1),
             "budget_s": phase.budget_s, **outcome.facts}
        )  # fmt: skip

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        aside.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(aside, self.path)


def verdict(phases: Sequence[Json]) -> str:
    """failed if a phase failed or was cut off, incomplete if one was left out, else passed."""
    outcomes = [phase["outcome"] for phase in phases]
    if "failed" in outcomes or "timed out" in outcomes:
        return "failed"
    return "passed" if outcomes and set(outcomes) == {"passed"} else "incomplete"


# --- running a phase --------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """For every child: our package from the scratch folder, compilers beside this python on the path."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    folders = [str(Path(sys.executable).parent), kept.get("PATH", ""), "/usr/local/cuda/bin"]
    return kept | {
        "PATH": os.pathsep.join(folders),
        "PYTHONPATH": str(SCRATCH / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def run(command: Sequence[str], seconds: float, log: Path, extra: dict[str, str] | None = None) -> int | None:
    """Exit status, or None when the time was over; all output goes into the log.

    The child starts in an empty folder, so that the source tree cannot stand in for what was installed.
    """
    empty = SCRATCH / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        child = subprocess.Popen(
            list(command), stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=empty,
            env=environment() | (extra or {}), start_new_session=True,
            preexec_fn=_listen_to_interrupts,
        )  # fmt: skip
        try:
            return child.wait(max(seconds - GRACE_S, seconds / 2))
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGINT)  # pytest then still writes what it has
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(min(GRACE_S, seconds / 2))
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # whatever the child left behind
            child.wait()


def _listen_to_interrupts() -> None:
    """A shell's background job ignores SIGINT and so would its children, which are told so to end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tail(log: Path) -> str:
    """The end of a log without this machine's paths."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")[-TAIL_CHARACTERS:]


def of_status(status: int | None, seconds: float, log: Path, facts: Json | None = None) -> Outcome:
    if status is None:
        return Outcome("timed out", f"not done after {seconds:.0f} s", {"tail": tail(log), **(facts or {})})
    if status != 0:
        return Outcome("failed", f"exit status {status}", {"tail": tail(log), **(facts or {})})
    return Outcome("passed", "", facts or {})


# --- the phases -------------------------------------------------------------------------------------------


def install(seconds: float, device: Json) -> Outcome:
    """The package with kernels for this GPU, into a folder of its own; no network, no dependency."""
    log, site = SCRATCH / "install.log", SCRATCH / "site"
    shutil.rmtree(site, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index",
               "--disable-pip-version-check", "--target", str(site),
               "-C", f"build-dir={SCRATCH / 'cmake'}", str(ROOT)]  # fmt: skip
    own = f"{device['major']}{device['minor']}-real"
    wanted = {"CBKERNELS_CUDA": os.environ.get("CBKERNELS_CUDA", "ON"),
              "CBKERNELS_CUDA_ARCHITECTURES": os.environ.get("CBKERNELS_CUDA_ARCHITECTURES", own)}  # fmt: skip
    outcome = of_status(run(command, seconds, log, wanted), seconds, log, wanted)
    if outcome.outcome == "passed":
        return outcome
    why = f"there is a GPU, but the package could not be built here ({reason(tail(log))}); NOTHING WAS TESTED"
    return replace(outcome, why=why)


def reason(log: str) -> str:
    """The line of a build's output that says most: CMake's own words, else the last error, else the end."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (r"CBKERNELS_CUDA|CUDA compiler|nvcc fatal", r"\berror\b|No module named"):
        told = [line for line in lines if re.search(pattern, line, re.I)]
        if told:
            return told[0][:200]
    return lines[-1][:200] if lines else "no output"


FACTS = """
import json, os, platform, sys
import cbkernels
from cbkernels import _core
found = {"installed": os.path.realpath(cbkernels.__file__), "build": _core.build_info(),
         "missing": _core.cuda.missing_reason(), "versions": {"python": platform.python_version()}}
for name in ("numpy", "torch", "pytest", "hypothesis", "cupy", "jax", "numba"):
    try:
        from importlib.metadata import version
        found["versions"][name] = version(name)
    except Exception:
        found["versions"][name] = None
import torch
found["versions"]["cbkernels"] = cbkernels.__version__
found["versions"]["torch_cuda"] = torch.version.cuda
found["torch_sees"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
print("FACTS " + json.dumps(found, default=str))
"""


def facts(seconds: float, device: Json) -> Outcome:
    """What was built and what it finds here; a build without CUDA, or one that cannot work, is a failure."""
    log = SCRATCH / "facts.log"
    status = run([sys.executable, "-c", FACTS], seconds, log)
    lines = [line for line in tail(log).splitlines() if line.startswith("FACTS ")]
    if status != 0 or not lines:
        return of_status(status or 1 if status is not None else None, seconds, log)
    found = json.loads(lines[-1].removeprefix("FACTS "))
    found["versions"] |= driver_versions()
    why = refusal(found)
    del found["installed"]
    return Outcome("failed" if why else "passed", why, found)


def refusal(found: Json) -> str:
    """Why this build or this python cannot test a GPU; empty when it can."""
    if not Path(found["installed"]).is_relative_to((SCRATCH / "site").resolve()):
        return "this python imports another cbkernels than the one just built; uninstall it; NOTHING WAS TESTED"
    if not found["build"]["cuda"]:
        return (
            f"there is a GPU, but this build has no CUDA backend ({found['build']['cuda_reason']}); NOTHING WAS TESTED"
        )
    if found["missing"]:
        return f"there is a GPU, but the CUDA backend cannot use it ({found['missing']}); NOTHING WAS TESTED"
    if not found["torch_sees"]:
        return f"there is a GPU, but torch {found['versions']['torch']} does not see it; NOTHING WAS TESTED"
    return ""


def pytest_phase(name: str, seconds: float, targets: Sequence[str], *options: str) -> Outcome:
    """Some tests against what was installed; passed, failed and skipped are counted from pytest's own XML."""
    log, xml = SCRATCH / f"{name}.log", SCRATCH / f"{name}.xml"
    xml.unlink(missing_ok=True)
    left_out = [path for path in hard_imports(ROOT / "tests") if not _has(path[1])]
    ignored = [f"--ignore={path}" for path, _ in left_out]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT),
               "-c", str(ROOT / "pyproject.toml"), f"--junitxml={xml}", *ignored, *options, *targets]  # fmt: skip
    status = run(command, seconds, log)
    found = counts(xml) | {"left_out": [f"{path.name}: NOT TESTED HERE (no {package})" for path, package in left_out]}
    outcome = of_status(status, seconds, log, found)
    if outcome.outcome == "passed" and found.get("passed", 0) == 0:
        return Outcome("failed", "no test passed: nothing was tested", found | {"tail": tail(log)})
    return outcome


def hard_imports(tests: Path) -> list[tuple[Path, str]]:
    """Test files that cannot be collected without a package, and which."""
    found = []
    for path in sorted(tests.rglob("test_*.py")):
        for package in ("hypothesis",):
            if re.search(rf"^(import|from) {package}\b", path.read_text(encoding="utf-8"), re.MULTILINE):
                found.append((path, package))
    return found


def _has(package: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def counts(xml: Path) -> Json:
    """Numbers of tests, names of those that failed, reasons of those that were skipped."""
    try:
        cases = list(ElementTree.parse(xml).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return {"tests": None}
    cases = [c for c in cases if c.get("name") or len(c)]  # what an interruption hit has no name and no outcome
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [mark for c in cases if (mark := c.find("skipped")) is not None]
    reasons: dict[str, int] = {}
    for mark in skipped:
        said = mark.get("message") or ""
        why = (mark.text or said if said == "collection skipped" else said).replace(str(ROOT), ".")
        reasons[why] = reasons.get(why, 0) + 1
    return {
        "tests": len(cases), "passed": len(cases) - len(failed) - len(skipped), "failed": len(failed),
        "skipped": len(skipped), "skip_reasons": reasons,
        "failures": [f"{c.get('classname')}::{c.get('name')}" for c in failed][:50],
    }  # fmt: skip


def gpu_tests(seconds: float, device: Json) -> Outcome:
    return pytest_phase("gpu_tests", seconds, [str(ROOT / "tests" / "gpu")])


ON_CUDA = "cuda and not emulated"


def suite_cuda(seconds: float, device: Json) -> Outcome:
    """Every test that a backend takes part in, with backend cuda."""
    return pytest_phase("suite_cuda", seconds, [str(ROOT / "tests")], "-k", ON_CUDA,
                        f"--ignore={ROOT / 'tests' / 'gpu'}")  # fmt: skip


def suite_rest(seconds: float, device: Json) -> Outcome:
    """All other tests: the same package on this machine's CPU."""
    return pytest_phase("suite_rest", seconds, [str(ROOT / "tests")], "-k", f"not ({ON_CUDA})",
                        f"--ignore={ROOT / 'tests' / 'gpu'}")  # fmt: skip


def sanitizer(tool: str) -> Callable[[float, Json], Outcome]:
    """One of compute-sanitizer's tools over tests/gpu/sanitized.py."""

    def phase(seconds: float, device: Json) -> Outcome:
        program = shutil.which("compute-sanitizer", path=environment()["PATH"])
        if program is None:
            return Outcome("refused", "compute-sanitizer is not on this machine")
        log = SCRATCH / f"{tool}.log"
        program_of_ours = [sys.executable, str(ROOT / "tests" / "gpu" / "sanitized.py"),
                           "--seconds", f"{max(seconds - GRACE_S, 5) / 2:.0f}"]  # fmt: skip
        command = [program, "--tool", tool, "--error-exitcode", "99", *program_of_ours]
        return of_sanitizer(run(command, seconds, log), seconds, log)

    return phase


def of_sanitizer(status: int | None, seconds: float, log: Path) -> Outcome:
    """A tool that cannot work on this machine is no finding about our kernels; it is said, not hidden."""
    text = tail(log)
    refused = re.search(
        r"^.*(Device not supported|not supported on|Unable to|failed to initialize).*$", text, re.M | re.I
    )
    summary = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: .*$", text, re.M)
    found: Json = {"summary": summary[-1].strip("= ") if summary else None}
    if refused and not summary and status != 0:
        return Outcome("refused", refused[0].strip("= "), {"tail": text})
    calls = re.findall(r"^sanitized: (\d+) calls.*$", text, re.M)
    found["calls"] = int(calls[-1]) if calls else 0
    if status == 0 and not found["calls"]:
        return Outcome("failed", "the tool ended without having run a kernel", {"tail": text})
    return of_status(status, seconds, log, found)


def benchmark(seconds: float, device: Json) -> Outcome:
    """Times; what was measured before an end by force is kept."""
    log, times = SCRATCH / "benchmark.log", SCRATCH / "benchmark.json"
    times.unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "bench" / "gpu_race.py"), "--out", str(times),
               "--seconds", f"{max(seconds - GRACE_S - 10, 5):.0f}"]  # fmt: skip
    outcome = of_status(run(command, seconds, log), seconds, log)
    if outcome.outcome == "passed":
        print(tail(log), flush=True)
    measured = json.loads(times.read_text(encoding="utf-8")) if times.exists() else None
    if outcome.outcome == "passed" and (measured is None or not measured["cases"]):
        return Outcome("failed", "nothing was measured", {"tail": tail(log)})
    return replace(outcome, facts=outcome.facts | {"measured": measured})


STEPS: dict[str, Callable[[float, Json], Outcome]] = {
    "install": install, "facts": facts, "gpu_tests": gpu_tests, "suite_cuda": suite_cuda,
    "memcheck": sanitizer("memcheck"), "racecheck": sanitizer("racecheck"),
    "benchmark": benchmark, "suite_rest": suite_rest,
}  # fmt: skip


# --- all of it --------------------------------------------------------------------------------------------


def check(report: Report, budget: Budget, chosen: Sequence[str]) -> str:
    """Runs the phases in order; returns the verdict. The file is up to date after each."""
    blocked = ""
    for phase in PHASES:
        if phase.name not in chosen:
            continue
        before, allowed = budget.used_s, budget.allowance(phase)
        if blocked:
            outcome = Outcome("skipped", f"NOT TESTED HERE ({blocked} did not pass)")
        elif allowed is None:
            outcome = Outcome("skipped", f"NOT TESTED HERE (less than {phase.minimum_s:.0f} s were left)")
        else:
            print(f"==> gpu-check: {phase.name}, at most {allowed:.0f} s", flush=True)
            outcome = STEPS[phase.name](allowed, report.content["device"])
        if phase.is_needed and outcome.outcome != "passed":
            blocked = blocked or phase.name
        take_in(report, phase, outcome, budget.used_s - before)
        report.content["seconds"] = round(budget.used_s, 1)
        report.write()
    report.content["outcome"] = verdict(report.content["phases"])
    report.write()
    return str(report.content["outcome"])


def take_in(report: Report, phase: Phase, outcome: Outcome, seconds: float) -> None:
    """A phase's result into the report and onto the screen."""
    found = dict(outcome.facts)
    report.content["versions"] |= found.pop("versions", {})
    if "measured" in found:
        report.content["benchmark"] = found.pop("measured")
    report.add(phase, replace(outcome, facts=found), seconds)
    numbers = ", ".join(f"{k} {found[k]}" for k in ("tests", "passed", "failed", "skipped", "calls") if k in found)
    state = outcome.outcome if outcome.outcome == "passed" else outcome.outcome.upper()
    print("    " + ", ".join(p for p in (f"{state} in {seconds:.0f} s", outcome.why, numbers) if p), flush=True)
    if outcome.outcome in ("failed", "timed out") and "tail" in found:
        print(found["tail"], flush=True)
    for reason, times in sorted(found.get("skip_reasons", {}).items()):
        print(f"    {times} skipped: {reason}", flush=True)
    for line in found.get("left_out", []):
        print(f"    {line}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu-check", description="Build, test and measure on an NVIDIA GPU.")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "bench" / "results"),
                        help="folder for the JSON; default: $OUT, else bench/results")  # fmt: skip
    parser.add_argument("--limit", type=float, default=float(os.environ.get("LIMIT_S") or LIMIT_S),
                        help="seconds for everything; default: $LIMIT_S, else %(default)s")  # fmt: skip
    parser.add_argument("--phases", nargs="+", default=os.environ.get("PHASES", "").split() or None,
                        metavar="PHASE", help="only these, install and facts; default: $PHASES, else all")  # fmt: skip
    options = parser.parse_args(arguments)
    unknown = set(options.phases or []) - set(STEPS)
    if unknown:
        parser.error(f"there is no phase {sorted(unknown)[0]!r}; choose from {', '.join(STEPS)}")
    found = devices()
    if not found:
        print(NO_GPU)
        return 0
    chosen = [p.name for p in PHASES if not options.phases or p.name in options.phases or p.is_needed]
    report = Report(options.out.resolve(), found, datetime.datetime.now(datetime.timezone.utc), chosen)
    outcome = check(report, Budget(options.limit), chosen)
    needed = {phase.name for phase in PHASES if phase.is_needed}
    for phase in report.content["phases"]:
        if phase["outcome"] != "passed" and phase["name"] in needed and phase["why"]:
            print(f"gpu-check: {phase['why']}", flush=True)
    left_out = [p["name"] for p in report.content["phases"] if p["outcome"] in ("skipped", "refused")]
    more = f" (NOT TESTED: {', '.join(left_out)})" if left_out else ""
    print(f"gpu-check: {outcome.upper()}{more} in {report.content['seconds']:.0f} s: {report.path}", flush=True)
    return 1 if outcome == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
