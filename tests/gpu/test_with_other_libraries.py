"""CuPy, JAX and Numba arrays come in through DLPack or ``__cuda_array_interface__``, with and without torch.

Each in a process of its own: these libraries bring contexts and memory pools that would disturb each other.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from .presence import need_gpu

need_gpu()

CODE = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np
if {with_torch}:
    import torch
{make}
import cbkernels as cb
names = np.arange(500) % 3

def plain(x):
    if hasattr(x, "copy_to_host"):
        return x.copy_to_host().tolist()
    if type(x).__module__.startswith("cupy"):
        return x.get().tolist()
    return np.asarray(x.cpu() if hasattr(x, "cpu") else x).tolist()

for dtype in ("float32", "int64"):
    host = np.random.default_rng(0).integers(0, 3, (500, 4)).astype(dtype)
    acts, labels = there(host), there(names)
    try:
        ids = cb.bundle_rows(acts)
    except ValueError as error:
        assert not {lends_ids} and "lends no memory for ids; import torch first" in str(error), error
    else:
        assert {lends_ids}
        assert plain(ids) == cb.bundle_rows(host).tolist()
        assert type(ids).__module__.split(".")[0] == type(acts).__module__.split(".")[0], type(ids)
    for grid in (None, cb.UpdateGrid(1e-3, 50, 0.7)):
        r, expected = cb.bundle_entropy(acts, labels, grid=grid), cb.bundle_entropy(host, names, grid=grid)
        assert r.backend == "cuda" and r.entropy == expected.entropy and r.num_bundles == expected.num_bundles, r
    assert cb.conflict_margin(acts, labels) == cb.conflict_margin(host, names)
    if {with_torch}:
        metric, other = cb.BundleEntropy(), cb.BundleEntropy()
        metric.update(acts, labels)
        other.update(host, names)
        assert metric.compute().entropy == other.compute().entropy
print("as on the CPU")
"""

MAKE = {
    "cupy": "import cupy\nthere = cupy.asarray",
    "jax": "import jax\njax.config.update('jax_enable_x64', True)\n"
    "assert jax.default_backend() == 'gpu', jax.default_backend()\nthere = jax.numpy.asarray",
    "numba": "from numba import cuda\nthere = cuda.to_device",
}


@pytest.mark.parametrize("with_torch", [True, False], ids=["with_torch", "without_torch"])
@pytest.mark.parametrize("library", MAKE)
def test_arrays_of(library: str, with_torch: bool) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library}: NOT TESTED HERE (not installed)")
    lends_ids = with_torch or library != "jax"  # JAX has no memory that others may write to
    code = CODE.format(make=MAKE[library], with_torch=with_torch, lends_ids=lends_ids)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=150, check=False,
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("as on the CPU")
