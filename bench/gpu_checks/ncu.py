"""ncu's text for people as data: for every launch its kernel, its sections with their metrics, and what warps wait for.

A metric is found by the columns that the rule above its table draws, so a name, a unit or a value may hold blanks. It
stays in its section, because two sections may give one name to two things.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .machine import Json

HEADER = re.compile(r" {2}(?:void )?(\S.*?)\(.*\) (\(\d+, \d+, \d+\))x(\(\d+, \d+, \d+\)), Context ")
RULE = re.compile(r" {4}(-+) (-+) (-+)\s*$")
WAITS = re.compile(
    r"each warp of this workload spends ([\d.]+) cycles being stalled waiting for (?:a |an |the )?(.+?)\. .*?"
    r"represents about ([\d.]+)% of the total average of ([\d.]+) cycles"
)


def launches_of(text: str) -> list[Json]:
    """All launches in the order of the text; values stay as ncu has written them."""
    lines = text.splitlines()
    starts = [k for k, line in enumerate(lines) if HEADER.match(line)]
    ends = [*starts, len(lines)][1:]
    found = [launch_of(lines[start:end]) for start, end in zip(starts, ends, strict=True)]
    for launch, call in zip(found, calls_of(lines), strict=False):
        launch["call"] = call
    return found


def calls_of(lines: list[str]) -> Iterator[str]:
    """What the program has printed behind every launch that ncu looked at."""
    waiting = 0
    for line in lines:
        if line.startswith("==PROF== Profiling"):
            waiting += 1
        elif waiting and not line.startswith("=="):
            yield from [line.strip()] * waiting
            waiting = 0


def num_profiled(text: str) -> int:
    """How many launches ncu says that it looked at, while the program ran."""
    return len(re.findall(r"^==PROF== Profiling", text, re.MULTILINE))


def launch_of(lines: list[str]) -> Json:
    header = HEADER.match(lines[0])
    assert header is not None
    sections: dict[str, dict[str, str]] = {}
    section, columns, prose = "", list[tuple[int, int]](), list[str]()
    for line in lines[1:]:
        if line.startswith("    Section: "):
            section, columns = line.removeprefix("    Section: ").strip(), []
        elif rule := RULE.match(line):
            columns = [rule.span(k) for k in (1, 2, 3)]
        elif not line.strip():
            columns = []
        elif columns:
            name, unit, value = (line[start:end].strip() for start, end in columns)
            if name not in ("", "Metric Name"):
                sections.setdefault(section, {})[f"{name} [{unit}]" if unit else name] = value
        else:
            prose.append(line.strip())
    waits = [{"for": what, "cycles": cycles, "percent": percent, "of_cycles": of}
             for cycles, what, percent, of in WAITS.findall(" ".join(prose))]  # fmt: skip
    return {"kernel": header[1], "grid": header[2], "block": header[3], "sections": sections, "waits": waits}
