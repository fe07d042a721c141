"""Files of tensors: the package safetensors, which executes nothing that it reads."""

from __future__ import annotations

from typing import Any


def require_safetensors(what: str) -> Any:
    """The package safetensors, with its functions for torch.

    Args:
        what: needs it, for the error; has torch.

    Raises:
        ImportError: it is missing.
    """
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError(f"{what} needs safetensors: pip install safetensors") from None
    return safetensors
