"""Without torch everything works up to the point where a model comes in, and then says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Blocked())
import numpy as np
import cbkernels as cb
"""


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_reports_are_made_saved_and_loaded() -> None:
    out = said("""
results = cb.bundle_entropy_layers({"fc1": np.eye(4), "fc2": np.zeros((4, 2))}, np.arange(4) % 2)
history = cb.History([cb.LayerReport(results, step=0)])
assert cb.History.from_dict(history.to_dict()) == history
print(history[0].conflicting(), history.mean()["fc1"])
""")
    assert out == "['fc2'] 0.0\n"


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("cb.LayerMonitor(None, (np.eye(2), [0, 1]))", "LayerMonitor"),
        ("cb.remove_layers(None, ['layer1.0'])", "remove_layers"),
        ("cb.Surgery.load('folder', None)", "Surgery"),
        ("from cbkernels.models import probe", "a model"),
    ],
)
def test_what_needs_a_model_says_what_to_install(call: str, what: str) -> None:
    out = said(f"""
try:
    {call}
except ImportError as error:
    print(error)
""")
    assert out == f"{what} needs torch: pip install torch\n"
