"""Test files side by side, one process each: a hung kernel or a crash costs one file, and what it hung at is named."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .machine import ROOT, Json
from .running import GRACE_S, Child, Outcome, Place, of_status, tail, text_of, together

SIDE_BY_SIDE = 8
SECONDS_OF_A_TEST = 30
"""A test that takes longer ends its process, with the stacks of all threads in the log."""
ON_CUDA, ON_THE_EMULATION = "cuda and not emulated", "emulated"
NEEDS_A_GPU = "a GPU: NOT TESTED HERE"


class TestFile(NamedTuple):
    """A file below tests/, and which of its tests (an expression for -k)."""

    path: str
    only: str = ""

    @property
    def name(self) -> str:
        return Path(self.path).stem


def run_files(
    place: Place, seconds: float, files: Sequence[TestFile], clock: Callable[[], float] = time.monotonic
) -> Outcome:
    """All files within the time; each is counted by itself and in the sum."""
    end, waiting, running = clock() + seconds, list(files), dict[TestFile, Child]()
    outcomes: dict[str, Outcome] = {}
    while waiting or running:
        while waiting and len(running) < SIDE_BY_SIDE:
            file = waiting.pop(0)
            running[file] = start(place, file, max(end - clock(), 1.0))
        for file, child in list(running.items()):
            is_late = clock() >= end - GRACE_S
            if is_late or not child.is_running():
                outcomes[file.name] = outcome_of(
                    place, file, child.stop() if child.is_running() else child.wait(), child
                )
                del running[file]
        time.sleep(0.05)
    sums = {key: sum(o.facts.get(key) or 0 for o in outcomes.values()) for key in ("passed", "failed", "skipped")}
    return together(outcomes, sums)


def start(place: Place, file: TestFile, seconds: float) -> Child:
    # xml and not the log alone: it has the reasons of skips and failures; the log is for a process that died
    command = place.python(
        "-m", "pytest", "-v", "--tb=short", "-W", "default", "-p", "no:cacheprovider", "-p", "no:benchmark",
        "--continue-on-collection-errors", f"--rootdir={ROOT}", "-c", ROOT / "pyproject.toml",
        f"--junitxml={xml_of(place, file)}", *time_limit(place), *selection(place, file), ROOT / file.path,
    )  # fmt: skip
    xml_of(place, file).unlink(missing_ok=True)
    return Child(place, file.name, command, seconds)


def selection(place: Place, file: TestFile) -> list[str]:
    only = ON_THE_EMULATION if place.is_rehearsal and file.only == ON_CUDA else file.only
    return ["-k", only] if only else []


def time_limit(place: Place) -> list[str]:
    """A limit for a test, where the plugin is there; the time of the phase limits all the same."""
    import importlib.util

    if importlib.util.find_spec("pytest_timeout") is None:
        return []
    return [f"--timeout={SECONDS_OF_A_TEST}", "--timeout-method=thread"]


def xml_of(place: Place, file: TestFile) -> Path:
    return place.log(file.name).with_suffix(".xml")


def outcome_of(place: Place, file: TestFile, status: int | None, child: Child) -> Outcome:
    found = counts(xml_of(place, file)) or counts_of_log(text_of(child.log))
    nothing = 5
    if place.is_rehearsal and status in (0, nothing) and any(NEEDS_A_GPU in why for why in found["skip_reasons"]):
        return Outcome("passed", "", found)  # as far as it can go without a GPU
    outcome = of_status(status, child.seconds, child.log, found)
    if outcome.outcome != "passed" and found["began"]:
        return Outcome(outcome.outcome, f"{outcome.why}, in {found['began']}", outcome.facts)
    if outcome.outcome == "passed" and found["passed"] == 0:
        return Outcome("failed", "no test passed: nothing was tested", found | {"tail": tail(child.log)})
    return outcome


def counts(xml: Path) -> Json | None:
    """Numbers of tests, names and first words of those that failed, reasons of those that were skipped."""
    try:
        cases = list(ElementTree.parse(xml).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return None
    cases = [c for c in cases if c.get("name") or len(c)]  # what an interruption hit has no name and no outcome
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [mark for c in cases if (mark := c.find("skipped")) is not None]
    reasons: dict[str, int] = {}
    for mark in skipped:
        said = mark.get("message") or ""
        why = (mark.text or said if said == "collection skipped" else said).replace(str(ROOT), ".")[:300]
        reasons[why] = reasons.get(why, 0) + 1
    return {
        "passed": len(cases) - len(failed) - len(skipped), "failed": len(failed), "skipped": len(skipped),
        "skip_reasons": reasons, "began": "", "failures": [_failure(case) for case in failed[:40]],
    }  # fmt: skip


def _failure(case: ElementTree.Element) -> str:
    mark = case.find("failure") if case.find("failure") is not None else case.find("error")
    said = (mark.get("message") or mark.text or "") if mark is not None else ""
    return f"{case.get('name')}: {' '.join(said.replace(str(ROOT), '.').split())[:300]}"


def counts_of_log(text: str) -> Json:
    """The same from the lines of ``pytest -v``, for a process that ended without writing its XML."""
    done = re.findall(r"::(\S.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", text)
    states = [state for _, state in done]
    begun = re.findall(r"::(\S.*?)\s*(?=\+{5}|Fatal|Timeout|$)", text.split("PASSED")[-1], re.MULTILINE)
    return {
        "passed": states.count("PASSED"), "failed": states.count("FAILED") + states.count("ERROR"),
        "skipped": states.count("SKIPPED"), "skip_reasons": {}, "began": begun[0].strip() if begun else "",
        "failures": [name for name, state in done if state in ("FAILED", "ERROR")][:40],
    }  # fmt: skip
