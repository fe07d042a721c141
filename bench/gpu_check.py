"""Build, tests, sanitizer and times on an NVIDIA GPU, offline, in two parts of four and seven minutes at most.

`python3 bench/gpu_check.py --part 1`, then `--part 2`; `--rehearse` goes through a part on a machine without a GPU,
with the emulation in its place. Runs under the machine's own python3 and needs the standard library itself. After
every phase the JSON and the logs in the folder OUT (default bench/results) are written aside and renamed, so a run
that is cut off leaves what it has found. Without a GPU: a box saying that nothing was tested, exit 0. Environment:
OUT, PHASES (names, blank-separated), COMMIT where there is no git. Read next: `gpu_checks/parts.py`.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu_checks.machine import ROOT, Json, devices
from gpu_checks.parts import PARTS
from gpu_checks.report import Report, verdict
from gpu_checks.running import Budget, Outcome, Phase, Place

SCRATCH = ROOT / "build" / "gpu_check"
NO_GPU = """
  ****************************************************************
  *  gpu-check: NO NVIDIA GPU ON THIS MACHINE.                   *
  *  NOTHING WAS TESTED. This is not a pass of the CUDA backend. *
  ****************************************************************
"""
EMULATED_DEVICE: Json = {"name": "emulated device", "memory_bytes": 0, "major": 9, "minor": 0}


def check(report: Report, budget: Budget, phases: Sequence[Phase], place: Place) -> str:
    """Runs the phases in order; returns the verdict. The files are up to date after each."""
    blocked = ""
    for phase in phases:
        before, allowed = budget.used_s, budget.allowance(phase)
        if blocked:
            outcome = Outcome("skipped", f"NOT TESTED HERE ({blocked} did not pass)")
        elif allowed is None:
            outcome = Outcome("skipped", f"NOT TESTED HERE (less than {phase.minimum_s:.0f} s were left)")
        else:
            print(f"==> gpu-check: {phase.name}, at most {allowed:.0f} s", flush=True)
            outcome = guarded(phase, place, allowed)
        if phase.is_needed and outcome.outcome != "passed":
            blocked = blocked or phase.name
        seconds = budget.used_s - before
        report.add(phase, outcome, seconds)
        show(outcome, seconds)
        report.content["seconds"] = round(budget.used_s, 1)
        report.write()
        report.write_logs(place)
    report.content["outcome"] = verdict(report.content["phases"])
    report.write()
    return str(report.content["outcome"])


def guarded(phase: Phase, place: Place, seconds: float) -> Outcome:
    """A fault of this program's own costs one phase, too."""
    try:
        return phase.run(place, seconds)
    except Exception as error:
        return Outcome("failed", f"the check itself raised {type(error).__name__}: {error}")


def show(outcome: Outcome, seconds: float) -> None:
    facts = outcome.facts
    numbers = ", ".join(f"{k} {facts[k]}" for k in ("passed", "failed", "skipped", "inputs", "num_wrong") if k in facts)
    state = outcome.outcome if outcome.outcome == "passed" else outcome.outcome.upper()
    print("    " + ", ".join(p for p in (f"{state} in {seconds:.0f} s", outcome.why, numbers) if p), flush=True)
    for name, part in [*facts.get("parts", {}).items(), ("", facts)]:
        if outcome.outcome in ("failed", "timed out") and part.get("outcome", "failed") != "passed" and "tail" in part:
            print(f"    --- {name or 'the end of its log'}\n{part['tail']}", flush=True)
        for line in part.get("failures", [])[:8]:
            print(f"    {name}: {line}", flush=True)
        for reason, times in sorted(part.get("skip_reasons", {}).items()):
            print(f"    {name}: {times} skipped: {reason}", flush=True)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="gpu-check", description="Build, test and measure on an NVIDIA GPU.")
    parser.add_argument("--part", type=int, choices=sorted(PARTS), required=True,
                        help="1: does it work, and how fast is it (240 s at most); "
                             "2: the tests, all sanitizers, peers, training (400 s at most)")  # fmt: skip
    parser.add_argument("--rehearse", action="store_true",
                        help="go through it without a GPU, the emulation in its place")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or ROOT / "bench" / "results"),
                        help="folder for the JSON and the logs; default: $OUT, else bench/results")  # fmt: skip
    parser.add_argument("--wheel", type=Path,
                        help="install this wheel for this Python and GPU instead of building")  # fmt: skip
    parser.add_argument("--limit", type=float, help="seconds for everything; default: those of the part")
    parser.add_argument("--phases", nargs="+", default=os.environ.get("PHASES", "").split() or None,
                        metavar="PHASE", help="only these, install and facts; default: $PHASES, else all")  # fmt: skip
    options = parser.parse_args(arguments)
    names = [phase.name for phase in PARTS[options.part][1]]
    if options.wheel is not None and not options.wheel.is_file():
        parser.error(f"there is no file {str(options.wheel)!r}; name a wheel, or leave --wheel out")
    for name in options.phases or []:
        if name not in names:
            parser.error(f"part {options.part} has no phase {name!r}; choose from {', '.join(names)}")
    return options


def main(arguments: Sequence[str] | None = None, find: Callable[[], list[Json]] = devices) -> int:
    options = parsed(arguments)
    found = [EMULATED_DEVICE] if options.rehearse else find()
    if not found:
        print(NO_GPU)
        return 0
    limit, phases = PARTS[options.part]
    chosen = [p for p in phases if not options.phases or p.name in options.phases or p.is_needed]
    place = Place(SCRATCH, found[0], options.rehearse, options.wheel and options.wheel.resolve())
    for old in [*place.log("x").parent.glob("*.log"), *place.log("x").parent.glob("*.xml")]:
        old.unlink()
    now = datetime.datetime.now(datetime.timezone.utc)
    report = Report(options.out.resolve(), found, now, options.part,
                    is_whole=len(chosen) == len(phases), is_rehearsal=options.rehearse)  # fmt: skip
    outcome = check(report, Budget(options.limit or limit), chosen, place)
    done = report.content["phases"]
    for phase, plan in zip(done, chosen, strict=True):
        if phase["outcome"] != "passed" and plan.is_needed and phase["why"]:
            print(f"gpu-check: {phase['why']}", flush=True)
    for phase in done:
        print(
            f"    {phase['name']:16} {phase['outcome']:10} {phase['seconds']:6.1f} s of {phase['budget_s']}", flush=True
        )
    left_out = [p["name"] for p in done if p["outcome"] in ("skipped", "refused")]
    more = f" (NOT TESTED: {', '.join(left_out)})" if left_out else ""
    what = "gpu-check, REHEARSED WITHOUT A GPU" if options.rehearse else "gpu-check"
    print(f"{what}, part {options.part}: {outcome.upper()}{more} in {report.content['seconds']:.0f} s: {report.path}",
          flush=True)  # fmt: skip
    return 1 if outcome == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
