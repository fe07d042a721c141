"""Many cases in one test: all are tried, and all that fail are listed. For cases that protect nothing alone.

with all_of("cases") as case:
    for number in range(3):
        with case(number):
            assert number < 3
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

Case = Callable[..., AbstractContextManager[None]]
"""Takes what the case is called; fails later, with the others."""
MOST_SHOWN = 20


@contextmanager
def all_of(what: str) -> Iterator[Case]:
    """Collect the failures of every ``with case(...)`` inside; fail at the end if there are any, or no case at all."""
    failures: list[str] = []
    tried = 0

    @contextmanager
    def case(*names: object) -> Iterator[None]:
        nonlocal tried
        tried += 1
        try:
            yield
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            failures.append(f"{', '.join(map(str, names))} ({Path(at.filename).name}:{at.lineno}): {said}")

    yield case
    assert tried, f"there are no {what}"
    if failures:
        more = [f"and {len(failures) - MOST_SHOWN} more"] if len(failures) > MOST_SHOWN else []
        raise AssertionError("\n".join([f"{len(failures)} of {tried} {what} fail:", *failures[:MOST_SHOWN], *more]))
