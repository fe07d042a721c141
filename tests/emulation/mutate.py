"""Plant faults in csrc/cuda and csrc/cpu, one at a time: does a short run on the emulated devices, or of tests, notice?

``make mutate`` prints caught / planted; one that is missed is a failure. A fault is a text and what takes its place,
compiled in a copy of csrc; ``probe.py``, or for csrc/cpu ``probe_cpu.py``, is what every faulty module has to survive,
and the right one does. ``--sample N`` plants N of them, other ones each time.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("CBKERNELS_EMULATION_BUILD", ROOT / "build" / "emulation"))
SCRATCH = BUILD.parent / "mutation"
COPIED = ("csrc", "tests/emulation")
"""Where a fault is planted, and what includes it from there."""
KINDS_PLANTED = ("any", "float32", "grid32")
"""row_kernels_*.cu in which the faults of a header are planted."""
MOST_SECONDS = 120
"""For one probe; the right module takes ten to thirty. A kernel that hangs is a fault that was caught."""


class Fault(NamedTuple):
    file: str  # in csrc/cuda, or in another folder of csrc
    text: str
    replacement: str
    what: str
    occurrence: int = 1
    folder: str = "cuda"

    @property
    def path(self) -> str:
        """In csrc."""
        return f"{self.folder}/{self.file}"


FAULTS = [
    Fault("teams.h", "__syncthreads();  // the space may still be in use", "", "sum over a block: first barrier"),
    Fault(
        "teams.h",
        "space->of_warp[warp] = inclusive;\n  __syncthreads();",
        "space->of_warp[warp] = inclusive;",
        "sum over a block: second barrier",
    ),
    Fault(
        "teams.h",
        "__syncthreads();\n  if (gridDim.x == 1) return;",
        "if (gridDim.x == 1) return;",
        "barrier of the grid: the block before it",
    ),
    Fault(
        "teams.h",
        "after theirs\n  }\n  __syncthreads();",
        "after theirs\n  }",
        "barrier of the grid: the block after it",
    ),
    Fault(
        "teams.h",
        "read_now(arrived) - expected",
        "read_now(arrived) + 1 - expected",
        "barrier of the grid: does not wait for the last block",
    ),
    Fault("teams.h", "atomicAdd(arrived, 1u);", "*arrived += 1;", "barrier of the grid: arrival is not atomic"),
    Fault("teams.h", "if (w < warp) before", "if (w <= warp) before", "sum over a block: counts its own warp"),
    Fault("teams.h", "(count + team.size() - 1) / team.size()", "count / team.size()", "shares: the rest is left out"),
    Fault(
        "teams.h",
        "__shfl_sync(whole_warp, inclusive, warp_size - 1);",
        "__shfl_sync(whole_warp, inclusive, warp_size - 2);",
        "items: the 32nd layer is left out",
    ),
    Fault(
        "group_keys.h",
        "there = atomicCAS(slots + slot, no_row, row);",
        "slots[slot] = row;",
        "table: a slot is taken without an atomic",
    ),
    Fault(
        "group_keys.h",
        "if (row < there) atomicMin(slots + slot, row);",
        "if (row < there) slots[slot] = row;",
        "table: the smallest row without an atomic",
    ),
    Fault(
        "group_keys.h",
        "before = atomicAdd(counters + key, static_cast<uint32_t>(__popc(peers)));",
        "{ before = counters[key]; counters[key] = before + __popc(peers); }",
        "counting without an atomic",
    ),
    Fault(
        "group_keys.h",
        "return before + __popc(peers & ((1u << lane) - 1));",
        "return before + __popc(peers & ((2u << lane) - 1));",
        "counting: the lane counts itself",
    ),
    Fault("group_keys.h", "takes_part ? key : 0x80000000u + lane", "key", "counting: idle lanes take part"),
    Fault("group_keys.h", "k - lane_index() < count", "k < count", "a warp that is not whole at the end"),
    Fault(
        "group_rows.h",
        "  team.sync();\n  for_each_in_warps(team, count, [&]",
        "  for_each_in_warps(team, count, [&]",
        "grouping: barrier before the table",
    ),
    Fault(
        "group_rows.h",
        "  team.sync();\n  for_each_in_warps(team, count, [&]",
        "  for_each_in_warps(team, count, [&]",
        "grouping: barrier behind the table",
        occurrence=2,
    ),
    Fault("group_rows.h", "(members + tile_rows - 1) / tile_rows", "members / tile_rows", "grouping: the last tile"),
    Fault("group_rows.h", "if (rank % tile_rows == 0)", "if (rank % tile_rows == 1)", "grouping: where a tile begins"),
    Fault("group_rows.h", "step = width / 2; step > 0", "step = width / 4; step > 0", "comparing: half of the lanes"),
    Fault("group_rows.h", "if (holds_nan) work.holds_nan[row] = 1;", "", "comparing: a NaN is forgotten"),
    Fault("group_rows.h", "if (differs) work.leader[row] = row;", "", "listing: a row stays with the wrong leader"),
    Fault("group_rows.h", "row < last ? row : last", "row", "sampling: reads behind the last row"),
    Fault(
        "row_kernels_loops.h",
        "chunk < end; chunk += width",
        "chunk + 1 < end; chunk += width",
        "comparing: the last chunk",
    ),
    Fault("row_kernels_loops.h", "lane + k * turn < left", "lane + k * turn <= left", "words: one behind the row"),
    Fault("row_kernels_loops.h", "turn == 1 ? lane : 0;", "0;", "words: lanes of short rows all read the first chunk"),
    Fault(
        "row_kernels_loops.h",
        "(with_nan >> first_lane & 0xffu) != 0",
        "(with_nan & 0xffu) != 0",
        "sampling: NaN of another row",
    ),
    Fault(
        "row_kernels_loops.h", "step = lanes_per_sample / 2", "step = lanes_per_sample", "sampling: adds up two rows"
    ),
    Fault(
        "row_kernels_loops.h",
        "const bool upper = (lane & half) != 0;",
        "const bool upper = (lane & half) == 0;",
        "adding up 16 values: halves exchanged",
    ),
    Fault(
        "count_labels.h",
        "  team.sync();\n  const Share share",
        "  const Share share",
        "labels: barrier behind counting",
    ),
    Fault(
        "count_labels.h",
        "if (num_labels[i] >= 2) mine",
        "if (num_labels[i] >= 1) mine",
        "labels: pure bundles conflict",
    ),
    Fault(
        "sum_rows.h",
        "atomicAdd(reinterpret_cast<unsigned long long*>(row_sums + num_sums * row + lane),\n"
        + 16 * " "
        + "static_cast<unsigned long long>(sum));",
        "row_sums[num_sums * row + lane] += sum;",
        "fingerprints: pieces are added without an atomic",
    ),
    Fault("sum_rows.h", "if (is_entered(i, num_units))", "", "fingerprints: words that are not there are hashed"),
    Fault("sum_rows.h", "+ w >= left)", "+ w > left)", "fingerprints: what pads a row is on the grid"),
    Fault(
        "group_near_rows.cu",
        "candidates[(round + 2) % 3] = no_row;",
        "candidates[(round + 1) % 3] = no_row;",
        "tolerance: the next leader is forgotten",
    ),
    Fault(
        "pair_tiles.h",
        "while (__syncthreads_or(open != 0)) {",
        "while (__any_sync(whole_warp, open != 0)) {",
        "margin: barrier behind writing a tile",
    ),
    Fault(
        "pair_tiles.h",
        "Kind::pattern(worst[k]) < limit",
        "Kind::pattern(worst[k]) < limit / 2",
        "margin: gives up too early",
    ),
    Fault("margin_cut.h", "parts(columns, cut.span)", "columns / cut.span", "margin: the last span of a tile"),
    Fault("margin_cut.h", "parts(num_rows, tile_rows)", "num_rows / tile_rows", "margin: the last rows of all"),
    Fault(
        "group_keys.h",
        "if (row < row_of_first) atomicMin(slots + slot_of_first, row);",
        "",
        "table: the smallest row of a warp is not the first lane's",
    ),
    Fault(
        "group_keys.h",
        "first != lane && same_key(row_of_first)",
        "first != lane",
        "table: lanes of one hash whose keys differ",
    ),
    Fault(
        "group_keys.h",
        "return before + inclusive - amount;",
        "return before + inclusive;",
        "adding up over a warp: the lane counts itself",
    ),
    Fault(
        "pinned.cu",
        'check(cudaEventSynchronize(piece_.copied), "waiting for results");',
        "",
        "reading: does not wait for the copy",
    ),
    Fault(
        "pinned.cu",
        "piece.bytes == size && is_idle(piece)",
        "piece.bytes == size",
        "pinned memory: what a reader needs is given away",
    ),
    Fault("pinned.cu", "  ++piece.owners;\n", "", "pinned memory: a graph owns nothing"),
    Fault(
        "conflict_margin.cu",
        "is_exact_in_float32(dtype) || rounded == 0",
        "true",
        "margin: a rounded distance is taken for an exact one",
    ),
    Fault("layer_work.h", "take(work.order, num_rows);", "take(work.order, num_rows / 2);", "memory: half a list"),
    Fault(
        "conflict_margin.cpp",
        "close_far(low, high, [&](Value l, Value h) { return l < h && ",
        "close_far(low, high, [&](Value l, Value h) { return ",
        "margin: a row in both tails counts as high when it is low",
        folder="cpu",
    ),
    Fault(
        "conflict_margin.cpp",
        "bounds[is_near(g + 1) ? g + 2 : g + 1]",
        "bounds[g + 1]",
        "margin: rows of two groups beside each other are not compared",
        folder="cpu",
    ),
    Fault(
        "conflict_margin.cpp",
        "for (int64_t next = g + 2; is_near(next); ++next)",
        "for (int64_t next = g + 3; is_near(next); ++next)",
        "margin: a group behind the next one is not compared",
        folder="cpu",
    ),
    Fault(
        "conflict_margin.cpp",
        "if (distance(a[u], b[u]) >= best) return true;",
        "return true;",
        "margin: a pair is given up on a rounded difference",
        folder="cpu",
    ),
    Fault(
        "open_pairs.h",
        "for (int k = from.size; k-- > 0;) {",
        "for (int k = 0; k < from.size; ++k) {",
        "margin: what is far from an outer row closes inner ones",
        folder="cpu",
    ),
    Fault("group_keys.h", "bits.once |= bit;", "bits.once = bit;", "repeated keys: a slot is forgotten", folder="cpu"),
    Fault(
        "group_keys.h",
        "word_of(slot) < end) add(slot)",
        "word_of(slot) < end - 1) add(slot)",
        "repeated keys: the last slots of a thread's share",
        folder="cpu",
    ),
    Fault(
        "group_keys.h",
        "some_keys.data() + s * share, found[s]",
        "some_keys.data() + s, found[s]",
        "repeated keys: those that a second thread found",
        folder="cpu",
    ),
    Fault(
        "group_rows.cpp",
        "repeated.add(keys + begin, end - begin);",
        ";",
        "repeated keys: the last ones of a piece",
        folder="cpu",
    ),
    Fault(
        "group_rows.cpp",
        "if (!(equal >> m & 1)) is_settled[member[m]] = 0;",
        ";",
        "many kinds of short rows: those that differ behind their sample",
        folder="cpu",
    ),
    Fault(
        "group_rows.cpp",
        "is_settled[i] = is_settled[leader_[i]] = 0;",
        "is_settled[i] = 0;",
        "many kinds of short rows: the first of a sample that misleads",
        folder="cpu",
    ),
    Fault(
        "group_rows.cpp",
        "mislead = end < n && found.different > found.equal + 16;",
        "",
        "many kinds of short rows: samples that mislead are believed",
        folder="cpu",
    ),
    Fault(
        "compare_bands.cpp",
        "++b, walk.filtered_to = 0)",
        "++b)",
        "columns: what was found in the band before",
        folder="cpu",
    ),
    Fault("row_kernels_loops.h", "if (i == end) continue;", "continue;", "columns: their last values", folder="cpu"),
    Fault(
        "row_blocks.cpp",
        "std::min(left, columns.extent - run % columns.extent)",
        "left",
        "columns of 32 bytes: those behind a gap",
        folder="cpu",
    ),
    Fault(
        "compare_bands.cpp",
        "(*from == std::byte{0} && std::memcmp",
        "(std::memcmp",
        "columns: rows that all differ everywhere",
        folder="cpu",
    ),
    Fault(
        "group_short_rows.cpp",
        "if (run < most && !hashes_whole_rows_) run += known_run",
        "if (false) run += known_run",
        "short rows: each takes the long way",
        folder="cpu",
    ),
    Fault(
        "row_kernels_loops.h",
        "leader[i] = candidate;",
        "leader[i] = known.slots[first_slot(key, known.num_slots)].leader;",
        "short rows: the leader of another sample",
        folder="cpu",
    ),
    Fault(
        "row_kernels_loops.h",
        "if (!equals(element, row[s], leader, num_bytes)) return false;",
        "if (s < 3 && !equals(element, row[s], leader, num_bytes)) return false;",
        "equal short rows: the last stream",
        folder="cpu",
    ),
    Fault(
        "row_kernels_loops.h",
        "if (differing_rows<E, num_streams>(grid, row, leader, num_bytes)) return false;",
        "if (differing_rows<E, num_streams>(grid, row, leader, num_bytes) & 7u) return false;",
        "equal short rows, line by line: the last stream",
        folder="cpu",
    ),
    Fault(
        "row_kernels_loops.h",
        "for (int64_t k = c; k < c + apart; ++k)",
        "for (int64_t k = c; k < c + apart - (apart > 1); ++k)",
        "columns: the last of those between two streams",
        folder="cpu",
    ),
    Fault(
        "row_kernels_loops.h",
        "load(piece + line + s * stream_bytes + half)",
        "load(piece + line + (s & 2) * stream_bytes + half)",
        "NaN in different rows: two of four streams",
        folder="cpu",
    ),
    Fault(
        "group_rows.cpp",
        "rows[count] == rows[count - 1] + 1 && ",
        "",
        "NaN in different rows: behind a gap",
        folder="cpu",
    ),
    Fault(
        "group_rows.cpp",
        "return 3 * pilot(count).once <= count;",
        "return false;",
        "short rows: many bundles are taken for different rows",
        folder="cpu",
    ),
    Fault(
        "group_rows.cpp",
        "return 3 * pilot(count).once <= count;",
        "return true;",
        "short rows: different rows are taken for many bundles",
        folder="cpu",
    ),
    Fault(
        "columns.h",
        "back().stride == axis.extent * axis.stride",
        "back().stride >= axis.extent * axis.stride",
        "columns: axes with a gap between them are merged",
        folder="rows",
    ),
    Fault(
        "values.h",
        "case 2: return load_bits<uint16_t>(at);",
        "case 2: return load_bits<uint8_t>(at);",
        "values of 16 bits: half of them",
        folder="rows",
    ),
]


def probe_of(fault: Fault) -> str:
    """Margins on the CPU are tried beside those of the devices; the rest of csrc/cpu by tests."""
    return "probe_cpu.py" if fault.folder == "cpu" and fault.file != "conflict_margin.cpp" else "probe.py"


def run_probe(module: Path, probe: str = "probe.py") -> str:
    """What the probe found wrong, empty when nothing."""
    environment = {**os.environ, "CBKERNELS_EMULATION": str(module)}
    command = [sys.executable, str(Path(__file__).resolve().parent / probe)]
    try:
        run = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=MOST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"more than {MOST_SECONDS} s"
    if run.returncode == 0:
        return ""
    lines = [line for line in (run.stderr + run.stdout).splitlines() if line.strip()]
    return f"signal {-run.returncode}" if run.returncode < 0 else lines[-1] if lines else "failed"


# --- building -----------------------------------------------------------------------------------------------------


def objects_that_read() -> dict[str, list[str]]:
    """File of csrc -> the objects of the build that depend on it."""
    listing = subprocess.run(["ninja", "-C", str(BUILD), "-t", "deps"], capture_output=True, text=True, check=True)
    readers: dict[str, list[str]] = {}
    for entry in listing.stdout.split("\n\n"):
        lines = entry.strip().splitlines()
        target = lines[0].split(":")[0] if lines else ""
        if "/csrc/" in target or "/self_test.cu" in target:
            for line in lines[1:]:
                found = re.search(r"/csrc/(\w+/[\w.]+)$", line.strip())
                if found:
                    readers.setdefault(found[1], []).append(target)
    return readers


def commands_of_build() -> dict[str, str]:
    """Object -> what compiles it."""
    listing = subprocess.run(["ninja", "-C", str(BUILD), "-t", "commands"], capture_output=True, text=True, check=True)
    commands = {}
    for line in listing.stdout.splitlines():
        found = re.search(r" -o (CMakeFiles/_core\.dir/\S+\.o) ", line)
        if found:
            commands[found[1]] = line
    return commands


def faulty_text(fault: Fault, text: str) -> str:
    """The text of the fault's file with the fault in it."""
    parts = text.split(fault.text)
    if len(parts) <= fault.occurrence:
        raise SystemExit(
            f"csrc/{fault.path} has {len(parts) - 1} times {fault.text!r} and a fault is planned at number "
            f"{fault.occurrence}; bring FAULTS in tests/emulation/mutate.py up to date"
        )
    before, after = fault.text.join(parts[: fault.occurrence]), fault.text.join(parts[fault.occurrence :])
    return before + fault.replacement + after


def is_planted_in(target: str) -> bool:
    """A header of the row kernels is compiled for all kinds of elements; a few of them show its faults.

    They are linked first, so that of a function that all kinds share the faulty one is taken.
    """
    kind = re.search(r"/row_kernels_(\w+)\.cu", target)
    return kind is None or "/cuda/" not in target or kind[1] in KINDS_PLANTED


def build(fault: Fault, readers: dict[str, list[str]], commands: dict[str, str]) -> Path | None:
    """The module with the fault, or None when it does not compile."""
    changed = SCRATCH / "csrc" / fault.path
    right_text = changed.read_text()
    changed.write_text(faulty_text(fault, right_text))
    objects = {str(path.relative_to(BUILD)): path for path in sorted((BUILD / "CMakeFiles").rglob("*.o"))}
    faulty = {target: SCRATCH / Path(target).name for target in readers[fault.path] if is_planted_in(target)}

    def compiles(target: str) -> bool:
        command = commands[target].replace(target, str(faulty[target]))
        for folder in COPIED:
            command = command.replace(f"{ROOT / folder}/", f"{SCRATCH / folder}/")
        return subprocess.run(command, shell=True, cwd=BUILD, capture_output=True, check=False).returncode == 0

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        all_compile = all(pool.map(compiles, faulty))
    changed.write_text(right_text)
    if not all_compile:
        return None
    objects = faulty | {target: path for target, path in objects.items() if target not in faulty}
    module = SCRATCH / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    compiler = commands[next(iter(commands))].split()[0]
    link = [compiler, "-shared", "-o", str(module), *map(str, objects.values())]
    subprocess.run(link, check=True, capture_output=True)
    return module


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    choose = parser.add_mutually_exclusive_group()
    choose.add_argument("--only", type=int, nargs="*", help="numbers of the faults to plant")
    choose.add_argument("--sample", type=int, metavar="N", help="plant N faults, chosen at random")
    options = parser.parse_args()
    modules = sorted(BUILD.glob("_core*.so"))
    if not modules:
        raise SystemExit(f"{BUILD} holds no module; run make emulation first")
    shutil.rmtree(SCRATCH, ignore_errors=True)
    for folder in COPIED:
        shutil.copytree(ROOT / folder, SCRATCH / folder)
    newest = max((ROOT / "csrc").rglob("*.*"), key=lambda file: file.stat().st_mtime)
    if newest.stat().st_mtime > modules[0].stat().st_mtime:
        raise SystemExit(f"{modules[0]} is older than {newest.relative_to(ROOT)}; run make emulation first")
    for fault in FAULTS:
        faulty_text(fault, (SCRATCH / "csrc" / fault.path).read_text())
    wrong = run_probe(modules[0]) or run_probe(modules[0], "probe_cpu.py")
    if wrong:
        raise SystemExit(f"the probe fails without any fault, so it shows nothing: {wrong}")
    readers, commands = objects_that_read(), commands_of_build()
    if not any(f"{ROOT}/csrc/" in command for command in commands.values()):
        raise SystemExit(f"{BUILD} was built from other sources than {ROOT}/csrc, so no fault would be in it")
    module = build(FAULTS[0]._replace(replacement=FAULTS[0].text), readers, commands)
    wrong = "it does not compile" if module is None else run_probe(module)
    if wrong:
        raise SystemExit(f"the probe fails on a copy without a fault, so it shows nothing: {wrong}")
    chosen = range(len(FAULTS)) if options.only is None else options.only
    if options.sample is not None:
        chosen = sorted(random.sample(chosen, min(options.sample, len(FAULTS))))
    caught = planted = 0
    for number in chosen:
        fault, began = FAULTS[number], time.monotonic()
        module = build(fault, readers, commands)
        if module is None:
            raise SystemExit(f"fault {number} ({fault.what}) does not compile; repair it in tests/emulation/mutate.py")
        wrong = run_probe(module, probe_of(fault))
        planted += 1
        caught += bool(wrong)
        state = f"caught: {wrong[:90]}" if wrong else "NOT CAUGHT"
        print(f"{number:3} {fault.path}, {fault.what} ({time.monotonic() - began:.0f} s): {state}", flush=True)
    print(f"mutate: {caught} of {planted} faults caught")
    return 0 if caught == planted else 1


if __name__ == "__main__":
    sys.exit(main())
