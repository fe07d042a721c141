"""After every test the device must still be in order; launch shapes as a fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cbkernels import _core


@pytest.fixture(autouse=True)
def device_in_order() -> Iterator[None]:
    """An error of a kernel shows at the next synchronisation: it belongs to the test that caused it."""
    yield
    import torch

    torch.cuda.synchronize()


@pytest.fixture
def launch_shape() -> Iterator[Callable[[int, int], None]]:
    """Sets blocks and threads of every launch; the normal choice afterwards."""
    yield _core.cuda.use_launch_shape
    _core.cuda.use_launch_shape(0, 0)
