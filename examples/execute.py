"""Runs the notebooks of this folder, or those that are named, and keeps what they print and draw: `make notebooks`.

Their figures differ from processor to processor, so a test (tests/house/test_examples.py) runs their code only.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent


def main() -> None:
    """One after the other, each in an empty folder."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for path in map(Path, sys.argv[1:] or sorted(HERE.glob("*.ipynb"))):
        notebook = nbformat.read(path, as_version=4)
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
        for cell in notebook.cells:
            cell.metadata = {}  # when it ran
        notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
        nbformat.write(notebook, path)
        print(path.name)


if __name__ == "__main__":
    main()
