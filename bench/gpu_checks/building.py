"""The package built for this GPU only, offline, into a folder of its own; what was built and what it finds here."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from .machine import ROOT, Json, driver_versions
from .running import Outcome, Place, of_status, program, run, tail


def install(place: Place, seconds: float) -> Outcome:
    """No network, no dependency; a wheel, if one is named, saves the compiler's minute of the time that a GPU is lent.

    A rehearsal builds without CUDA: the emulation stands in for it.
    """
    shutil.rmtree(place.site, ignore_errors=True)
    build = ["-C", f"build-dir={place.scratch / 'cmake'}", str(ROOT)]
    what = [str(place.wheel)] if place.wheel else build
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index",
                     "--disable-pip-version-check", "--target", str(place.site),
                     *what]  # fmt: skip
    own = f"{place.device['major']}{place.device['minor']}-real"
    choice = "OFF" if place.is_rehearsal else "ON"
    wanted = {"CBKERNELS_CUDA": os.environ.get("CBKERNELS_CUDA", choice),
              "CBKERNELS_CUDA_ARCHITECTURES": os.environ.get("CBKERNELS_CUDA_ARCHITECTURES", own)}  # fmt: skip
    log = place.log("install")
    outcome = of_status(run(place, "install", command, seconds, **wanted), seconds, log, wanted)
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


def facts(place: Place, seconds: float) -> Outcome:
    """A build without CUDA, or one that cannot work, is a failure."""
    log = place.log("facts")
    status = run(place, "facts", place.python(program("facts")), seconds)
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("FACTS ")]
    if status != 0 or not lines:
        return of_status(status or 1 if status is not None else None, seconds, log)
    found = json.loads(lines[-1].removeprefix("FACTS "))
    found["versions"] |= driver_versions()
    why = refusal(place, found)
    del found["installed"]
    return Outcome("failed" if why else "passed", why, found)


def refusal(place: Place, found: Json) -> str:
    """Why this build or this python cannot test a GPU; empty when it can."""
    if not Path(found["installed"]).is_relative_to(place.site.resolve()):
        return "this python imports another cbkernels than the one just built; uninstall it; NOTHING WAS TESTED"
    if place.is_rehearsal:
        return "" if found["emulation"] else "build/emulation holds no emulated module; run make emulation first"
    if not found["build"]["cuda"]:
        return (
            f"there is a GPU, but this build has no CUDA backend ({found['build']['cuda_reason']}); NOTHING WAS TESTED"
        )
    if found["missing"]:
        return f"there is a GPU, but the CUDA backend cannot use it ({found['missing']}); NOTHING WAS TESTED"
    if not found["torch_sees"]:
        return f"there is a GPU, but torch {found['versions']['torch']} does not see it; NOTHING WAS TESTED"
    return ""
