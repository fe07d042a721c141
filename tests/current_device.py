"""Every call of a compiled CUDA module leaves the caller's device the current one, also when it raises."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any


def watch(functions: types.ModuleType, current_device: Callable[[], int]) -> Callable[[], None]:
    """Put an assertion around every function of the module; what is returned takes them away again."""
    originals = {name: call for name, call in vars(functions).items() if isinstance(call, types.BuiltinFunctionType)}
    assert originals, f"{functions.__name__} has no compiled functions"
    for name, call in originals.items():
        setattr(functions, name, _watched(name, call, current_device))

    def restore() -> None:
        for name, call in originals.items():
            setattr(functions, name, call)

    return restore


def _watched(name: str, call: Callable[..., Any], current_device: Callable[[], int]) -> Callable[..., Any]:
    @functools.wraps(call)
    def watched(*arguments: Any, **options: Any) -> Any:
        before = current_device()
        try:
            return call(*arguments, **options)
        finally:
            after = current_device()
            assert after == before, f"{name} left device {after} the current one; it was {before}"

    return watched
