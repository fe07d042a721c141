"""cbkernels: which layers of a neural network make samples indistinguishable.

    r = cbkernels.bundle_entropy(acts, labels)

Importing needs NumPy only. Start with ``bundle.py`` (one call), ``streaming.py`` (many batches),
``models/monitor.py`` (a model that trains) or ``surgery/surgery.py`` (removing what conflicts).
"""

from __future__ import annotations

try:
    from . import _core
except ImportError as error:
    import os

    raise ImportError(
        f"cbkernels in {os.path.dirname(__file__)} has no usable compiled module ({error}); "
        "run `pip install .` in the source folder and import it from another folder"
    ) from None

from ._version import __version__

if _core.version != __version__:
    raise ImportError(
        f"cbkernels is version {__version__} but its compiled module is {_core.version}; "
        "run `pip install .` in the source folder again"
    )

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import training
from .bundle import bundle_entropy, bundle_entropy_layers, bundle_rows, conflict_margin
from .findings.history import History
from .findings.layer_report import LayerReport
from .grid import UpdateGrid
from .result import BundleResult
from .streaming import BundleEntropy

if TYPE_CHECKING:
    from .models.monitor import LayerMonitor
    from .surgery.surgery import Surgery, remove_layers

_NEED_TORCH = {"LayerMonitor": ".models.monitor", "Surgery": ".surgery.surgery", "remove_layers": ".surgery.surgery"}
__all__ = [
    "BundleEntropy",
    "BundleResult",
    "History",
    "LayerMonitor",
    "LayerReport",
    "Surgery",
    "UpdateGrid",
    "__version__",
    "bundle_entropy",
    "bundle_entropy_layers",
    "bundle_rows",
    "conflict_margin",
    "remove_layers",
    "training",
]


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_NEED_TORCH[name], __name__), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"{name} needs torch: pip install torch") from None
