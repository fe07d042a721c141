"""The command line: numbers as from the library, one sentence for everything it refuses, pure JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cbkernels
from cbkernels import backends
from cbkernels.command_line import main
from cbkernels.commands import autotune, measure, sizes, train
from cbkernels.files import array_files

GRID = ["--learning-rate", "1e-3", "--batch-size", "50", "--weight-amplitude", "0.7"]


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cbkernels", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with acts.npy (40, 3, 2) of eight different rows and labels.npy (40,)."""
    monkeypatch.chdir(tmp_path)
    random = np.random.RandomState(0)
    np.save("acts.npy", random.randn(8, 3, 2).astype(np.float32)[random.randint(0, 8, 40)])
    np.save("labels.npy", random.randint(0, 3, 40))
    return tmp_path


def measured(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """The layers that ``measure --json`` prints; everything else must have gone well."""
    capsys.readouterr()
    assert main(["measure", *arguments, "--json"]) == 0
    layers: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["layers"]
    return layers


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one sentence of an error; checks the exit code and that nothing else was printed."""
    capsys.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as stopped:
        code = stopped.code
    assert code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("cbkernels: error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


def expected(acts: Any, labels: Any, **options: Any) -> dict[str, Any]:
    return cbkernels.bundle_entropy(acts, labels, **options).to_dict()


# --- start and help ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["info"], ["measure"], ["demo"]], ids=" ".join)
def test_help_imports_neither_torch_nor_matplotlib(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom cbkernels.command_line import main\n"
        f"try:\n    main({[*arguments, '--help']!r})\nexcept SystemExit as stopped:\n    assert stopped.code == 0\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'tqdm'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: cbkernels")
    assert "exit codes: 0" in done.stdout


def test_version() -> None:
    done = run_command("--version")
    assert (done.returncode, done.stdout) == (0, f"cbkernels {cbkernels.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["frobnicate"], "'frobnicate'"),
        (["measure", "acts.npy"], "LABELS"),
        (["measure", "acts.npy", "labels.npy", "--no-such-option"], "--no-such-option"),
        (["measure", "acts.npy", "labels.npy", "--learning-rate", "fast"], "'fast'"),
        (["measure", "acts.npy", "labels.npy", "--fail-above", "-1"], "'-1'"),
        (["measure", "acts.npy", "labels.npy", "--fail-above", "nan"], "'nan'"),
        (["measure", "acts.npy", "labels.npy", "--chunk-rows", "0"], "'0'"),
        (["measure", "acts.npy", "labels.npy", "--exact-up-to", "3 apples"], "'3 apples'"),
        (["demo", "--epochs", "some"], "'some'"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in refusal(capsys, *arguments)


# --- info -------------------------------------------------------------------------------------------------


def test_info_says_what_is_missing_and_how_to_rebuild(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    build = cbkernels._core.build_info()
    assert facts["version"] == cbkernels.__version__
    assert list(facts["backends"]) == list(backends.TABLE)
    assert facts["backends"]["cpu"] is None
    assert facts["backends"]["cuda"] == (cbkernels._core.cuda.missing_reason() or None)
    assert facts["cuda"] == {"compiled_in": build["cuda"], "architectures": build["cuda_architectures"]}
    assert facts["instruction_set"] in facts["instruction_sets"]
    assert facts["threads"] == backends.num_threads()
    assert any("CBKERNELS_CUDA=ON" in command for command in facts["rebuild"].values())
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for value in (facts["version"], facts["compiler"], facts["flags"], facts["numpy"], "CBKERNELS_CUDA=ON"):
        assert str(value) in text
    assert all(f"{command} in the source folder, with" in text for command in facts["rebuild"].values())


@pytest.mark.parametrize("compiled_in", [True, False])
@pytest.mark.parametrize("reason", ["", "there is no driver"])
def test_info_says_in_one_line_whether_a_gpu_can_be_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, compiled_in: bool, reason: str
) -> None:
    class Functions:
        def require(self) -> None:
            if reason:
                raise ValueError(reason)

    build = {**cbkernels._core.build_info(), "cuda": compiled_in, "cuda_architectures": "80;90" if compiled_in else ""}
    monkeypatch.setattr(cbkernels._core, "build_info", lambda: build)
    monkeypatch.setitem(backends.TABLE, "cuda", backends.Cuda("cuda", Functions()))
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["backends"]["cuda"] == (reason or None)
    assert facts["cuda"] == {"compiled_in": compiled_in, "architectures": build["cuda_architectures"]}
    assert main(["info"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("backend cuda ")]
    state = f"missing: {reason}" if reason else "ready"
    compiled = " (compiled in for 80;90)" if compiled_in else ""
    assert line.removeprefix("backend cuda").strip() == state + compiled


def test_info_names_torch_without_importing_it() -> None:
    code = (
        "import sys\nfrom cbkernels.installation import installation\ntorch = installation()['torch']\n"
        "assert 'torch' not in sys.modules\nprint(torch)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    try:
        import torch
    except ImportError:
        assert done.stdout == "None\n"
    else:
        assert done.stdout.strip() == torch.__version__


# --- measure: numbers -------------------------------------------------------------------------------------


def test_measures_npy_as_the_library_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acts, labels = np.load("acts.npy"), np.load("labels.npy")
    (layer,) = measured(capsys, "acts.npy", "labels.npy")
    assert layer == {"layer": "acts", **expected(acts, labels)}
    assert layer["num_bundles"] == len(np.unique(acts.reshape(40, 6), axis=0))
    (layer,) = measured(capsys, "acts.npy", "labels.npy", *GRID, "--grid-dtype", "bfloat16", "--log-epsilon", "1e-5")
    grid = cbkernels.UpdateGrid(1e-3, 50, 0.7, dtype="bfloat16")
    assert layer == {"layer": "acts", **expected(acts, labels, grid=grid, log_epsilon=1e-5)}
    (layer,) = measured(capsys, "acts.npy", "labels.npy", "--tolerance", "0.5", "0.5")
    assert layer == {"layer": "acts", **expected(acts, labels, tolerance=(0.5, 0.5))}


def test_table_has_the_numbers_and_the_definition_of_equal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "acts.npy", "labels.npy", *GRID, "--margin"]) == 0
    header, row, definition = capsys.readouterr().out.splitlines()
    grid = cbkernels.UpdateGrid(1e-3, 50, 0.7)
    acts, labels = np.load("acts.npy"), np.load("labels.npy")
    result = cbkernels.bundle_entropy(acts, labels, grid=grid)
    margin = cbkernels.conflict_margin(acts, labels)
    titles = "layer  rows  columns  bundles  conflicting  NaN rows  entropy (nats)  compared  margin  bits"
    assert header.split() == titles.split()
    assert row.split() == [
        "acts", "40", "6", str(result.num_bundles), str(result.num_conflicting), "0", f"{result.entropy:.6g}",
        "exact", f"{margin:.6g}", f"{grid.bits(margin):.2f}",
    ]  # fmt: skip
    assert result.equality in definition


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", ["1", "7", "40", "1000"])
def test_pieces_give_what_one_call_gives(
    folder: Path, capsys: pytest.CaptureFixture[str], rows: str, order: str
) -> None:
    acts = np.load("acts.npy").copy()
    acts[5] = np.nan
    acts[6, 0, 0] = -0.0
    np.save("acts.npy", np.array(acts, order=order))  # type: ignore[call-overload]
    np.savez("acts.npz", layer=np.array(acts, order=order))  # type: ignore[call-overload]
    np.savez_compressed("small.npz", layer=acts)
    for source in ("acts.npy", "acts.npz", "small.npz"):
        for options in ([], GRID):
            (whole,) = measured(capsys, source, "labels.npy", *options)
            (pieces,) = measured(capsys, source, "labels.npy", "--chunk-rows", rows, *options)
            assert (whole.pop("exact"), pieces.pop("exact")) == (True, False)
            assert whole == pieces
            assert whole["num_nan_rows"] == 1


def test_large_arrays_are_streamed_and_the_table_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = np.load("acts.npy").nbytes
    assert measured(capsys, "acts.npy", "labels.npy", "--exact-up-to", str(size))[0]["exact"] is True
    assert measured(capsys, "acts.npy", "labels.npy", "--exact-up-to", str(size - 1))[0]["exact"] is False
    assert measured(capsys, "acts.npy", "labels.npy", "--stream")[0]["exact"] is False
    assert main(["measure", "acts.npy", "labels.npy", "--stream"]) == 0
    printed = capsys.readouterr()
    assert "fingerprints" in printed.out.splitlines()[1]
    assert "probabilistic" in printed.out.splitlines()[-1]
    assert printed.err == ""


def test_streaming_reads_pieces_of_bounded_size(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    update = cbkernels.BundleEntropy.update

    def watched(metric: cbkernels.BundleEntropy, acts: Any, labels: Any) -> None:
        sizes.append(len(acts))
        update(metric, acts, labels)

    monkeypatch.setattr(cbkernels.BundleEntropy, "update", watched)
    monkeypatch.setattr(measure, "PIECE_BYTES", 10 * 24)
    measured(capsys, "acts.npy", "labels.npy", "--stream")
    assert sizes == [10, 10, 10, 10]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory: NOT TESTED HERE (/proc is Linux's)")
def test_streaming_a_large_file_takes_little_memory(folder: Path) -> None:
    rows, columns = 1_000_000, 128
    with Path("large.npy").open("wb") as file:  # a sparse file of 512 MB
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * columns * 4)
    np.save("many.npy", np.zeros(rows, np.int8))
    code = (
        "from cbkernels.command_line import main\n"
        "assert main(['measure', 'large.npy', 'many.npy', '--stream', '--json']) == 0\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM:')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    *outcome, peak = done.stdout.splitlines()
    assert json.loads("\n".join(outcome))["layers"][0]["num_bundles"] == 1
    # two pieces of 64 MiB, 24 bytes a row, the interpreter; mapping all of it at once takes 600 MB
    assert int(peak) < 300 * 1024


def test_npz_every_array_of_the_right_length_is_a_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acts, labels = np.load("acts.npy"), np.load("labels.npy")
    np.savez("run.npz", conv=acts, fc=acts[:, 0] > 0, weights=np.zeros((3, 3)), y=labels)
    layers = measured(capsys, "run.npz", "run.npz:y")
    assert layers == [
        {"layer": "conv", **expected(acts, labels)},
        {"layer": "fc", **expected(acts[:, 0] > 0, labels)},
    ]
    assert main(["measure", "run.npz", "run.npz:y"]) == 0
    assert "skipped 'weights'" in capsys.readouterr().err
    assert measured(capsys, "run.npz:fc", "labels.npy") == layers[1:]


def test_safetensors_agrees_with_the_package(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = pytest.importorskip("safetensors.numpy", reason="safetensors: NOT TESTED HERE")
    acts, labels = np.load("acts.npy"), np.load("labels.npy")
    tensors = {
        "a.weight": acts, "half": acts.astype(np.float16), "double": acts.astype(np.float64) * 3,
        "int": (acts * 9).astype(np.int16), "flag": acts > 0, "empty": np.empty((40, 0), np.float32), "y": labels,
    }  # fmt: skip
    package.save_file(tensors, "run.safetensors", metadata={"made": "here"})
    found = {layer["layer"]: layer for layer in measured(capsys, "run.safetensors", "run.safetensors:y")}
    assert set(found) == set(tensors) - {"y"}
    for name, layer in found.items():
        assert layer == {"layer": name, **expected(tensors[name], labels)}
    for array in array_files.open_arrays("run.safetensors"):
        assert (array.read() == package.load_file("run.safetensors")[array.name]).all()


@pytest.mark.parametrize("door", ["ml_dtypes", "torch"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_safetensors_of_small_floats(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dtype: str, door: str
) -> None:
    torch = pytest.importorskip("torch", reason="bfloat16 and float8 files: NOT TESTED HERE")
    package = pytest.importorskip("safetensors.torch", reason="bfloat16 and float8 files: NOT TESTED HERE")
    pytest.importorskip(door, reason=f"{dtype} through {door}: NOT TESTED HERE")
    if door == "torch":
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    acts, labels = torch.from_numpy(np.load("acts.npy")).to(getattr(torch, dtype)), np.load("labels.npy")
    package.save_file({"layer": acts}, "acts.safetensors")
    (layer,) = measured(capsys, "acts.safetensors", "labels.npy", *GRID)
    grid = cbkernels.UpdateGrid(1e-3, 50, 0.7)
    assert layer == {"layer": "layer", **expected(acts, torch.from_numpy(labels), grid=grid)}
    assert layer["dtype"] == dtype
    (pieces,) = measured(capsys, "acts.safetensors", "labels.npy", *GRID, "--chunk-rows", "7")
    assert {**pieces, "exact": True} == layer


def test_small_floats_without_a_package_for_them(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_safetensors("bf16.safetensors", {"a": {"dtype": "BF16", "shape": [40, 1], "data_offsets": [0, 80]}}, 80)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install ml_dtypes" in refusal(capsys, "measure", "bf16.safetensors", "labels.npy")


def test_safetensors_at_an_odd_address(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acts = np.load("acts.npy")
    content = b"!" + acts.tobytes()
    entry = {"dtype": "F32", "shape": [40, 3, 2], "data_offsets": [1, len(content)]}
    for spaces in range(4):
        header = json.dumps({"layer": entry}).encode() + b" " * spaces
        Path("odd.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content)
        (array,) = array_files.open_arrays("odd.safetensors")
        assert array.read().flags.aligned
        assert (array.read() == acts).all()


def test_margin(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("acts.npy", np.array([[0.0, 1.0], [0.25, 1.5], [9.0, 9.0]]))
    np.save("labels.npy", np.array([0, 1, 0]))
    (layer,) = measured(capsys, "acts.npy", "labels.npy", "--margin", *GRID)
    assert layer["conflict_margin"] == 0.5
    assert layer["margin_bits"] == pytest.approx(math.log2(0.5 / cbkernels.UpdateGrid(1e-3, 50, 0.7).step()))
    np.save("labels.npy", np.array([4, 4, 4]))
    (layer,) = measured(capsys, "acts.npy", "labels.npy", "--margin")
    assert layer["conflict_margin"] is None
    assert layer["margin_bits"] is None


# --- measure: --fail-above --------------------------------------------------------------------------------


def test_fail_above_is_exit_code_2_and_names_the_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.array([0, 1] * 20)
    pure, mixed = np.arange(40.0).reshape(40, 1), np.zeros((40, 2))
    np.savez("run.npz", pure=pure, mixed=mixed)
    np.save("labels.npy", labels)
    assert main(["measure", "run.npz", "labels.npy", "--fail-above", "0.69"]) == 2
    printed = capsys.readouterr()
    assert "'mixed' (0.693147)" in printed.err
    assert "pure" not in printed.err
    assert printed.err.count("\n") == 1
    assert main(["measure", "run.npz", "labels.npy", "--fail-above", "0.7"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["measure", "run.npz:pure", "labels.npy", "--fail-above", "0"]) == 0


def test_fail_above_takes_nan_for_a_failure(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("acts.npy", np.array([[1.0], [np.nan]]))
    np.save("labels.npy", np.array([0, 1]))
    assert main(["measure", "acts.npy", "labels.npy", "--fail-above", "100", "--json"]) == 2
    printed = capsys.readouterr()
    assert "'acts' (NaN)" in printed.err
    outcome = json.loads(printed.out)
    assert outcome["above"] == ["acts"]
    assert outcome["layers"][0]["entropy"] is None
    done = run_command("measure", "acts.npy", "labels.npy", "--fail-above", "100", cwd=folder)
    assert done.returncode == 2
    assert "NaN" in done.stdout


# --- measure: refusals ------------------------------------------------------------------------------------


def save(name: str, array: Any) -> None:
    np.save(name, array)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda: save("acts.npy", np.float32(3)), ["shape ()"]),
        (lambda: save("acts.npy", np.empty((0, 3))), ["shape (0, 3)", "at least one row"]),
        (lambda: save("labels.npy", np.zeros(39, int)), ["39", "40", "agree"]),
        (lambda: save("labels.npy", np.zeros(40)), ["float64", "integers"]),
        (lambda: save("labels.npy", np.zeros((40, 1), int)), ["(40, 1)", "one label per row"]),
        (lambda: save("acts.npy", np.zeros((40, 2), complex)), ["complex128"]),
        (lambda: save("acts.npy", np.full((40, 2), "a")), ["str"]),
        (lambda: save("acts.npy", np.zeros((40, 2), ">f4")), [">f4", "byte order"]),
        (lambda: save("acts.npy", np.zeros((40, 2), "V2")), ["void16", ".safetensors"]),
    ],
    ids=["0-d", "no rows", "label length", "float labels", "label rank", "complex", "strings", "big endian", "void"],
)
@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["at once", "streamed"])
def test_refuses_arrays(
    folder: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[], None], words: list[str], stream: list[str]
) -> None:
    damage()
    sentence = refusal(capsys, "measure", "acts.npy", "labels.npy", *stream)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--learning-rate", "0", "--batch-size", "64", "--weight-amplitude", "1"], ["--learning-rate is 0.0"]),
        (["--learning-rate", "inf", "--batch-size", "64", "--weight-amplitude", "1"], ["--learning-rate is inf"]),
        (["--learning-rate", "1", "--batch-size", "-2", "--weight-amplitude", "1"], ["--batch-size is -2.0"]),
        (["--learning-rate", "1", "--batch-size", "2", "--weight-amplitude", "nan"], ["--weight-amplitude is nan"]),
        ([*GRID, "--grid-dtype", "float9"], ["'float9'"]),
        (["--grid-dtype", "float32"], ["--grid-dtype", "--learning-rate"]),
        (["--learning-rate", "1"], ["--batch-size and --weight-amplitude missing"]),
        ([*GRID, "--tolerance", "0", "0"], ["--tolerance", "one of them"]),
        (["--tolerance", "0", "-1"], ["(0.0, -1.0)"]),
        (["--log-epsilon", "-1"], ["--log-epsilon is -1.0"]),
        (["--tolerance", "0", "0", "--stream"], ["--tolerance", "--stream"]),
        (["--margin", "--stream"], ["--margin", "--stream"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_refuses_options(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: list[str]
) -> None:
    sentence = refusal(capsys, "measure", "acts.npy", "labels.npy", *options)
    assert all(word in sentence for word in words), sentence


class Bomb:
    """Unpickling it makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("executed", "w"))


def damaged_files() -> dict[str, tuple[bytes, str]]:
    """Name -> (content, what the sentence must say)."""
    np.save("good.npy", np.zeros((40, 3)))
    np.savez("good.npz", a=np.zeros((40, 3)))
    npy, npz = Path("good.npy").read_bytes(), Path("good.npz").read_bytes()
    objects = np.array([Bomb()] * 40, object)
    np.save("objects.npy", objects, allow_pickle=True)
    np.savez("objects.npz", a=objects)
    huge = npy.replace(b"(40, 3)", b"(9" + b"0" * 14 + b",)")[: len(npy)]
    negative = npy.replace(b"(40, 3)", b"(-4, 3)")
    return {
        "objects.npy": (Path("objects.npy").read_bytes(), "pickled Python objects"),
        "objects.npz": (Path("objects.npz").read_bytes(), "pickled Python objects"),
        "pickle.npy": (pickle.dumps(Bomb()), "pickle, which is never loaded"),
        "empty.npy": (b"", "is empty"),
        "text.npy": (b"0.5 0.25 0.125\n" * 9, "not a NumPy array"),
        "version.npy": (npy[:6] + b"\x03\x00" + npy[8:], "version"),
        "header.npy": (npy[:30], "damaged or truncated"),
        "nonsense.npy": (npy[:10] + b"?" * 100 + npy[110:], "damaged or truncated"),
        "half.npy": (npy[: len(npy) // 2], "bytes are missing"),
        "huge.npy": (huge, "damaged or truncated"),
        "negative.npy": (negative, "damaged or truncated"),
        "empty.npz": (b"", "damaged or truncated"),
        "half.npz": (npz[: len(npz) // 2], "damaged or truncated"),
        "flipped.npz": (npz[:300] + bytes([npz[300] ^ 1]) + npz[301:], "damaged or truncated"),
        "empty.safetensors": (b"", "header is missing"),
        "text.safetensors": (b"hello world, hello", "header claims"),
        "list.safetensors": ((2).to_bytes(8, "little") + b"[]", "no JSON object"),
        "json.safetensors": ((2).to_bytes(8, "little") + b"{a", "damaged or truncated"),
        "none.safetensors": ((2).to_bytes(8, "little") + b"{}", "holds no tensor"),
        "pickle.safetensors": (pickle.dumps(Bomb()), "header claims"),
        "ending.txt": (npy, "does not end in .npy, .npz or .safetensors"),
    }


def test_refuses_damaged_files_and_never_executes_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, (content, words) in damaged_files().items():
        Path(name).write_bytes(content)
        for arguments in ((name, "labels.npy"), ("acts.npy", name), (name, "labels.npy", "--stream")):
            sentence = refusal(capsys, "measure", *arguments)
            assert words in sentence, sentence
            assert name in sentence
        assert not Path("executed").exists(), name


def test_a_file_that_turns_into_a_pickle_after_its_header_was_read_is_refused(folder: Path) -> None:
    np.savez("run.npz", a=np.zeros((40, 3)))
    (array,) = array_files.open_arrays("run.npz")
    np.savez("run.npz", a=np.array([Bomb()] * 40, object))
    with pytest.raises(ValueError, match=r"run\.npz"):
        array.read()
    assert not Path("executed").exists()


def write_safetensors(name: str, header: dict[str, Any], num_bytes: int) -> None:
    text = json.dumps(header).encode()
    Path(name).write_bytes(len(text).to_bytes(8, "little") + text + bytes(num_bytes))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [40, 2], "data_offsets": [0, 319]},
        {"dtype": "F32", "shape": [40, 2], "data_offsets": [4, 324]},
        {"dtype": "F32", "shape": [40, -2], "data_offsets": [0, 320]},
        {"dtype": "F32", "shape": [40, 2.0], "data_offsets": [0, 320]},
        {"dtype": "F32", "shape": [40, True], "data_offsets": [0, 160]},
        {"dtype": "F32", "shape": [40, 2], "data_offsets": [-320, 0]},
        {"dtype": "F32", "shape": [40, 2], "data_offsets": [0]},
        {"dtype": "F32", "shape": 40, "data_offsets": [0, 320]},
        {"dtype": ["F32"], "shape": [40, 2], "data_offsets": [0, 320]},
        {"shape": [40, 2], "data_offsets": [0, 320]},
        {"dtype": "F4", "shape": [40, 2], "data_offsets": [0, 40]},
        "a tensor",
    ],
    ids=str,
)
def test_refuses_safetensors_whose_header_lies(folder: Path, capsys: pytest.CaptureFixture[str], entry: Any) -> None:
    write_safetensors("lie.safetensors", {"layer": entry}, 320)
    assert "'layer'" in refusal(capsys, "measure", "lie.safetensors", "labels.npy")


def test_refuses_what_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("run.npz", conv=np.zeros((41, 2)), y=np.zeros(40, int))
    assert "gone.npy: No such file" in refusal(capsys, "measure", "gone.npy", "labels.npy")
    assert "gone.npy: No such file" in refusal(capsys, "measure", "acts.npy", "gone.npy")
    assert "has no array 'x'; it has 'conv', 'y'" in refusal(capsys, "measure", "run.npz:x", "labels.npy")
    assert "first axis is 40" in refusal(capsys, "measure", "run.npz", "run.npz:y")
    assert "choose one as run.npz:KEY" in refusal(capsys, "measure", "acts.npy", "run.npz")
    Path("folder.npy").mkdir()
    assert "folder.npy: Is a directory" in refusal(capsys, "measure", "folder.npy", "labels.npy")


@pytest.mark.parametrize("command", [measure, train, autotune], ids=lambda module: module.__name__.rpartition(".")[2])
def test_sizes_are_said_in_one_way(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parser, files = argparse.ArgumentParser(), ["a.npy", "b.npy"] if command is measure else []
    command.add_parser(parser.add_subparsers(dest="command"))
    name = command.__name__.rpartition(".")[2]
    for said, size in (("4000000", 4_000_000), ("2GiB", 2 << 30), ("1.5g", 1_500_000_000)):
        assert parser.parse_args([name, *files, "--unpack-up-to", said]).unpack_up_to == size
    assert "'2 blobs' is not a size like" in refusal(capsys, name, *files, "--unpack-up-to", "2 blobs")


def test_names_the_layer_that_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("run.npz", fine=np.zeros((40, 2)), odd=np.zeros((40, 2), complex))
    assert "layer 'odd': acts has dtype complex128" in refusal(capsys, "measure", "run.npz", "labels.npy")


def test_a_member_that_is_too_short_is_refused_while_streaming(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("good.npy", np.zeros((40, 3)))
    with zipfile.ZipFile("short.npz", "w") as archive:
        archive.writestr("a.npy", Path("good.npy").read_bytes()[:-8])
    for options in ([], ["--chunk-rows", "7"]):
        assert "short.npz is damaged" in refusal(capsys, "measure", "short.npz", "labels.npy", *options)


# --- the process ------------------------------------------------------------------------------------------


def test_json_is_pure_also_beside_messages(folder: Path) -> None:
    np.savez("run.npz", conv=np.load("acts.npy"), other=np.zeros(3), y=np.load("labels.npy"))
    done = run_command("measure", "run.npz", "run.npz:y", "--json", "--fail-above", "0", "--stream", cwd=folder)
    assert done.returncode == 2
    outcome = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [layer["layer"] for layer in outcome["layers"]] == ["conv"]
    assert "skipped 'other'" in done.stderr


def test_an_error_in_a_process_is_one_sentence(folder: Path) -> None:
    done = run_command("measure", "acts.npy", "gone.npy", "--json", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "cbkernels: error: gone.npy: No such file or directory\n"


def test_a_closed_pipe_is_quiet(folder: Path) -> None:
    # the reader is gone before the first byte
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "cbkernels", "info"], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_is_exit_code_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: Any) -> int:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not interrupted")

    monkeypatch.setattr("cbkernels.commands.info.run", interrupted)
    # a shell's background jobs, and so their Python, ignore the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["info"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr() == ("", "cbkernels: interrupted\n")


def test_sizes_are_read_as_they_are_written() -> None:
    for text, size in {"17": 17, "2G": 2 * 10**9, "512MiB": 512 << 20, "1.5 kib": 1536, "3kB": 3000}.items():
        assert sizes.num_bytes(text) == size


def test_choices_of_several_options_are_explained_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["remove", "--help"])
    assert capsys.readouterr().out.count("taylor: ") == 1
