"""cbkernels: which layers of a neural network make samples indistinguishable.

    r = cbkernels.bundle_entropy(acts, labels)

Importing needs NumPy only, and imports it when a name is asked for. Start with ``bundle.py`` (one call),
``streaming.py`` (many batches), ``models/monitor.py`` (a model that trains) or ``surgery/surgery.py`` (removing
what conflicts).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    from . import _core
except ImportError as error:
    if error.name is None:  # said by the module itself, in a sentence of its own
        raise
    import os

    raise ImportError(
        f"cbkernels in {os.path.dirname(__file__)} has no usable compiled module "
        f"({str(error).partition(' (most likely')[0]}); run `pip install .` in the source folder, then start Python "
        "in another folder: in this one the sources hide what is installed"
    ) from None

from . import lazy
from ._version import __version__
from .runs.ending import AT_END as _at_end

if _core.version != __version__:
    raise ImportError(
        f"cbkernels is version {__version__} but its compiled module is {_core.version}; "
        "run `pip install .` in the source folder again"
    )


def _draw(folder: str) -> None:
    """The page of a run; without what draws it the run is whole all the same."""
    import warnings

    from .page.run_page import write_report

    try:
        write_report([folder], f"{folder}/report.html")
    except (ImportError, ValueError) as error:
        warnings.warn(f"{folder} has no report: {error}", stacklevel=2)


_at_end.append(_draw)

if TYPE_CHECKING:
    from . import integrations, training
    from .bundle import bundle_entropy, bundle_entropy_layers, bundle_rows, conflict_margin
    from .distributed import compute_across_ranks
    from .findings.history import History
    from .findings.layer_report import LayerReport
    from .grid import UpdateGrid
    from .models.cost import measure_cost
    from .models.monitor import LayerMonitor
    from .result import BundleResult
    from .streaming import BundleEntropy
    from .surgery.pruning.prune_blocks import prune_blocks
    from .surgery.pruning.prune_log import PruneLog, PruneStep
    from .surgery.surgery import Surgery, remove_layers
else:
    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            "": ["integrations", "training"],
            ".bundle": ["bundle_entropy", "bundle_entropy_layers", "bundle_rows", "conflict_margin"],
            ".distributed": ["compute_across_ranks"],
            ".findings.history": ["History"],
            ".findings.layer_report": ["LayerReport"],
            ".grid": ["UpdateGrid"],
            ".models.cost": ["measure_cost"],
            ".models.monitor": ["LayerMonitor"],
            ".result": ["BundleResult"],
            ".streaming": ["BundleEntropy"],
            ".surgery.pruning.prune_blocks": ["prune_blocks"],
            ".surgery.pruning.prune_log": ["PruneLog", "PruneStep"],
            ".surgery.surgery": ["Surgery", "remove_layers"],
        },
    )

__all__ = [
    "BundleEntropy", "BundleResult", "History", "LayerMonitor", "LayerReport", "PruneLog", "PruneStep", "Surgery",
    "UpdateGrid", "__version__", "bundle_entropy", "bundle_entropy_layers", "bundle_rows", "compute_across_ranks",
    "conflict_margin", "integrations", "measure_cost", "prune_blocks", "remove_layers", "training",
]  # fmt: skip
