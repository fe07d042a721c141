"""Phases and their time. A phase is one or more child processes with a time limit: a crash or a hang loses only it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .machine import ROOT, Json, environment

GRACE_S = 5.0
"""From the polite signal to the other one; part of a child's time."""
TAIL_CHARACTERS = 4000
LAST_LINES = 12
"""Of a child that did not end well, shown on the screen and kept in the JSON."""


@dataclass(frozen=True)
class Outcome:
    """What came of a phase."""

    outcome: str
    """passed, failed, timed out, skipped, refused (the tool does not work on this machine)."""
    why: str = ""
    facts: Json = field(default_factory=dict)


class Phase(NamedTuple):
    """A step of a part."""

    name: str
    run: Callable[[Place, float], Outcome]
    budget_s: float
    minimum_s: float
    """With less time left it is skipped."""
    is_needed: bool = False
    """The later ones are skipped when it fails."""
    takes_what_is_left_over: bool = False
    """Of the budgets of the phases before it."""


class Budget:
    """How long a phase may take; the budgets of a part's phases add up to no more than its limit."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._limit_s, self._start = clock, limit_s, clock()
        self._planned_s = 0.0

    @property
    def used_s(self) -> float:
        return self._clock() - self._start

    def allowance(self, phase: Phase) -> float | None:
        """Seconds for this phase; None when too little is left for it to be of use."""
        left = self._limit_s - self.used_s
        spared = max(0.0, self._planned_s - self.used_s) if phase.takes_what_is_left_over else 0.0
        self._planned_s += phase.budget_s
        return min(phase.budget_s + spared, left) if left >= phase.minimum_s else None


@dataclass(frozen=True)
class Place:
    """Where children run and what they find there."""

    scratch: Path
    device: Json
    is_rehearsal: bool = False
    wheel: Path | None = None
    """Built elsewhere for this machine's Python and GPU; None: built here."""

    @property
    def site(self) -> Path:
        return self.scratch / "site"

    def log(self, name: str) -> Path:
        return self.scratch / "logs" / f"{name}.log"

    def environment(self) -> dict[str, str]:
        return environment(self.site, self.is_rehearsal)

    def python(self, *arguments: object) -> list[str]:
        """A call of this python; in a rehearsal without the hooks of an editable install, which would win."""
        return [sys.executable, *(["-S"] if self.is_rehearsal else []), *map(str, arguments)]


class Child:
    """A process with a time limit that writes into a log of its own.

    It starts in an empty folder, so that the source tree cannot stand in for what was installed.
    """

    def __init__(self, place: Place, name: str, command: Sequence[str], seconds: float, **extra: str) -> None:
        self.name, self.log, self.seconds = name, place.log(name), seconds
        empty = place.scratch / "empty"
        empty.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        self._out = self.log.open("wb")
        self._process = subprocess.Popen(
            list(command), stdout=self._out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=empty,
            env=place.environment() | extra, start_new_session=True, preexec_fn=_listen_to_interrupts,
        )  # fmt: skip

    def wait(self) -> int | None:
        """Exit status, or None when the time was over; then it and all that it started are gone."""
        left = self.began + self.seconds - self._grace - time.monotonic()
        try:
            status = self._process.wait(max(0.0, left))
        except subprocess.TimeoutExpired:
            return self.stop()
        self._end()
        return status

    def stop(self) -> None:
        """Ends it politely, then by force."""
        os.kill(self._process.pid, signal.SIGINT)  # pytest then still writes what it has
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self._grace)
        self._end()

    @property
    def _grace(self) -> float:
        return min(GRACE_S, self.seconds / 4)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # whatever the child left behind
        self._process.wait()
        self._out.close()


def _listen_to_interrupts() -> None:
    """A shell's background job ignores SIGINT and so would its children, which are told so to end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(place: Place, name: str, command: Sequence[str], seconds: float, **extra: str) -> int | None:
    """A child from its start to its end."""
    return Child(place, name, command, seconds, **extra).wait()


def program(name: str) -> str:
    """The path of a child program."""
    return str(Path(__file__).resolve().parent / "programs" / f"{name}.py")


def text_of(log: Path) -> str:
    """A log without this machine's paths."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def tail(log: Path) -> str:
    return "\n".join(text_of(log)[-TAIL_CHARACTERS:].splitlines()[-LAST_LINES:])


def of_status(status: int | None, seconds: float, log: Path, facts: Json | None = None) -> Outcome:
    if status is None:
        return Outcome("timed out", f"not done after {seconds:.0f} s", {**(facts or {}), "tail": tail(log)})
    if status != 0:
        return Outcome("failed", _of_exit(status), {**(facts or {}), "tail": tail(log)})
    return Outcome("passed", "", facts or {})


def if_it_said(outcome: Outcome, log: Path, pattern: str, what: str) -> Outcome:
    """A child that ended well, but without the line that counts its work, has tested nothing: ``what`` says of what.

    A group in the pattern is that count, which must not be zero.
    """
    found = re.findall(pattern, text_of(log), re.MULTILINE)
    if outcome.outcome != "passed" or (found and found[-1] != "0"):
        return outcome
    return Outcome("failed", f"it ended well, but {what}: nothing was tested", {**outcome.facts, "tail": tail(log)})


def _of_exit(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"


def together(outcomes: dict[str, Outcome], facts: Json | None = None) -> Outcome:
    """One outcome of several children: the worst; ``why`` names those that did not pass."""
    order = ("failed", "timed out", "refused", "skipped", "passed")
    states = [outcome.outcome for outcome in outcomes.values()]
    worst = next((state for state in order if state in states), "failed")
    why = "; ".join(f"{name}: {o.outcome}, {o.why}" for name, o in outcomes.items() if o.outcome != "passed")
    parts = {name: {"outcome": o.outcome, "why": o.why, **o.facts} for name, o in outcomes.items()}
    return Outcome(worst, why[:600], {**(facts or {}), "parts": parts})
