"""Faults of the Python package, one a room: what is changed, why that is wrong, which test files should notice.

A fault is small and plausible: everything still runs, and one promise no longer holds. ``mutate.py`` plants them.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    file: str  # in cbkernels/
    text: str  # occurs there exactly once
    replacement: str
    what: str
    tests: tuple[str, ...]  # files in tests/


FAULTS = [
    # --- definitions
    Fault(
        "grid.py",
        '("bfloat16", "float16", "float32", "float64") if d in stored',
        '("float64", "float32", "float16", "bfloat16") if d in stored',
        "grid: weights of two types count as the finer one",
        ("test_update_grid.py",),
    ),
    Fault(
        "grid.py",
        "arithmetic(self._rounded(amplitude))",
        "arithmetic(amplitude)",
        "grid: a weight beside a midpoint of two 16-bit numbers keeps all rows apart",
        ("test_update_grid.py",),
    ),
    Fault(
        "learning_rates.py",
        "return max([largest, *(scheduled[name] for name in peaks if name in scheduled)])",
        "return largest",
        "grid: it grows coarser while a schedule decays",
        ("test_update_grid.py", "models/test_training_grid.py"),
    ),
    Fault(
        "entropy.py",
        "return math.fsum(parts) / num_rows",
        "return sum(parts) / num_rows",
        "entropy: the sum depends on the order of the bundles",
        ("test_entropy_identity.py", "test_distributed.py"),
    ),
    Fault(
        "entropy.py",
        "whole = [counts for counts in layers if not counts.num_nan_rows]",
        "whole = list(layers)",
        "entropy: a layer behind one with NaN gets the other's bundles",
        ("test_entropy_of_layers.py",),
    ),
    Fault(
        "arrays.py",
        "x.nbytes if x.is_contiguous() else",
        "x.nbytes if True else",
        "arrays: a tensor with gaps is read behind the end of its memory",
        ("test_torch_inputs.py",),
    ),
    Fault(
        "result.py",
        '"entropy": None if self.entropy != self.entropy else self.entropy,',
        '"entropy": self.entropy,',
        "result: NaN gets into JSON",
        ("findings/test_layer_report.py", "commands/test_command_line.py"),
    ),
    Fault(
        "arrays.py",
        "if not kind.isnative:",
        "if False:",
        "arrays: bytes in foreign order are read as they lie",
        ("test_refusals.py",),
    ),
    Fault(
        "arrays.py",
        "    if x.is_neg():\n        x = x.resolve_neg()\n",
        "",
        "arrays: torch's lazy minus sign is not seen",
        ("test_torch_inputs.py",),
    ),
    # --- streams and ranks
    Fault(
        "held_rows.py",
        '"_num_nan_rows": self._num_nan_rows + num_nan_rows}',
        '"_num_nan_rows": num_nan_rows}',
        "streaming: only the last batch's NaN rows count",
        ("test_streaming.py",),
    ),
    Fault(
        "arrays.py",
        "self.__array_interface__, self.owner = interface, owner",
        "self.__array_interface__, self.owner = interface, None",
        "arrays: a look at memory does not keep its owner",
        ("test_streaming.py",),
    ),
    Fault(
        "held_rows.py",
        "        after._num_nan_rows += other._num_nan_rows\n",
        "",
        "streaming: merge forgets the other's NaN rows",
        ("test_streaming.py",),
    ),
    Fault(
        "gpu_row_store.py",
        "return min(_LARGEST_BLOCK_ROWS, max(64, num_rows // 2))",
        "return max(64, num_rows)",
        "row store of a GPU: as much memory unused as used",
        ("test_gpu_streaming.py",),
    ),
    Fault(
        "row_store.py",
        "            after._batches = (_joined(after._batches),)",
        "            pass",
        "row store: a batch of one row is kept as two arrays for ever",
        ("test_streaming.py",),
    ),
    Fault(
        "held_rows.py",
        "np.array(label_values, np.int64)",
        "np.asarray(label_values, np.int64)",
        "streaming: labels are not copied",
        ("test_streaming.py",),
    ),
    Fault(
        "tallies.py",
        "ascending = np.lexsort((label_counts, ids[kept]))",
        'ascending = np.argsort(ids[kept], kind="stable")',
        "ranks: counts of a bundle come in the order of arrival, so the last bits of the entropy do, too",
        ("test_distributed.py",),
    ),
    Fault(
        "tallies.py",
        'total["num_bundles"] += total["num_nan_rows"]',
        "pass",
        "ranks: NaN rows are no bundles",
        ("test_distributed.py",),
    ),
    # --- looking at a model
    Fault(
        "models/monitor.py",
        "            if dtype is None:\n                self.history.append(report)",
        "            if True:\n                self.history.append(report)",
        "monitor: a what-if question gets into the history",
        ("models/test_monitor.py",),
    ),
    Fault(
        "models/probe.py",
        "return rows if mask is None else rows.masked_fill(~mask[..., None], 0)",
        "return rows",
        "probe: padding decides whether rows are equal",
        ("models/test_monitor.py",),
    ),
    Fault(
        "models/layer_selection.py",
        "        end = min(end, with_weights[-1])\n",
        "        pass\n",
        "layer selection: the logits count as hidden",
        ("models/test_layer_selection.py",),
    ),
    # --- changing a model
    Fault(
        "surgery/surgery.py",
        "                block.train(parent.training)\n",
        "                pass\n",
        "surgery: a block comes back in the mode it left in",
        ("surgery/test_surgery.py",),
    ),
    Fault(
        "surgery/optimizer.py",
        '            getattr(layer, "state", {}).pop(p, None)\n',
        "            pass\n",
        "optimizer: the state of dropped parameters stays",
        ("surgery/test_surgery.py",),
    ),
    Fault(
        "surgery/pruning/prune_blocks.py",
        "healed >= self.log.limit - _ROUNDING",
        "healed > self.log.limit",
        "removal: a block goes only when the accuracy is above the limit",
        ("training/procedures/test_remove.py",),
    ),
    # --- training
    Fault(
        "training/policies.py",
        "rows[-1] >= least and behind >= least",
        "rows[-1] > least and behind > least",
        "auto-tune: the noise floor itself is taken for noise",
        ("training/test_shrinking.py",),
    ),
    Fault(
        "training/policies.py",
        "blamed, most = [], rows[0]",
        "blamed, most = [], 0",
        "auto-tune: blocks are blamed for what is tied behind the first one",
        ("training/test_shrinking.py",),
    ),
    Fault(
        "training/procedures/autotune.py",
        'score < self.best["score"]',
        'score <= self.best["score"]',
        "auto-tune: of networks that are as good the larger one is kept",
        ("training/procedures/test_autotune.py",),
    ),
    Fault(
        "files/checkpoints.py",
        "content.detach().cpu().clone().contiguous()",
        "content.detach().cpu().contiguous()",
        "checkpoints: tensors that share memory are refused",
        ("files/test_checkpoints.py",),
    ),
    Fault(
        "runs/log.py",
        "    return lines[:count]\n",
        "    return lines\n",
        "run log: a resumed run keeps lines behind its checkpoint",
        ("files/test_checkpoints.py", "training/procedures/test_train.py"),
    ),
    Fault(
        "files/whole_files.py",
        "        aside.unlink(missing_ok=True)\n",
        "        pass\n",
        "files: one that could not be written is left beside its target",
        (
            "hostile/test_kills.py",
            "findings/test_layer_report.py",
            "commands/test_command_line.py",
            "training/procedures/test_train.py",
        ),
    ),
    Fault(
        "files/whole_files.py",
        "            _sync_file(aside)\n",
        "            pass\n",
        "files: one is renamed before it is on the disk",
        ("files/test_whole_files.py",),
    ),
    Fault(
        "runs/stored_runs.py",
        "    with held(path):\n        is_there = ",
        "    if True:\n        is_there = ",
        "run folders: two processes write one",
        ("runs/test_folders_written.py",),
    ),
    Fault(
        "training/loop/lookahead.py",
        "        self.steps_taken = steps_taken\n",
        "",
        "lookahead: a resumed run synchronises at other steps",
        ("training/loop/test_lookahead.py",),
    ),
    Fault(
        "filters/ranking.py",
        "ranked = [(score, place[name], index, name)",
        "ranked = [(score, name, index, name)",
        "RePr: among equal filters the name of the layer decides",
        ("filters/test_criteria.py",),
    ),
    Fault(
        "training/data/data_sets.py",
        "order = np.lexsort((random.permutation(len(labels)), place))",
        "order = np.lexsort((labels, place))",
        "data sets: a subset prefers the classes with low numbers",
        ("training/data/test_data_sets.py",),
    ),
    Fault(
        "training/data/data_sets.py",
        "members = random.permutation(np.flatnonzero(labels == label))",
        "members = np.flatnonzero(labels == label)",
        "data sets: the seed does not choose what is tested on",
        ("training/data/test_data_sets.py", "test_digits.py"),
    ),
    # --- what is told
    Fault(
        "findings/tables.py",
        "is_marked = result.num_conflicting or result.num_nan_rows",
        "is_marked = result.num_conflicting",
        "report tables: a diverged layer looks healthy in a notebook",
        ("findings/test_layer_report.py",),
    ),
    Fault(
        "findings/history.py",
        "math.fsum(entropy[row, measured[row]].tolist()) / int(measured[row].sum())",
        "math.fsum(entropy[row, measured[row]].tolist()) / measured.shape[1]",
        "history: steps at which a layer was not measured count as 0",
        ("findings/test_history.py",),
    ),
    Fault(
        "commands/measure.py",
        "if not result.entropy <= threshold]",
        "if result.entropy > threshold]",
        "command line: NaN passes --fail-above",
        ("commands/test_command_line.py",),
    ),
    Fault(
        "command_line.py",
        "        self.exit(EXIT_ERROR, f",
        "        self.exit(2, f",
        "command line: wrong usage looks like a layer above --fail-above",
        ("commands/test_command_line.py",),
    ),
    # --- integrations
    Fault(
        "integrations/torchmetrics.py",
        "        self._stream.merge(batch)\n        self._update_count += 1\n        self._computed = None\n",
        "        self._stream.merge(batch)\n        self._update_count += 1\n",
        "torchmetrics: compute answers with the value before the last batch",
        ("integrations/test_torchmetrics.py",),
    ),
    Fault(
        "integrations/transformers.py",
        "int(of_rank * args.gradient_accumulation_steps * args.world_size)",
        "int(of_rank * args.world_size)",
        "transformers: accumulated batches do not count for the grid",
        ("integrations/test_transformers.py",),
    ),
    Fault(
        "integrations/training_monitor.py",
        "        self._grid.see(optimizer)\n",
        "        pass\n",
        "training monitor: the peak is that of the measured steps only, not of all updates",
        ("integrations/test_lightning.py",),
    ),
]
