"""A matplotlib figure that a notebook shows by itself. Imports matplotlib: only ``figures.py`` imports this, late."""

from __future__ import annotations

from matplotlib.figure import Figure

from . import figures


class NotebookFigure(Figure):
    """Where pyplot was never imported, IPython knows no way to show a plain ``Figure``."""

    def _repr_png_(self) -> bytes:
        return figures.png(self)
