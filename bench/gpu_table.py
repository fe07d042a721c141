"""The measured part of docs/gpu.md, from the files of one run of both parts of the GPU check and of an earlier part 1.

`python -m bench.gpu_table PART1.json PART2.json [MORE.json ...] [--before EARLIER-PART1.json] [--print]`

What MORE files of part 2 hold takes the place of the same phases in PART2, with the commit that they ran on. With
--before there is a table of EARLIER's times beside those of PART1.

Replaces what stands between `<!-- gpu:begin -->` and `<!-- gpu:end -->`; with --print it goes to stdout. Every figure
and every verdict is computed from the JSON that `gpu_check.py` has written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "gpu.md"
BEGIN, END = "<!-- gpu:begin -->", "<!-- gpu:end -->"
DATA = ("distinct", "50 bundles", "equal", "pairs")
Entry = dict[str, Any]


def main(arguments: list[str]) -> int:
    options = parsed(arguments)
    paths = [*options.parts, *options.before]
    if len(options.parts) < 2:
        print("gpu_table needs the files of part 1 and part 2", file=sys.stderr)
        return 1
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    one, two, *more = parts[: len(options.parts)]
    earlier = dict(zip([path.name for path in options.before], parts[len(options.parts) :], strict=True))
    if [part["part"] for part in parts] != [1, 2] + [2] * len(more) + [1] * len(earlier):
        print("these are not part 1, part 2 and, behind --before, an earlier part 1", file=sys.stderr)
        return 1
    content = "\n\n".join(sections(one, completed(two, more), [path.name for path in options.parts], earlier))
    if options.print:
        print(content)
        return 0
    if any(part["is_rehearsal"] for part in parts):
        print("these are not parts 1 and 2 of a run on a GPU: not for the documentation; use --print", file=sys.stderr)
        return 1
    text = DOCUMENT.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f"{DOCUMENT.name} must have {BEGIN} and {END} once each", file=sys.stderr)
        return 1
    aside = DOCUMENT.with_name(f".{DOCUMENT.name}.{os.getpid()}")
    aside.write_text(f"{text.split(BEGIN)[0]}{BEGIN}\n{content}\n{END}{text.split(END)[1]}", encoding="utf-8")
    os.replace(aside, DOCUMENT)
    print(f"the measured part of {DOCUMENT} is that of {paths[0].name} and {paths[1].name}")
    return 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_table", description="Write the tables of docs/gpu.md.")
    parser.add_argument("parts", type=Path, nargs="+", metavar="PART.json", help="part 1, part 2, more of part 2")
    parser.add_argument("--before", type=Path, nargs=1, default=[], metavar="PART1.json",
                        help="an earlier part 1, to be shown beside this one")  # fmt: skip
    parser.add_argument("--print", action="store_true", help="to stdout, and leave the document alone")
    return parser.parse_args(arguments)


def sections(one: Entry, two: Entry, names: list[str], earlier: dict[str, Entry]) -> list[str]:
    times = of_phase(one, "times")["measured"]
    rate = times["yardsticks"]["copy_bytes_per_s"]
    return [
        header(one, names, times),
        "### What ran", phases(one, two),
        "### One layer, `bundle_rows`, microseconds", rows_table(times["cases"], rate),
        "### Many layers in one launch, microseconds", layers_table(times["cases"], rate),
        "### Fingerprints and the margin, microseconds", others_table(times["cases"], rate),
        *(text for name, part in earlier.items() for text in ("### Before and now", before_table(name, part, one))),
        "### What the hardware counted", counters_table(of_phase(one, "counters").get("launches", [])),
        "### Goals", goals([*times["goals"], *goals_beside_peers(of_phase(two, "peers").get("measured"))]),
        "### Peers", peers(of_phase(two, "peers").get("measured")),
        "### Beside training", training(of_phase(two, "training_share").get("measured")),
    ]  # fmt: skip


def completed(two: Entry, more: list[Entry]) -> Entry:
    """Part 2 with the phases of later runs in the place of its own; each phase knows its commit."""
    phases = {phase["name"]: phase | {"commit": two["commit"]["short"]} for phase in two["phases"]}
    for part in more:
        needed = ("install", "facts")
        phases |= {
            p["name"]: p | {"commit": part["commit"]["short"]} for p in part["phases"] if p["name"] not in needed
        }
    return two | {"phases": list(phases.values())}


def of_phase(part: Entry, name: str) -> Entry:
    return next((phase for phase in part["phases"] if phase["name"] == name), {})


def header(one: Entry, names: list[str], times: Entry) -> str:
    device, versions, rates = one["device"], one["versions"], times["yardsticks"]
    copy, read = (f"{rates[kind] / 1e12:.2f} TB/s" for kind in ("copy_bytes_per_s", "read_bytes_per_s"))
    return (
        f"From {', '.join(f'`{name}`' for name in names)} ({one['date'][:10]}): {device['name']}, "
        f"{device['multiprocessors']} multiprocessors, "
        f"{device['l2_bytes'] >> 20} MiB of L2 cache, driver {versions['driver']}, nvcc {versions['nvcc']}, torch "
        f"{versions['torch']}, Python {versions['python']}. The card copies {copy} (bytes read plus bytes "
        f"written) and reads {read}; the smallest launch takes {rates['smallest_launch']['median_us']:.1f} us. "
        f"Times are medians of {times['how']}; where nothing else is said, of replays of a CUDA graph, which "
        "hold nothing of the host's work."
    )


def phases(one: Entry, two: Entry) -> str:
    lines = ["| part | phase | commit | outcome | seconds | found |", "|---|---|---|---|---|---|"]
    for part in (one, two):
        for phase in part["phases"]:
            found = [f"{phase[key]} {word}" for key, word in
                     (("passed", "tests passed"), ("failed", "failed"), ("skipped", "skipped"),
                      ("inputs", "inputs compared"), ("launch_shapes", "launch shapes"), ("num_wrong", "wrong"))
                     if key in phase]  # fmt: skip
            found += [f"{name}: {p['calls']} calls, {p['outcome']}" for name, p in phase.get("parts", {}).items()
                      if "calls" in p]  # fmt: skip
            found += [f"{len(phase['launches'])} launches read"] if "launches" in phase else []
            on = phase.get("commit", part["commit"]["short"])
            cells = (part["part"], phase["name"], on, phase["outcome"], f"{phase['seconds']:.0f}", "; ".join(found))
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def us(times: Entry | None) -> str:
    return "-" if times is None else f"{times['median_us']:.0f}"


def share(entry: Entry, times: Entry | None, rate: float) -> str:
    """How much of the copy rate it is to read everything once in that time."""
    return "-" if times is None else f"{1e6 * entry['bytes'] / times['median_us'] / rate:.2f}"


def rows_table(cases: list[Entry], rate: float) -> str:
    """A shape and type a line; in brackets the share of the copy rate, where every row must be read."""
    single = [case for case in cases if len(case["shape"]) == 2]
    single.sort(key=lambda case: (case["dtype"] != "float32", case["bytes"]))
    lines = [
        "In brackets: the bytes of the input over the time, as a share of the copy rate, where all rows must be read.",
        "",
        "| (N, D) | " + " | ".join(DATA) + " | on a grid: distinct, equal | host, distinct |",
        "|---" * 7 + "|",
    ]
    for shape, dtype in dict.fromkeys((tuple(case["shape"]), case["dtype"]) for case in single):
        of = {case["data"]: case for case in single if (tuple(case["shape"]), case["dtype"]) == (shape, dtype)}
        cells = []
        for data in DATA:
            t = of[data]["calls"]["bundle_rows"].get("graph") if data in of else None
            cells.append(us(t) + (f" ({share(of[data], t, rate)})" if t and data != "distinct" else ""))
        on_grid = [
            us(of[d]["calls"].get("bundle_rows, grid", {}).get("graph")) for d in ("distinct", "equal") if d in of
        ]
        host = us(of["distinct"]["calls"]["bundle_rows"].get("host")) if "distinct" in of else "-"
        lines.append(f"| {shape} {dtype} | {' | '.join(cells)} | {', '.join(on_grid)} | {host} |")
    return "\n".join(lines)


def layers_table(cases: list[Entry], rate: float) -> str:
    lines = ["| layers | kernel | share of the copy rate | until it is queued | until its counts are read "
             "| the call from Python |", "|---" * 6 + "|"]  # fmt: skip
    for case in cases:
        if len(case["shape"]) == 3:
            kernel = grouping_kernel(case)
            calls = ("counts queued", "counts queued and read", "bundle_entropy_layers, check_nan=False")
            host = [us(case["calls"].get(call, {}).get("host")) for call in calls]
            of_copy = "-" if case["data"] == "distinct" else share(case, kernel, rate)
            lines.append(f"| {case['name']} | {us(kernel)} | {of_copy} | {' | '.join(host)} |")
    return "\n".join(lines)


def others_table(cases: list[Entry], rate: float) -> str:
    lines = ["| input | `row_fingerprints` | share | streaming `update`, host | `conflict_margin`, host "
             "| `conflict_margin`, device |", "|---" * 6 + "|"]  # fmt: skip
    for case in cases:
        calls = case["calls"]
        if len(case["shape"]) == 2 and "update" in calls:
            graph = calls["row_fingerprints"].get("graph")
            host = [us(calls.get(name, {}).get("host")) for name in ("update", "conflict_margin")]
            host.append(us(calls.get("margin queued", {}).get("graph")))
            lines.append(f"| {case['name']} | {us(graph)} | {share(case, graph, rate)} | {' | '.join(host)} |")
    return "\n".join(lines)


def before_table(name: str, earlier: Entry, one: Entry) -> str:
    """A shape and type a line, "before -> now" in every cell; only what both runs have measured."""
    runs = [of_phase(part, "times")["measured"] for part in (earlier, one)]
    cases = [{case["name"]: case for case in run["cases"]} for run in runs]
    rates = [run["yardsticks"]["copy_bytes_per_s"] for run in runs]
    told = [f"{part['device']['name']} at {part['commit']['short']}, which copies {rate / 1e12:.2f} TB/s"
            for part, rate in zip((earlier, one), rates, strict=True)]  # fmt: skip
    lines = [
        f"Microseconds. Before: `{name}`, {told[0]}. Now: {told[1]}. In brackets: the bytes of the input over the "
        "time, as a share of that card's own copy rate, where all rows must be read. Several layers: the kernel alone.",
        "",
        f"| input | {' | '.join(DATA)} | `conflict_margin`, host |",
        "|---" * (len(DATA) + 2) + "|",
    ]
    both = [case for key, case in cases[1].items() if key in cases[0]]
    both.sort(key=lambda case: (len(case["shape"]), case["dtype"] != "float32", case["bytes"]))
    for prefix in dict.fromkeys(case["name"].removesuffix(case["data"]) for case in both):
        pairs = {data: [of[prefix + data] for of in cases] for data in DATA if all(prefix + data in of for of in cases)}
        cells = [moved([of_copy(c, rate) for c, rate in zip(pairs[d], rates, strict=True)]) if d in pairs else "-"
                 for d in DATA]  # fmt: skip
        first = next(iter(pairs.values()))
        margins = [case["calls"].get("conflict_margin", {}).get("host") for case in first]
        cells.append(moved([None if t is None else us(t) for t in margins]))
        lines.append(f"| {prefix.strip()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def moved(values: list[str | None]) -> str:
    return "-" if None in values else " -> ".join(map(str, values))


def of_copy(case: Entry, rate: float) -> str | None:
    """The time of a case, with its share of the copy rate; None where it was not measured."""
    t = grouping_kernel(case) if len(case["shape"]) == 3 else case["calls"].get("bundle_rows", {}).get("graph")
    if t is None:
        return None
    return us(t) + ("" if case["data"] == "distinct" else f" ({share(case, t, rate)})")


def grouping_kernel(case: Entry) -> Entry | None:
    return next((t for name, t in case.get("kernels", {}).items() if "group_rows" in name), None)


METRICS = {
    "duration": "Duration", "from memory": "Memory Throughput", "of its peak, %": "DRAM Throughput",
    "registers a thread": "Registers Per Thread", "warps a scheduler": "Active Warps Per Scheduler",
    "cycles with an instruction issued, %": "One or More Eligible",
}  # fmt: skip
WAITS = {"waiting for memory, %": "L1TEX", "waiting for the block, %": "CTA barrier"}


def counters_table(launches: list[Entry]) -> str:
    """A launch a line; a launch of an earlier form of the file has no sections and is left out."""
    launches = [launch for launch in launches if "sections" in launch]
    if not launches:
        return "Not measured."
    lines = [
        "By ncu, at the card's own clocks and with an empty cache. Waiting is the share of the time between two "
        "instructions of a warp, where ncu names it.",
        "",
        f"| call | kernel | {' | '.join([*METRICS, *WAITS])} |",
        "|---" * (2 + len(METRICS) + len(WAITS)) + "|",
    ]
    for launch in launches:
        waits = [next((w["percent"] for w in launch["waits"] if word in w["for"]), "-") for word in WAITS.values()]
        cells = [launch.get("call", "-"), f"`{launch['kernel']}`", *(metric(launch, m) for m in METRICS.values())]
        lines.append(f"| {' | '.join([*cells, *waits])} |")
    return "\n".join(lines)


def metric(launch: Entry, name: str) -> str:
    """The value with its unit, or without where the column's head says it; the throughput is that in bytes."""
    values = [item for section in launch["sections"].values() for item in section.items()]
    found = [(key, value) for key, value in values if key.partition(" [")[0] == name]
    if name == "Memory Throughput":
        found = [(key, value) for key, value in found if key.endswith("byte/s]")]
    if not found:
        return "-"
    key, value = found[0]
    unit = key.partition(" [")[2].rstrip("]")
    return f"{value} {unit}" if unit in ("us", "ms", "s", "ns") or unit.endswith("byte/s") else value


def goals(found: list[Entry]) -> str:
    words = {True: "reached", False: "NOT reached", None: "not measured"}
    lines = ["| goal | limit, us | measured, us | |", "|---|---|---|---|"]
    for goal in found:
        value = "-" if goal["median_us"] is None else f"{goal['median_us']:.0f}"
        lines.append(f"| {goal['goal']} | {goal['limit_us']:.0f} | {value} | {words[goal['reached']]} |")
    return "\n".join(lines)


def goals_beside_peers(found: Entry | None) -> list[Entry]:
    """So many times faster than torch at every size that both were measured at."""
    goals = []
    for case in (found or {}).get("cases", []):
        if torch := case["peers"].get(name := "torch.unique(dim=0)"):
            limit, value = torch["median_us"] / found["goal"], case["bundle_rows"]["median_us"]
            goal = f"{case['name']}: {found['goal']:.0f}x {name}"
            goals.append({"goal": goal, "limit_us": limit, "median_us": value, "reached": value <= limit})
    return goals


def peers(found: Entry | None) -> str:
    if not found:
        return "Not measured."
    absent = [f"**{name}: {why}: NOT MEASURED.**" for name, why in found.get("not_installed", {}).items()]
    lines = [*absent, ""] if absent else []
    lines += ["| input | `bundle_rows`, us | peer | us | times slower |", "|---|---|---|---|---|"]
    for case in found["cases"]:
        own = us(case["bundle_rows"])
        lines += [f"| {case['name']} | {own} | {name} | {us(t)} | {t['ratio']:.0f} |"
                  for name, t in case["peers"].items()]  # fmt: skip
        lines += [
            f"| {case['name']} | {own} | {name} | not measured: {why} | |" for name, why in case["skipped"].items()
        ]
    return "\n".join(lines)


def training(found: Entry | None) -> str:
    if not found:
        return "Not measured."
    step, measure, forward = (f"{1e3 * found[k]:.0f} ms" for k in ("step_s", "measure_s", "forward_of_the_probe_s"))
    return (
        f"A model of the size of ResNet-50 ({found['parameters'] / 1e6:.1f} million parameters, bfloat16 autocast, "
        f"batches of {found['batch']} images of {found['side']} pixels): a training step takes {step}. A "
        f"`LayerMonitor` with a probe of {found['probe']} samples measures {found['layers']} layers, margins included, "
        f"in {measure}, of which the forward pass alone takes {forward}: {found['measure_in_steps']:.1f} training "
        f"steps, {100 * found['share_of_an_epoch']:.2f} % of an epoch of ImageNet. The first look takes "
        f"{found['first_look_s']:.1f} s."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
