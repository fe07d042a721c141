"""`python -m bench.before_after COMMIT [--print]`: this benchmark with another commit's package, then with this one.

Both runs are of the same benchmark on the same machine, one right behind the other; their JSON stays in
`bench/results/`. The table goes between `<!-- before:begin -->` and `<!-- before:end -->` of docs/performance.md.
Two JSON files in place of the commit only make the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import record
from .goals import Entry, best_peer, median, ratio
from .table import insert, ms, number, row, rule

SAME = 0.1
"""Cases that differ by less in either direction are only counted: the machine moves as much."""


def main(arguments: list[str]) -> int:
    given = [argument for argument in arguments if not argument.startswith("-")]
    if len(given) not in (1, 2):
        print("usage: python -m bench.before_after COMMIT | BEFORE.json AFTER.json  [--print]", file=sys.stderr)
        return 1
    if len(given) == 2:
        before, after = map(Path, given)
    else:
        commit = record.git("rev-parse", "--verify", "--quiet", given[0] + "^{commit}")
        if commit is None:
            print(f"{given[0]!r} is no commit of this repository; name one that git log shows", file=sys.stderr)
            return 1
        before, after = measured(commit)
    results = [json.loads(path.read_text()) for path in (before, after)]
    content = table(*results, before.name, after.name)
    if "--print" in arguments:
        print(content)
        return 0
    if any(result["mode"] != "full" or not result["complete"] for result in results):
        print(f"{before} and {after} are not both complete runs with BENCH=full; use --print", file=sys.stderr)
        return 1
    print(f"bench: {before} and {after} are in {insert({'before': content})}")
    return 0


def measured(commit: str) -> tuple[Path, Path]:
    """The JSON of both runs, the first with the package of this commit, named in full."""
    with tempfile.TemporaryDirectory() as folder:
        package = installed(commit, Path(folder))
        before = run({"BENCH_PACKAGE": str(package), "BENCH_COMMIT": commit}, Path(folder))
        after = run({}, Path(folder))
    return before, after


def installed(commit: str, folder: Path) -> Path:
    """That commit's package, compiled into a folder of its own."""
    archive, package = folder / "source.tar", folder / "package"
    subprocess.run(["git", "-C", str(record.ROOT), "archive", "-o", str(archive), commit], check=True)
    (folder / "source").mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder / "source")], check=True)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(package)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    subprocess.run(
        [*pip, str(folder / "source")], env={**os.environ, "CBKERNELS_CUDA": "OFF", "PATH": path}, check=True
    )
    return package


def run(variables: dict[str, str], folder: Path) -> Path:
    """One run of the benchmark in a process of its own; where its JSON lies."""
    told = folder / "written"
    subprocess.run([sys.executable, "-m", "bench", "--no-tables"], cwd=record.ROOT, check=True,
                   env={**os.environ, **variables, "BENCH_TOLD": str(told)})  # fmt: skip
    return Path(told.read_text())


def table(before: dict[str, Any], after: dict[str, Any], *names: str) -> str:
    earlier = {(case["group"], case["name"]): case for case in before["cases"]}
    lines = [row("group", "case", "contender", "before, ms", "in reads", "after, ms", "in reads", "times faster",
                 "best peer, ms"), rule(9)]  # fmt: skip
    compared, gains = 0, []
    for case in after["cases"]:
        old, lead = earlier.get((case["group"], case["name"])), next(iter(case["times"]))
        gain = _gain(old, case, lead)
        if old is None or gain is None or case["group"] == "yardstick":
            continue
        compared += 1
        if abs(gain - 1) > SAME:
            gains.append((gain, row(case["group"], case["name"], f"`{lead}`", *_times(old, lead), *_times(case, lead),
                                    f"{gain:.2f}", ms((best_peer(case) or ("", None))[1]))))  # fmt: skip
    lines += [line for _, line in sorted(gains, reverse=True)]
    return (
        f"From `{names[0]}` (commit `{before['commit']['short']}`, load {before['machine']['load_average']}) and "
        f"`{names[1]}` (commit `{after['commit']['short']}`, load {after['machine']['load_average']}), one behind the "
        f"other on one machine. {compared} cases were measured in both; these {len(gains)} differ by more than "
        f"{SAME:.0%}, in reads where there is one.\n\n"
        + "\n".join(lines)
    )  # fmt: skip


def _gain(old: Entry | None, new: Entry, lead: str) -> float | None:
    """In reads, where both runs timed one: the memory is not as fast at every hour."""
    if old is None:
        return None
    before, now = ratio(old, lead, "read"), ratio(new, lead, "read")
    if before is None or now is None:
        before, now = median(old, lead), median(new, lead)
    return before / now if before and now else None


def _times(case: Entry, lead: str) -> tuple[str, str]:
    return ms(median(case, lead)), number(ratio(case, lead, "read"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
