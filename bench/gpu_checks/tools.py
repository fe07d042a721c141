"""compute-sanitizer and ncu over child programs; a tool that cannot work on this machine is said to be refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from .machine import Json
from .ncu import launches_of, num_profiled
from .running import GRACE_S, Child, Outcome, Place, of_status, program, run, tail, text_of, together

OPTIONS = {
    "memcheck": ["--leak-check", "no"],
    "racecheck": ["--racecheck-detect-level=error"],
    "initcheck": [],
    "synccheck": [],
}
COUNTERS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "WarpStateStats", "Occupancy", "LaunchStats", "SchedulerStats")


def path_of(place: Place, tool: str) -> str | None:
    return shutil.which(tool, path=place.environment()["PATH"])


def start_sanitizer(place: Place, tool: str, seconds: float) -> Child | Outcome:
    found = path_of(place, "compute-sanitizer")
    if found is None:
        return Outcome("refused", "compute-sanitizer is not on this machine")
    work_s = max((seconds - GRACE_S) / 2, 2.0)  # the tool is slow to begin and to end
    command = [found, "--tool", tool, "--error-exitcode", "99", *OPTIONS[tool],
               *place.python(program("sanitized_calls"), f"{work_s:.0f}")]  # fmt: skip
    return Child(place, tool, command, seconds)


def sanitizers(*names: str) -> Callable[[Place, float], Outcome]:
    """These tools side by side over tests/gpu/sanitized.py."""

    def phase(place: Place, seconds: float) -> Outcome:
        children = {name: start_sanitizer(place, name, seconds) for name in names}
        outcomes = {
            name: child if isinstance(child, Outcome) else of_sanitizer(child.wait(), seconds, child.log)
            for name, child in children.items()
        }
        return together(outcomes)

    return phase


def of_sanitizer(status: int | None, seconds: float, log: Path) -> Outcome:
    """A tool that cannot work on this machine is no finding about our kernels; it is said, not hidden."""
    text = text_of(log)
    refused = re.search(
        r"^.*(Device not supported|not supported on|Unable to|failed to initialize).*$", text, re.M | re.I
    )
    summary = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: .*$", text, re.M)
    found: Json = {"summary": summary[-1].strip("= ") if summary else None}
    if refused and not summary and status != 0:
        return Outcome("refused", refused[0].strip("= "), {"tail": tail(log)})
    calls = re.findall(r"^sanitized: (\d+) calls.*$", text, re.M)
    found["calls"] = int(calls[-1]) if calls else 0
    if status == 0 and not found["calls"]:
        return Outcome("failed", "the tool ended without having run a kernel", {"tail": tail(log)})
    if status == 0 and not summary:
        why = "the tool ended without a summary, so nothing says that it has looked"
        return Outcome("failed", why, found | {"tail": tail(log)})
    if status == 99:
        found["first_reports"] = re.findall(r"^=+ (?:Error|Warning|Invalid|Uninit|Barrier|Race).*$", text, re.M)[:10]
    return of_status(status, seconds, log, found)


def counters(place: Place, seconds: float) -> Outcome:
    """What the hardware counted during four launches; the whole text is in the logs."""
    found = path_of(place, "ncu")
    if found is None:
        return Outcome("refused", "ncu is not on this machine")
    sections = [part for name in COUNTERS for part in ("--section", name)]
    command = [found, "--clock-control", "none", "--kernel-name", "regex:group_rows", "--launch-count", "4",
               *sections, *place.python(program("counted_launches"))]  # fmt: skip
    log = place.log("counters")
    status = run(place, "counters", command, seconds)
    text = text_of(log)
    if status != 0 and re.search(r"ERR_NVGPUCTRPERM|Failed to initialize|not supported", text):
        return Outcome("refused", "ncu may not read the counters here", {"tail": tail(log)})
    launches = launches_of(text)
    outcome = of_status(status, seconds, log, {"launches": launches})
    if outcome.outcome == "passed" and (why := unread(launches, num_profiled(text))):
        return Outcome("failed", why, {**outcome.facts, "tail": tail(log)})
    return outcome


def unread(launches: list[Json], profiled: int) -> str:
    """What this program could not read of what ncu has printed; empty when it has read all."""
    if not launches:
        return f"no launch could be read from ncu's text, which speaks of {profiled}"
    if len(launches) < profiled:
        return f"ncu looked at {profiled} launches, and only {len(launches)} could be read from its text"
    empty = [launch["kernel"] for launch in launches if not any(launch["sections"].values())]
    return f"ncu's text holds no value for a launch of {empty[0]}" if empty else ""
