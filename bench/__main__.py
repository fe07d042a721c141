"""`python -m bench [pytest options]`: measure everything, write the JSON, put the tables into docs/.

The repository's root leaves the import path first, so that the installed cbkernels is measured and
not the source folder; BENCH_PACKAGE names the folder of another one. Only a complete run with BENCH=full (the default)
changes the documentation, and none with --no-tables.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(options: list[str]) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE.parent]
    if package := os.environ.get("BENCH_PACKAGE"):
        sys.path.insert(0, package)
        sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
    tables = "--no-tables" not in options
    options = [option for option in options if option != "--no-tables"]
    import pytest

    from . import record, table

    code = int(
        pytest.main(
            [str(HERE), "-p", "no:cacheprovider", "--benchmark-quiet", "-o", "console_output_style=classic", *options]
        )
    )
    if record.written is None:
        return code
    if told := os.environ.get("BENCH_TOLD"):
        Path(told).write_text(str(record.written))
    if not tables:
        return code
    if code == 0 and record.written_is_publishable:
        return table.main([str(record.written)])
    table.main([str(record.written), "--print"])
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
