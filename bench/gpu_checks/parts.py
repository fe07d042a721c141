"""The two parts as tables of phases, what tells most first. Budgets of a part add up to its limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from .building import facts, install
from .machine import Json
from .running import Child, Outcome, Phase, Place, if_it_said, of_status, program, run, text_of, together
from .testing import ON_CUDA, TestFile, run_files
from .tools import counters, sanitizers

KERNELS = ("bundle_ids", "count_bundles", "layers", "row_fingerprints", "count_fingerprints", "conflict_margin",
           "tolerance")  # fmt: skip
SECONDS_OF_A_KERNEL = 10.0
FIRST_CAPTURES = ("bundle_rows", "bundle_rows of many rows", "row_fingerprints", "update", "counts queued",
                  "margin queued")  # fmt: skip
OWN_FILES = ("test_same_as_cpu", "test_graphs_and_streams", "test_monitor_on_gpu", "test_with_other_libraries")
SUITE_FILES = ("test_named_cases", "test_update_grid", "test_random_against_reference", "test_streaming",
               "test_chosen_inputs", "test_fingerprint", "test_margin", "test_tolerance", "test_torch_operators",
               "test_torch_inputs", "test_entropy_identity", "test_entropy_of_layers")  # fmt: skip
ALONE = ("test_gpu_memory",)
"""Asks the driver how much memory is free, so nothing else may run beside it."""


def smoke(place: Place, seconds: float) -> Outcome:
    """A process a kernel: one that hangs or crashes leaves the others' results."""
    budget, outcomes = seconds, dict[str, Outcome]()
    for kernel in KERNELS:
        allowed = min(SECONDS_OF_A_KERNEL, budget)
        if allowed < 1.0:
            outcomes[kernel] = Outcome("skipped", "NOT TESTED HERE (no time left)")
            continue
        child = Child(place, f"smoke-{kernel}", place.python(program("smoke"), kernel), allowed)
        status = child.wait()
        budget -= _seconds_of(child)
        outcome = if_it_said(of_status(status, allowed, child.log), child.log, r"^smoke: (\d+) calls",
                             "it counts no call")  # fmt: skip
        last = [line for line in text_of(child.log).splitlines() if line.startswith(kernel)]
        why = f"{outcome.why}, in {last[-1]}" if outcome.outcome != "passed" and last else outcome.why
        outcomes[kernel] = replace(outcome, why=why)
    return together(outcomes)


def _seconds_of(child: Child) -> float:
    import time

    return time.monotonic() - child.began


def same_answers(place: Place, seconds: float) -> Outcome:
    name = "same_answers"
    status = run(place, name, place.python(program(name), f"{max(seconds - 8.0, 2.0):.0f}"), seconds)
    text = text_of(place.log(name))
    ends = [line.removeprefix("SAME ") for line in text.splitlines() if line.startswith("SAME ")]
    wrong = [line for line in text.splitlines() if line.startswith("  WRONG")]
    found: Json = json.loads(ends[-1]) if ends else {"num_wrong": len(wrong), "wrong": wrong[:30]}
    outcome = of_status(status, seconds, place.log(name), found)
    if outcome.outcome == "passed" and not found.get("inputs"):
        return Outcome("failed", "no input was compared", found)
    return replace(outcome, why=f"{found['num_wrong']} wrong answers; {outcome.why}") if wrong else outcome


def first_captures(place: Place, seconds: float) -> Outcome:
    """Fresh processes side by side."""
    children = {
        name: Child(place, f"fresh_graph-{k}", place.python(program("fresh_graph"), name), seconds)
        for k, name in enumerate(FIRST_CAPTURES)
    }
    return together({
        name: if_it_said(of_status(child.wait(), seconds, child.log), child.log, r"^fresh graph of .*: as on the CPU$",
                         "it compared no graph")
        for name, child in children.items()
    })  # fmt: skip


def measured(name: str) -> Callable[[Place, float], Outcome]:
    """A program that writes its JSON as it goes; what was measured before an end by force is kept."""

    def phase(place: Place, seconds: float) -> Outcome:
        result = place.scratch / f"{name}.json"
        result.unlink(missing_ok=True)
        command = place.python(program(name), result, f"{max(seconds - 10.0, 2.0):.0f}")
        outcome = of_status(run(place, name, command, seconds), seconds, place.log(name))
        print(text_of(place.log(name)), flush=True)
        found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else None
        if outcome.outcome == "passed" and not num_measured(found):
            return Outcome("failed", "nothing was measured", {**outcome.facts, "measured": found})
        return replace(outcome, facts={**outcome.facts, "measured": found})

    return phase


def num_measured(found: Json | None) -> int:
    """Times in what a program has written: those of the calls and the peers of its cases, else its layers."""
    if not found or "cases" not in found:
        return int((found or {}).get("layers", 0))
    return sum(len(case.get("calls", ())) + len(case.get("peers", ())) for case in found["cases"])


def gpu_tests(place: Place, seconds: float) -> Outcome:
    """Our own files for a GPU and the files of the suite in which a backend takes part, side by side."""
    own = [TestFile(f"tests/gpu/{name}.py") for name in OWN_FILES]
    return run_files(place, seconds, own + [TestFile(f"tests/{name}.py", ON_CUDA) for name in SUITE_FILES])


def memory_tests(place: Place, seconds: float) -> Outcome:
    return run_files(place, seconds, [TestFile(f"tests/gpu/{name}.py") for name in ALONE])


def one_rank(place: Place, seconds: float) -> Outcome:
    status = run(place, "one_rank", place.python(program("one_rank")), seconds)
    log = place.log("one_rank")
    # one result is that of the streaming metric; those behind it are the monitor's layers
    return if_it_said(of_status(status, seconds, log), log, r"^one rank over \w+: (?:[2-9]|\d\d+) results",
                      "it compared no layer")  # fmt: skip


PARTS: dict[int, tuple[float, tuple[Phase, ...]]] = {
    1: (240.0, (
        Phase("install", install, 60, 20, is_needed=True),
        Phase("facts", facts, 20, 5, is_needed=True),  # the first import of torch from a cold disk
        Phase("smoke", smoke, 20, 5),
        Phase("same_answers", same_answers, 22, 12),
        Phase("first_captures", first_captures, 13, 8),
        Phase("times", measured("times"), 45, 20, takes_what_is_left_over=True),
        Phase("counters", counters, 40, 10),
        Phase("memcheck", sanitizers("memcheck"), 20, 10),
    )),
    2: (400.0, (
        Phase("install", install, 70, 20, is_needed=True),
        Phase("facts", facts, 25, 5, is_needed=True),
        Phase("gpu_tests", gpu_tests, 115, 30, takes_what_is_left_over=True),
        Phase("sanitizers", sanitizers("memcheck", "racecheck", "initcheck", "synccheck"), 55, 20),
        Phase("memory_tests", memory_tests, 25, 12),
        Phase("one_rank", one_rank, 20, 10),
        Phase("peers", measured("peers"), 45, 15),
        Phase("training_share", measured("training_share"), 45, 15),
    )),
}  # fmt: skip
