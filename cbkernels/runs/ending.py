"""What is done with the folder of a run that Python, not a command, has brought to its end.

The root of the package puts the drawing of its page here: a training knows no page.
"""

from __future__ import annotations

from collections.abc import Callable

AT_END: list[Callable[[str], object]] = []
