"""`python -m bench.table RESULT.json [--print]`: the tables of docs/performance.md, from one JSON.

Replaces what stands between the markers `<!-- bench:begin -->` and `<!-- bench:end -->`, and between
`<!-- lose:begin -->` and `<!-- lose:end -->`; with --print both go to stdout. Verdicts are computed
from the medians by goals.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from .goals import FORMATS, GOALS, OURS, TWO_THREADS_NOISE, Limit, best_peer, median, ratio, speedup
from .pages import in_words

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
PEERS = ("torch.unique", "np.unique", "xxh3 + dict", "pairwise loop", "polars group_by", "pandas ngroup")
NOT_INSTALLED = "not installed"
Entry = dict[str, Any]


def main(arguments: list[str]) -> int:
    paths = [a for a in arguments if not a.startswith("-")]
    if len(paths) != 1:
        print("usage: python -m bench.table bench/results/RESULT.json [--print]", file=sys.stderr)
        return 1
    result = json.loads(Path(paths[0]).read_text())
    parts = {"bench": tables(result, Path(paths[0]).name), "lose": losses(result)}
    if "--print" in arguments:
        print("\n\n".join(parts.values()))
        return 0
    if result["mode"] != "full" or not result["complete"]:
        print(f"{paths[0]} is a {result['mode']} run, complete={result['complete']}: not for the documentation; "
              "use --print", file=sys.stderr)  # fmt: skip
        return 1
    print(f"bench: tables of {paths[0]} are in {insert(parts)}")
    return 0


def insert(parts: dict[str, str]) -> Path:
    """Put each text between its markers in the document, at once; where that is."""
    text = DOCUMENT.read_text()
    for region, content in parts.items():
        text = replaced(text, region, content)
    aside = DOCUMENT.with_name(f".{DOCUMENT.name}.{os.getpid()}")
    aside.write_text(text)
    os.replace(aside, DOCUMENT)
    return DOCUMENT


def replaced(text: str, region: str, content: str) -> str:
    begin, end = f"<!-- {region}:begin -->", f"<!-- {region}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{DOCUMENT.name} must have {begin} and {end} once each")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.split(end)[1]}"


def tables(result: Entry, source: str) -> str:
    cases = result["cases"]
    parts = [header(result, source), "### Goals", goals(cases)]
    sections = (
        ("### Regimes: `bundle_rows`, ms", regimes(pick(cases, "regime"))),
        ("### `bundle_entropy` with labels", entropies(pick(cases, "regime"))),
        ("### Adversarial layouts, ms", regimes(pick(cases, "adversarial"))),
        ("### Other memory orders, ms", regimes(pick(cases, "strided"))),
        ("### Other types, (512, 16384), ms", regimes(pick(cases, "dtype"))),
        ("### Calls in the cache, (64, 16384) distinct", contenders(pick(cases, "call"), 1e6, "us")),
        ("### `conflict_margin`, (512, 16384)", contenders(pick(cases, "margin"), 1e3, "ms")),
        ("### Streaming", streaming(pick(cases, "streaming"))),
        ("### The yardstick against other reads, GB/s", yardsticks(pick(cases, "yardstick"))),
    )
    for title, body in sections:
        parts += [title, body]
    return "\n\n".join(parts)


def header(result: Entry, source: str) -> str:
    machine, build, versions = result["machine"], result["build"], result["versions"]
    caches = ", ".join(f"L{c['level']} {c['bytes'] >> 10} KiB" for c in machine["caches"])
    pages = in_words([case.get("huge_page_share") for case in result["cases"]])
    dirty = " with uncommitted changes" if result["commit"]["dirty"] else ""
    return (
        f"From `{source}` ({result['mode']}{'' if result['complete'] else ', incomplete'}), commit "
        f"`{result['commit']['short']}`{dirty}: {machine['cpu']}, {machine['cores_usable']} cores ({caches}), "
        f"load {machine['load_average']}, {pages}; {build.get('compiler')}, `{build.get('flags')}`, instruction set "
        f"{build.get('instruction_set')}; Python {versions['python']}, NumPy {versions['numpy']}, torch "
        f"{versions['torch']}, xxhash {versions['xxhash']}, polars {versions.get('polars', 'not asked for')}, pandas "
        f"{versions.get('pandas', 'not asked for')}. {result['seconds']:.0f} s."
    )


def goals(cases: list[Entry]) -> str:
    lines = [row("regime", "must reach", "measured, worst case", "", "aim", "measured", ""), rule(7)]
    for goal in GOALS:
        for i in range(max(len(goal.must), len(goal.aim))):
            must = goal_cells(cases, goal.must[i]) if i < len(goal.must) else ("", "", "")
            aim = goal_cells(cases, goal.aim[i]) if i < len(goal.aim) else ("", "", "")
            lines.append(row(goal.regime if i == 0 else "", *must, *aim))
    return "\n".join(lines)


def goal_cells(cases: list[Entry], limit: Limit) -> tuple[str, str, str]:
    worst = limit.worst(cases)
    if worst is None:
        return limit.text(), "", "not measured"
    value, case = worst
    verdict = "reached" if limit.holds(value) else "**NOT reached**"
    return limit.text(), f"{FORMATS[limit.kind].format(value)} ({case['name']})", verdict


def regimes(cases: list[Entry]) -> str:
    lines = [
        row("(N, D)", "MiB", "data", "bundles", "one read", "ours (min - max)", "ours / read", "2 threads / 1",
            "grid", *PEERS, "best peer / ours"),
        rule(10 + len(PEERS)),
    ]  # fmt: skip
    for case in cases:
        data = " ".join([case["data"]] + [x for x in (case["layout"], case["dtype"]) if x not in ("rows", "float32")])
        times = case["times"][OURS]
        spread = f"**{ms(times['median_s'])}** ({ms(times['min_s'])} - {ms(times['max_s'])})"
        lines.append(row(
            shape(case), f"{case['bytes'] / 2**20:.0f}", data, case["bundles"], ms(median(case, "read")), spread,
            number(ratio(case, OURS, "read")), number(ratio(case, "bundle_rows, 2 threads", OURS)),
            number(ratio(case, "bundle_rows, grid", OURS)), *[peer_cell(case, peer) for peer in PEERS],
            number(speedup(case)),
        ))  # fmt: skip
    return "\n".join(lines)


def peer_cell(case: Entry, peer: str) -> str:
    if peer in case["skipped"]:
        return f"**{NOT_INSTALLED}**" if NOT_INSTALLED in case["skipped"][peer] else "skipped"
    times = case["times"].get(peer)
    if times is None:
        return ""
    return ms(times["median_s"]) + (" (1 call)" if times["state"].startswith("first") else "")


def entropies(cases: list[Entry]) -> str:
    with_nan, without = "bundle_entropy", "bundle_entropy, check_nan=False"
    lines = [
        row("(N, D)", "data", "`bundle_entropy`, ms", "in reads", "`check_nan=False`, ms", "in reads",
            "`bundle_rows`, in reads", "hot, ms", "bytes touched"),
        rule(9),
    ]  # fmt: skip
    for case in cases:
        work = case["work"].get(OURS, {})
        touched = work.get("bytes_touched")
        lines.append(row(
            shape(case), case["data"], ms(median(case, with_nan)), number(ratio(case, with_nan, "read")),
            ms(median(case, without)), number(ratio(case, without, "read")), number(ratio(case, OURS, "read")),
            ms(median(case, OURS if case["hot"] else "bundle_rows, hot")),
            "" if touched is None else f"{100 * touched / case['bytes']:.3g} %",
        ))  # fmt: skip
    return "\n".join(lines)


def contenders(cases: list[Entry], per_second: float, unit: str) -> str:
    lines = [row("data", "contender", f"median, {unit}", "min", "max", "rounds"), rule(6)]
    for case in cases:
        for name, t in case["times"].items():
            values = [f"{per_second * t[key]:.3g}" for key in ("median_s", "min_s", "max_s")]
            lines.append(row(case["data"], name, *values, t["rounds"]))
    return "\n".join(lines)


def streaming(cases: list[Entry]) -> str:
    update = "BundleEntropy.update, all rows"
    lines = [
        row("(N, D)", "data", "million rows/s", "GB/s", "in reads", "2 threads / 1", "xxh3 + dict / ours",
            "compute, ms"),
        rule(8),
    ]  # fmt: skip
    for case in cases:
        seconds = median(case, update) or float("nan")
        lines.append(row(
            shape(case), case["data"], number(case["measured_shape"][0] / seconds / 1e6),
            number(case["bytes"] / seconds / 1e9), number(ratio(case, update, "read")),
            number(ratio(case, update + ", 2 threads", update)), number(ratio(case, "xxh3 + dict", update)),
            ms(median(case, "BundleEntropy.compute")),
        ))  # fmt: skip
    return "\n".join(lines)


def yardsticks(cases: list[Entry]) -> str:
    if not cases:
        return ""
    names = list(cases[0]["times"])
    lines = [row("MiB", *names), rule(1 + len(names))]
    for case in cases:
        rates = [case["bytes"] / 1e9 / (median(case, name) or float("nan")) for name in names]
        lines.append(row(f"{case['bytes'] / 2**20:.0f}", *[number(rate) for rate in rates]))
    return "\n".join(lines)


def losses(result: Entry) -> str:
    """Every case where somebody else is faster, or a limit is missed, or more hands make slower work."""
    found = []
    for case in result["cases"]:
        found += [f"* {case['group']}, {case['name']}: {reason}." for reason in reasons(case)]
        if case["group"] == "yardstick":
            own, name = min((median(case, n) or 0.0, n) for n in case["times"])
            if name != "read" and (ratio(case, "read", name) or 0) > 1.05:
                found.append(f"* yardstick, {case['name']}: `{name}` reads faster ({ms(own)} ms), so our "
                             "numbers in reads are too good by that much.")  # fmt: skip
    missed = [
        f"* {kind} not reached: {goal.regime}, {limit.text()}; measured {goal_cells(result['cases'], limit)[1]}."
        for goal in GOALS
        for kind, limits in (("must", goal.must), ("aim", goal.aim))
        for limit in limits
        if (worst := limit.worst(result["cases"])) is not None and not limit.holds(worst[0])
    ]
    absent = sorted({why for case in result["cases"] for why in case["skipped"].values() if NOT_INSTALLED in why})
    return (
        "\n".join([*(f"* **a peer is missing: {why}.**" for why in absent), *missed, *found]) or "Nowhere in this run."
    )


def reasons(case: Entry) -> list[str]:
    found = []
    peer, reads = best_peer(case), ratio(case, OURS, "read")
    for contender in {next(iter(case["times"])): 0, "bundle_entropy": 0} if peer else ():
        own = median(case, contender)
        if peer is not None and own is not None and peer[1] < own:
            found.append(
                f"`{peer[0]}` takes {ms(peer[1])} ms, `{contender}` {ms(own)} ms ({own / peer[1]:.2f}x as long)"
            )
    if reads is not None and reads > 2.5:
        found.append(f"{reads:.1f} reads")
    threads = ratio(case, "bundle_rows, 2 threads", OURS)
    if threads is not None and threads > TWO_THREADS_NOISE:
        found.append(f"two threads take {threads:.2f} times as long as one")
    return found


def case_line(case: Entry) -> str:
    """One line for the terminal."""
    lead = next(iter(case["times"]))
    line = f"{case['group']:>11} {case['name']:<38} {lead} {ms(median(case, lead))} ms"
    peer = best_peer(case)
    pieces = (
        ("read", median(case, "read") and f"{ratio(case, lead, 'read'):.3g} reads"),
        ("peer", peer and f"{peer[1] / (median(case, lead) or 1):.3g}x {peer[0]}"),
        ("grid", (g := ratio(case, "bundle_rows, grid", OURS)) and f"grid {100 * (g - 1):+.0f} %"),
        ("threads", (t := ratio(case, "bundle_rows, 2 threads", OURS)) and f"2 threads {t:.2f}"),
    )
    return ", ".join([line] + [text for _, text in pieces if text])


def pick(cases: list[Entry], group: str) -> list[Entry]:
    return [case for case in cases if case["group"] == group]


def shape(case: Entry) -> str:
    return f"({case['shape'][0]}, {case['shape'][1]})"


def ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def rule(columns: int) -> str:
    return "|" + "---|" * columns


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
