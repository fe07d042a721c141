"""Every promise, on every model of the zoo: no trace, blocks as named by hand, removal, refusals, undo, fresh process.

The models of ``in_sample`` are tested always, all of them by ``make test-all``. A library that is not here is said.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the zoo: NOT TESTED HERE (no torch)")

from . import document  # noqa: E402
from .catalogue import CATALOGUE  # noqa: E402
from .deviations import DEVIATIONS  # noqa: E402
from .entries import Entry  # noqa: E402
from .fresh import FreshProcess  # noqa: E402
from .libraries import missing  # noqa: E402
from .promises import FRESH_PROCESS, PROMISES, promised  # noqa: E402

CASES = [
    pytest.param(entry, promise, id=f"{entry.name}-{promise}", marks=[] if entry.in_sample else [pytest.mark.slow])
    for entry in CATALOGUE.values()
    for promise in promised(entry)
]

LINES = [
    pytest.param(entry, id=entry.name, marks=[] if entry.in_sample else [pytest.mark.slow])
    for entry in CATALOGUE.values()
]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> FreshProcess:
    """All models that are tested here, saved and loaded again by one fresh process."""
    cases = [item.callspec.params for item in request.session.items if _is_case(item)]  # type: ignore[attr-defined]
    wanted = {case["entry"].name: case["entry"] for case in cases if case["promise"] == FRESH_PROCESS}
    entries = {name: entry for name, entry in wanted.items() if missing(entry.library) is None}
    return FreshProcess(list(entries.values()), tmp_path_factory.mktemp("zoo"))


def _is_case(item: pytest.Item) -> bool:
    return item.path == Path(__file__) and "promise" in getattr(getattr(item, "callspec", None), "params", {})


def require_library(entry: Entry) -> None:
    reason = missing(entry.library)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize(("entry", "promise"), CASES)
@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_a_promise_is_kept(entry: Entry, promise: str, request: pytest.FixtureRequest) -> None:
    require_library(entry)
    deviation = DEVIATIONS.get((entry.name, promise))
    said = ""
    try:
        if promise in PROMISES:
            PROMISES[promise](entry)
        else:
            request.getfixturevalue("fresh").require_same(entry)
    except Exception as error:
        if deviation is None:
            raise
        said = f"{type(error).__name__}: {error}"
    if deviation is not None:
        assert said, f"the promise is kept, take the line out of DEVIATIONS: {deviation[1]}"
        assert re.search(deviation[0], said), f"not what DEVIATIONS says: {said}"


def test_every_deviation_is_of_an_entry() -> None:
    assert not [key for key in DEVIATIONS if key[0] not in CATALOGUE or key[1] not in promised(CATALOGUE[key[0]])]


@pytest.mark.parametrize("entry", LINES)
@pytest.mark.filterwarnings("ignore")
def test_the_line_in_the_documents_is_what_is_found(entry: Entry) -> None:
    require_library(entry)
    assert document.rows().get(entry.name) == document.row(entry), "make models writes docs/models.md anew"


def test_the_documents_have_every_model_once_and_no_other() -> None:
    assert list(document.rows()) == list(CATALOGUE)
