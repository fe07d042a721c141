"""After every call the caller's device is the current one; after every test the device must still be in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cbkernels import _core

from ..current_device import watch


@pytest.fixture(autouse=True)
def device_in_order() -> Iterator[None]:
    """An error of a kernel shows at the next synchronisation: it belongs to the test that caused it."""
    import torch

    restore = watch(_core.cuda, torch.cuda.current_device)
    yield
    restore()
    torch.cuda.synchronize()


@pytest.fixture
def launch_shape() -> Iterator[Callable[[int, int], None]]:
    """Sets blocks and threads of every launch; the normal choice afterwards."""
    yield _core.cuda.use_launch_shape
    _core.cuda.use_launch_shape(0, 0)
