"""Bundle entropy where people already work; each module is imported when asked for, and so is its package.

``torchmetrics.py``, ``lightning.py``, ``transformers.py``, ``tensorboard.py``, ``tracking.py`` (any other tracker),
``zero_cost.py``. Examples: ``docs/integrations.md``.
"""

from __future__ import annotations

import importlib
from typing import Any


def require_package(package: str, what: str, install: str | None = None) -> Any:
    """Import a package that only an integration needs.

    Args:
        package: name of the module, e.g. "lightning.pytorch".
        what: what needs it, for the error.
        install: what to hand to pip; None is the first part of ``package``.

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
        return importlib.import_module(package)
    except ImportError as error:
        reason = f"{what} needs {root}: pip install {install or root} ({error})"
        raise ModuleNotFoundError(reason, name=error.name or root) from None
