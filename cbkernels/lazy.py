"""What is imported when it is asked for: names of a package (PEP 562), and packages that not everybody needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def attributes(
    package: str, names_in: Mapping[str, Sequence[str]], without_torch: str = "{} needs torch: pip install torch"
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__`` and ``__dir__``; ``if TYPE_CHECKING`` it imports the same names for mypy and editors.

    Args:
        package: its ``__name__``.
        names_in: module, seen from the package -> names that it holds; "": the package's own modules.
        without_torch: what is said where the module of {} cannot be imported without torch.

    Raises:
        ImportError: from the first function; torch is missing.
    """

    where = {name: module for module, names in names_in.items() for name in names}

    def of_name(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = import_module(where[name] or f".{name}", package)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(without_torch.format(name)) from None
        value = getattr(module, name) if where[name] else module
        setattr(sys.modules[package], name, value)  # from now on Python finds it by itself
        return value

    def public() -> list[str]:
        return sorted({*(name for name in vars(sys.modules[package]) if name.startswith("__")), *where})

    return of_name, public


def require_package(package: str, what: str) -> Any:
    """Import a package that only an integration needs.

    Args:
        package: name of the module, e.g. "lightning.pytorch".
        what: what needs it, for the error.

    Raises:
        ModuleNotFoundError: one sentence that says what to install, and why the import failed.

    Example:
        >>> require_package("no_such_package", "the example")
        Traceback (most recent call last):
        ModuleNotFoundError: the example needs no_such_package: pip install no_such_package (No module named \
'no_such_package')
    """
    root = package.partition(".")[0]
    try:
        return import_module(package)
    except ImportError as error:
        reason = f"{what} needs {root}: pip install {root} ({error})"
        raise ModuleNotFoundError(reason, name=error.name or root) from None
