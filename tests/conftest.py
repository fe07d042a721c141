"""Backends and instruction sets as fixtures; the last lines of a run say which of them were tested.

Under pytest-xdist a file is run by one worker, and so are all tests of one ``xdist_group``; what the workers tested is
added up. Plain pytest needs neither xdist nor its markers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cbkernels import _core, backends

from . import emulation, sample_runs

_INFO = _core.build_info()
_INSTRUCTION_SETS = ("portable", "avx2", "avx512", "neon")
_NO_GPU = _core.cuda.missing_reason()
_emulated, _not_emulated = emulation.load()
if _emulated is not None:
    backends.TABLE[emulation.NAME] = backends.Cuda(emulation.NAME, _emulated.cuda)
_BACKENDS = list(dict.fromkeys([*backends.TABLE, emulation.NAME]))
_MISSING = {
    **({"cuda": _NO_GPU} if _NO_GPU else {}),
    **({} if _emulated else {emulation.NAME: _not_emulated}),
    **{
        name: "not in this build or not on this processor"
        for name in _INSTRUCTION_SETS
        if name not in _INFO["instruction_sets"]
    },
}
_HERE = [name for name in backends.TABLE if name not in _MISSING]
_TESTED: set[str] = set()
_LAUNCHES_OF_WORKERS: list[int] = []
_LEFT_OUT: set[str] = set()
"""Slow tests that ``-m "not slow"`` left out."""
_LONGEST_FIRST = (
    "test_torch_operators.py", "test_surgery.py", "test_random_against_reference.py", "test_train_with_repr.py",
    "test_repr.py", "test_remove.py", "test_files.py",
)  # fmt: skip
"""Files late in the alphabet; a worker that got one of them last would let the others wait."""
_TOO_LARGE_FOR_EMULATION = {
    "test_the_first_leader_wins_among_many": "the grid waits for itself 2,000 times",
    "test_many_random_rows_have_many_fingerprints": "200,000 rows",
}
"""Tests of every backend that would take the emulated one half a minute; test_emulation.py has smaller ones."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers here: a wheel's tests are run without pyproject.toml, and mostly without xdist."""
    config.addinivalue_line("markers", "slow: takes long and rarely finds anything; make test-all runs it")
    config.addinivalue_line("markers", "xdist_group(name): all tests of a group are run by one worker of pytest-xdist")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop what is too large for the emulated backend; with several workers begin with what takes longest."""

    def is_left_out(item: pytest.Item) -> bool:
        params = getattr(item, "callspec", None)
        is_large = getattr(item, "originalname", item.name) in _TOO_LARGE_FOR_EMULATION
        return is_large and params is not None and emulation.NAME in params.params.values()

    left_out = [item for item in items if is_left_out(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not is_left_out(item)]
    if hasattr(config, "workerinput"):
        order = {name: place for place, name in enumerate(_LONGEST_FIRST)}
        items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Remember which slow tests are not run."""
    _LEFT_OUT.update(item.nodeid for item in items if item.get_closest_marker("slow"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A whole file is the unit of work: its fixtures are made once, and the units are few."""
    from xdist.scheduler import LoadGroupScheduling

    class ByFileOrGroup(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if scope == nodeid else scope

    return ByFileOrGroup(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the controller what it has tested."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["cbkernels"] = [sorted(_TESTED), emulation.launches(), sorted(_LEFT_OUT)]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """The controller adds up what the workers have tested; one that crashed tells nothing."""
    tested, launches, left_out = getattr(node, "workeroutput", {}).get("cbkernels", [[], 0, []])
    _TESTED.update(tested)
    _LAUNCHES_OF_WORKERS.append(launches)
    _LEFT_OUT.update(left_out)


@pytest.fixture(scope="session", params=_HERE)
def backend(request: pytest.FixtureRequest) -> str:
    """Name of every backend in the table that this machine has."""
    _TESTED.add(request.param)
    return request.param


@pytest.fixture(scope="session", params=[name for name in _HERE if name != "reference"])
def compiled(request: pytest.FixtureRequest) -> str:
    """The same without the reference."""
    _TESTED.add(request.param)
    return request.param


@pytest.fixture(params=[name for name in _INSTRUCTION_SETS if name not in _MISSING])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set that this build and this processor have, in use; the best one afterwards."""
    _core.use_instruction_set(request.param)
    _TESTED.add(request.param)
    yield request.param
    _core.use_instruction_set("best")


@pytest.fixture
def routing_bits() -> Iterator[Callable[[int], None]]:
    """Sets how many bits are kept of every routing hash; all of them afterwards."""
    yield _core.use_routing_bits
    _core.use_routing_bits(64)


@pytest.fixture(params=[*_BACKENDS, *_INSTRUCTION_SETS])
def anything(request: pytest.FixtureRequest) -> str:
    """Every backend and instruction set there can be; skipped, loudly, where it is not."""
    if request.param in _MISSING:
        pytest.skip(f"{request.param}: NOT TESTED HERE ({_MISSING[request.param]})")
    return request.param


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """No test waits for the disk; ``files/test_whole_files.py`` tests what is synced when."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small run of every command and model, by the code as it is: name -> folder."""
    pytest.importorskip("torch", reason="fresh runs: NOT TESTED HERE (no torch)")
    pytest.importorskip("safetensors", reason="fresh runs: NOT TESTED HERE (no safetensors)")
    return sample_runs.make_runs(tmp_path_factory.mktemp("real"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was tested here, and what was not."""
    launches = emulation.launches() + sum(_LAUNCHES_OF_WORKERS)
    terminalreporter.section("cbkernels: tested here", sep="-")
    for kind, names in (("backend", _BACKENDS), ("instruction set", _INSTRUCTION_SETS)):
        for name in names:
            reason = _MISSING.get(name, "no test of it was selected")
            state = "tested" if name in _TESTED else f"NOT TESTED HERE ({reason})"
            if name == emulation.NAME and launches:
                state = f"tested, {launches} kernel launches emulated"
            terminalreporter.line(f"{kind} {name}: {state}")
    if _LEFT_OUT:
        terminalreporter.line(f"slow tests: {len(_LEFT_OUT)} NOT RUN HERE (make test-all runs them)")
