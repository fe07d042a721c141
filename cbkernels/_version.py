"""The version, once; pyproject.toml and the compiled module are tested to agree with it."""

__version__ = "0.1.0"
