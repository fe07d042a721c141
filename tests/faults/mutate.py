"""Plant faults in a copy of the Python package, one at a time: do the tests of the room notice?

``make mutate-python`` prints what was caught and what was missed; one missed fault is a failure. A test that notices
must pass without the fault, or it shows nothing: all of them are run once more at the end, on the package as it is.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from planted import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("cbkernels", "tests", "docs", "bench", "csrc", "pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")
EDITABLE = "_editable_skbc_cbkernels"
"""What makes `import cbkernels` find this tree; an empty module of that name makes it find the copy."""
MOST_SECONDS = 600
NOTICED = re.compile(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", re.MULTILINE)


def faulty_text(fault: Fault) -> str:
    """The text of the fault's file with the fault in it."""
    text = (ROOT / "cbkernels" / fault.file).read_text(encoding="utf-8")
    if text.count(fault.text) != 1:
        raise SystemExit(
            f"cbkernels/{fault.file} has {text.count(fault.text)} times {fault.text!r}, and a fault needs it once; "
            "bring tests/faults/planted.py up to date"
        )
    return text.replace(fault.text, fault.replacement)


def compiled_module() -> Path:
    """The module of the editable install."""
    import cbkernels._core

    return Path(cbkernels._core.__file__)


def emulated_module() -> Path | None:
    """The module of `make emulation`; tests of its backend are left out without it."""
    return next(iter(sorted((ROOT / "build" / "emulation").glob("_core*.so"))), None)


def copied(folder: Path) -> Path:
    """A copy of the sources in which the compiled module lies where an installed package has it."""
    leave_out = shutil.ignore_patterns("__pycache__", "results")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=leave_out)
        elif source.exists():
            shutil.copy2(source, folder / name)
    shutil.copy2(compiled_module(), folder / "cbkernels")
    (folder / f"{EDITABLE}.py").touch()
    return folder


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run tests of a copy, on the copy."""
    # no byte code: two faults of one size within one second would be taken for the same text
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    if emulated := emulated_module():
        environment["CBKERNELS_EMULATION"] = str(emulated)
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "--color=no", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS, check=False
    )


def noticed_by(fault: Fault, folder: Path) -> str | None:
    """The first test of `make test` that fails with the fault in the copy; None when all pass."""
    planted = folder / "cbkernels" / fault.file
    right_text = planted.read_text(encoding="utf-8")
    planted.write_text(faulty_text(fault), encoding="utf-8")
    try:
        run = pytest_in(folder, "-x", "-m", "not slow", *(f"tests/{name}" for name in fault.tests))
    finally:
        planted.write_text(right_text, encoding="utf-8")
    if run.returncode == 0:
        return None
    found = NOTICED.search(run.stdout)
    if run.returncode != 1 or found is None:  # no test failed: pytest itself did, or a file could not be imported
        raise SystemExit(f"{fault.what}: pytest ended with {run.returncode}\n{(run.stdout + run.stderr)[-3000:]}")
    return found[1]


def fails_without_a_fault(tests: list[str], folder: Path) -> str:
    """What is wrong with tests that noticed faults, on the package as it is; empty when nothing is."""
    run = pytest_in(folder, *tests)
    return "" if run.returncode == 0 else (run.stdout + run.stderr)[-3000:]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    choose = parser.add_mutually_exclusive_group()
    choose.add_argument("--only", type=int, nargs="*", help="numbers of the faults to plant")
    choose.add_argument("--sample", type=int, metavar="N", help="plant N faults, chosen at random")
    parser.add_argument("--jobs", type=int, default=2, help="faults at the same time")
    options = parser.parse_args()
    for fault in FAULTS:
        faulty_text(fault)
    chosen = list(range(len(FAULTS))) if options.only is None else options.only
    if options.sample is not None:
        chosen = sorted(random.sample(chosen, min(options.sample, len(FAULTS))))
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        free: Queue[Path] = Queue()
        for job in range(options.jobs):
            free.put(copied(Path(scratch) / f"copy{job}"))

        def plant(number: int) -> str | None:
            folder, began, fault = free.get(), time.monotonic(), FAULTS[number]
            try:
                test = noticed_by(fault, folder)
            finally:
                free.put(folder)
            state = "NOT CAUGHT by " + ", ".join(fault.tests) if test is None else f"caught by {test[:100]}"
            print(f"{number:3} {fault.file}, {fault.what} ({time.monotonic() - began:.0f} s): {state}", flush=True)
            return test

        tests = list(pool.map(plant, chosen))
        noticed = sorted({test for test in tests if test is not None})
        wrong = fails_without_a_fault(noticed, free.get()) if noticed else ""
    if wrong:
        raise SystemExit(f"tests that noticed a fault fail without any, so they show nothing:\n{wrong}")
    print(f"mutate-python: {sum(test is not None for test in tests)} of {len(tests)} faults caught")
    return 1 if None in tests else 0


if __name__ == "__main__":
    sys.exit(main())
