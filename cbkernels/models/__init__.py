"""Looking at a model: its probe batch, layers, residual blocks and cost; nothing here changes it. Needs torch."""

try:
    import torch  # noqa: F401
except ImportError:
    raise ModuleNotFoundError("a model needs torch: pip install torch", name="torch") from None
