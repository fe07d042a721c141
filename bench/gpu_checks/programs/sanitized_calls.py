"""A small part of everything, for compute-sanitizer: ``compute-sanitizer python sanitized_calls.py 10``.

Starts no new input after the seconds given; prints the number of calls and the wrong answers.
"""

from __future__ import annotations

import sys

import doors  # type: ignore[import-not-found]
from sanitized import workload  # type: ignore[import-not-found]


def main() -> int:
    calls = workload(doors.core().cuda, doors.memory(), float(sys.argv[1]))
    print(f"sanitized: {calls.count} calls, {len(calls.wrong)} wrong answers", flush=True)
    for wrong in calls.wrong[:20]:
        print(f"  {wrong}", flush=True)
    return 1 if calls.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
