"""What is known so far, on disk after every phase: one JSON, and one text with all logs."""

from __future__ import annotations

import datetime
import itertools
import json
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from .machine import Json, commit
from .running import Outcome, Phase, Place, text_of

MOST_LOG_CHARACTERS = 400_000
"""Of one child; the middle of a longer log is left out."""


class Report:
    """Every write goes into a file aside that is then renamed."""

    def __init__(
        self, folder: Path, found: list[Json], now: datetime.datetime, part: int, *, is_whole: bool, is_rehearsal: bool
    ) -> None:
        stamp, self.commit = f"{now:%Y-%m-%d}", commit()
        device = re.sub(r"[^a-z0-9]+", "-", found[0]["name"].lower()).strip("-")
        marks = f"-part{part}" + ("" if is_whole else "-partial") + ("-rehearsal" if is_rehearsal else "")
        self.path = _free(folder / f"gpu-{device}-{stamp}-{self.commit['short']}{marks}.json")
        self.content: Json = {
            "format": 2, "what": "gpu-check", "part": part, "is_rehearsal": is_rehearsal,
            "date": now.isoformat(timespec="seconds"), "commit": self.commit, "device": found[0],
            "num_devices": len(found), "versions": {"python": platform.python_version()},
            "outcome": "running", "seconds": 0.0, "phases": [],
        }  # fmt: skip

    def add(self, phase: Phase, outcome: Outcome, seconds: float) -> None:
        facts = dict(outcome.facts)
        self.content["versions"] |= facts.pop("versions", {})
        self.content["phases"].append(
            {"name": phase.name, "outcome": outcome.outcome, "why": outcome.why, "seconds": round(seconds, 1),
             "budget_s": phase.budget_s, **facts}
        )  # fmt: skip

    def write(self) -> None:
        write_aside(self.path, json.dumps(self.content, indent=1) + "\n")

    def write_logs(self, place: Place) -> None:
        logs = sorted(place.log("x").parent.glob("*.log"), key=lambda path: path.stat().st_mtime)
        parts = [f"######## {path.stem}\n{_shortened(text_of(path))}\n" for path in logs]
        write_aside(self.path.with_name(self.path.stem + "-logs.txt"), "".join(parts))


def _free(path: Path) -> Path:
    """The path, or with the first number behind it that no earlier run of the day has taken."""
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], numbered) if not candidate.exists())


def _shortened(text: str) -> str:
    if len(text) <= MOST_LOG_CHARACTERS:
        return text
    half = MOST_LOG_CHARACTERS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def write_aside(path: Path, text: str) -> None:
    """Never half written: into a file beside it, which then takes its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def verdict(phases: Sequence[Json]) -> str:
    """failed if a phase failed or was cut off, incomplete if one was left out, else passed."""
    outcomes = [phase["outcome"] for phase in phases]
    if "failed" in outcomes or "timed out" in outcomes:
        return "failed"
    return "passed" if outcomes and set(outcomes) == {"passed"} else "incomplete"
