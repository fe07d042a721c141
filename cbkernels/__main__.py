"""``cbkernels`` and ``python -m cbkernels``: the command line in a process of its own.

Signals are looked after before anything slow is imported.
"""

from __future__ import annotations

import os
import sys

from .stopping import Stop


def main() -> int:
    """Run ``sys.argv``; the exit code is that of ``command_line.main``."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a standard stream is closed, and the next file would be taken for it
    os.close(descriptor)
    stop = Stop()
    try:
        with stop.on_signals():
            from .command_line import run

            code = run(None, stop)
    except BaseException:
        if not stop.is_asked_for:
            raise
        stop.say()
        code = stop.exit_code
    if stop.is_asked_for:
        os._exit(code)  # Python ends itself by SIGINT when an interrupt fell into the exec() of a text, as in imports
    return code


if __name__ == "__main__":
    sys.exit(main())
