"""Exported networks: a file with a flipped byte is told or gives the same network; those without a checksum load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="exported networks: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="exported networks: NOT TESTED HERE (no safetensors)")

from cbkernels.files.json_files import sealed  # noqa: E402
from cbkernels.training.networks.exported import load_exported  # noqa: E402

OLD = Path(__file__).parents[2] / "runs" / "old_folders" / "remove" / "model"


def test_a_flipped_byte_is_told_or_changes_nothing(tmp_path: Path) -> None:
    state = load_exported(OLD).state_dict()
    shutil.copytree(OLD, tmp_path / "model")
    file = tmp_path / "model" / "network.json"
    file.write_text(json.dumps(sealed(json.loads(file.read_text())), indent=2))
    whole, told = file.read_bytes(), []
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            loaded = load_exported(file.parent).state_dict()
        except ValueError as error:
            told.append(str(error))
        else:
            assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items()), place
            assert json.loads(file.read_text())["preparation"] == json.loads(whole)["preparation"]
    assert len(told) > 0.8 * len(range(0, len(whole), 3))
    assert all(str(file) in each and "\n" not in each for each in told)
