"""``cbkernels remove RUN``: which blocks of a trained residual network can go, and the network without them."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..files.folders import output_path
from ..latencies import Latency, latency_change
from ..runs.outcomes import told_of
from ..runs.schema import CONFIG, REMOVAL, RemoveResult
from ..tables import definition_note, format_table, shown, wrapped
from ..training.config import RemoveConfig
from ..training.networks.architecture import Architecture
from ..wording import Words, bits, count, counted, milliseconds, nats, percent, points, size
from .config_options import add_config_options
from .progress import Progress
from .training_command import config_of, require_torch_for, tell

_DESCRIPTION = """\
Measure the branches of a trained residual network, show how accurate it is without some of them,
remove blocks and heal the rest as long as the accuracy on held-back samples stays, and export."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "remove", help="remove blocks that a trained residual network can do without", description=_DESCRIPTION
    )
    parser.add_argument(
        "run_folder", metavar="RUN", help="the folder of a run of cbkernels train or autotune, of a residual network"
    )
    parser.add_argument("--out", metavar="DIR", help="the folder to write (default RUN/removal)")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="the folder where the data are now (default: where RUN found them)"
    )
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the removal in DIR")
    again.add_argument("--overwrite", action="store_true", help="delete the removal in DIR")
    parser.add_argument("--json", action="store_true", help="print result.json instead of tables")
    add_config_options(parser, RemoveConfig)
    parser.set_defaults(
        config=None, goes_on=(CONFIG, "the same command with --resume goes on"),
        less_memory="make --probe-size or --study-size smaller, or train RUN with a smaller --batch-size",
    )  # fmt: skip
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Remove, write the folder, print the tables."""
    require_torch_for("remove")
    inside = Path(arguments.run_folder) / REMOVAL
    arguments.out = out = output_path(inside if arguments.out is None else arguments.out)
    config = config_of(arguments, "remove", RemoveConfig)
    from ..training.procedures.remove import remove_blocks
    from ..training.trained_run import load_trained

    with Progress(log=True) as progress:
        trained = load_trained(arguments.run_folder, device=config.device, data_dir=arguments.data_dir)
        result = remove_blocks(
            trained,
            config,
            out,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            report=progress.show,
            say=progress.say,
        )
    what = "Smaller network" if result["removed"] else "Network, whole"
    tell(result, _text, arguments.json, out, [out], f"{what}: {out / result['export']}{os.sep}")
    return 0


def _text(result: dict[str, Any]) -> str:
    architecture = Architecture.from_dict(result["architecture"])
    found = f"{result['num_conflicting_blocks']} of {len(result['blocks'])} residual blocks conflict"
    removed = ", ".join(result["removed"]) or "none"
    decided = f"{result['reason']} (ranked by {result['rank']}, at most {points(result['max_drop'])} lost on "
    decided += f"{counted(result['guard']['samples'], 'sample')}: {result['guard']['split']})"
    notes = [wrapped(f"Note: {note}.") for note in result.get("notes", ())]  # older folders have none
    scaled = "Branch outputs were multiplied by 1/std of both convolutions' outputs, as in arXiv 2103.04331."
    sections = [
        shown(f"{result['run']}: {architecture}; {found}"),
        _blocks(result["blocks"]),
        *([] if result["study"] is None else [_curves(result)]),
        *([_prunings(result)] if "compared" in result else []),
        wrapped(f"{told_of(RemoveResult, result)[0][:-1]}: {removed}. Why it ended: {decided}."),
        *notes,
        _before_and_after(result),
        wrapped(f"{definition_note(result['equality'])} {scaled}"),
    ]
    return "\n\n".join(sections)


def _blocks(blocks: list[dict[str, Any]]) -> str:
    header = ["block", "bundles", "conflicting", "entropy (nats)", "margin", "bits", "similarity",
              "accuracy without it"]  # fmt: skip
    rows = [
        [
            block["block"],
            *(count(block[field]) for field in ("num_bundles", "num_conflicting")),
            *(nats(block[field]) for field in ("entropy", "margin")),
            bits(block["margin_bits"]),
            nats(block["similarity"]),
            percent(block["accuracy_without"]),
        ]
        for block in blocks
    ]
    return format_table(header, rows)


def _curves(result: dict[str, Any]) -> str:
    curves = {kind: {point["removed"]: point for point in points} for kind, points in result["curves"].items()}
    last = max((k for points in curves.values() for k in points), default=0)
    rows = [[str(k), *(_point(points.get(k)) for points in curves.values())] for k in range(1, last + 1)]
    study = result["study"]
    samples = f"{counted(study['samples'], 'sample')} ({study['split']})"
    said = f"Accuracy without some blocks on {samples}, mean and std of the draws; "
    table = format_table(["removed", *(kind.replace("_", " ") for kind in curves)], rows)
    none = "" if curves["conflicting"] else "No block conflicts, so the first curve is empty.\n"
    return f"{said}with all of them {percent(study['accuracy'])}:\n{none}\n{table}"


def _prunings(result: dict[str, Any]) -> str:
    """What every ranking removed: not in the folders of version 0.1.0."""
    prunings, num_blocks, test = [result, *result["compared"]], len(result["blocks"]), result["test"]
    reached = [
        {0: each["accuracy"]["before"]}
        | {step["num_removed"]: step["accuracy_test"] for step in each["steps"] if step["kept"]}
        for each in prunings
    ]
    rows = [
        [f"{gone} ({percent(gone / num_blocks)})", *(percent(of_rank.get(gone)) for of_rank in reached)]
        for gone in sorted({gone for of_rank in reached for gone in of_rank})
    ]
    ends = [["in the end", *(percent(each["accuracy"]["healed"]) for each in prunings)]]
    samples = f"{counted(test['samples'], 'sample')} ({test['split']})"
    said = f"Accuracy against the blocks removed, by each ranking, on {samples}, "
    said += f"which decide nothing; healing: {result['heal']}, {counted(result['heal_epochs'], 'epoch')}:"
    return f"{wrapped(said)}\n\n{format_table(['removed', *(each['rank'] for each in prunings)], [*rows, *ends])}"


def _before_and_after(result: dict[str, Any]) -> str:
    accuracy, before, after = result["accuracy"], result["before"], result["after"]
    reached = [percent(accuracy[when]) for when in ("before", "removed", "healed")]
    rows: list[list[object]] = [[f"accuracy, {counted(result['test']['samples'], 'sample')}", *reached]]
    latency = f"latency of {before['latency_batch']}"
    costs: tuple[tuple[str, str, Words], ...] = (
        ("residual blocks", "blocks", count),
        ("parameters", "parameters", count),
        ("MACs", "macs", count),
        (f"{latency}, p10", "latency_ms_p10", milliseconds),
        (f"{latency}, median", "latency_ms", milliseconds),
        (f"{latency}, p90", "latency_ms_p90", milliseconds),
        ("peak memory", "peak_memory_bytes", size),
    )
    for title, field, words in costs:
        old, new = words(before[field]), words(after[field])
        rows.append([title, old, new, new])
    if not result["removed"]:
        return format_table(["", "the network"], [row[:2] for row in rows]) + "\nNo block was removed."
    before, after = (Latency(*(each[f"latency_ms{end}"] for end in ("", "_p10", "_p90"))) for each in (before, after))
    changed = latency_change(before, after)
    return format_table(["", "before", "removed", "healed"], rows) + f"\nChange of the latency: {changed}."


def _point(point: dict[str, Any] | None) -> str:
    if point is None:
        return ""
    return percent(point["mean"]) + (f" +- {points(point['std'])}" if point["draws"] > 1 else "")
