"""Data sets of the Hugging Face hub, through its package ``datasets``: from its cache, else from the network."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from .columns import ANY, Columns, chosen_columns
from .image_files import part_of_table
from .parts import TEST_NAMES, Part, first_labelled

_SECONDS = 2.0
"""For a connection to the hub; its own client would ask an unreachable one for half a minute."""


def read_from_hub(identity: str, configuration: str | None = None, columns: Columns = ANY) -> tuple[Part, Part | None]:
    """Images and labels to train on, and to test on when there is such a part.

    The cache of ``datasets`` is asked first, with its network switched off; only what is not there is downloaded.

    Args:
        identity: ``owner/name`` on the hub.
        configuration: which of the set's configurations; None: its only or default one.
        columns: which of its columns are asked for.

    Raises:
        ImportError: the package ``datasets`` is missing.
        OSError: neither in the cache nor to be had from the hub.
        ValueError: it has no part to train on, or no images with labels.
    """
    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError:
        raise ImportError(f"{identity!r} of the Hugging Face hub needs datasets: pip install datasets pillow") from None
    where = f"the hub's {identity}" + (f" ({configuration})" if configuration else "")
    try:
        with _without_network(datasets):
            found = datasets.load_dataset(identity, configuration)
    except Exception:  # whatever datasets makes of a set that is not in its cache
        found = _downloaded(datasets, identity, configuration, where)
    tests = [name for name in TEST_NAMES if name in found]
    if "train" not in found:
        raise ValueError(f"{where} has the parts {', '.join(found)}; one called train is needed")
    train = _part(found["train"], f"the training part of {where}" if tests else where, columns)
    return train, first_labelled(_part(found[name], f"the test part of {where}", columns) for name in tests)


def _downloaded(datasets: Any, identity: str, configuration: str | None, where: str) -> Any:
    directory = datasets.config.HF_DATASETS_CACHE
    if datasets.config.HF_HUB_OFFLINE:
        raise OSError(f"{where} is not in the cache {directory}, and the network is switched off (HF_HUB_OFFLINE)")
    try:
        require_connection(datasets.config.HF_ENDPOINT)
    except OSError as error:
        endpoint = datasets.config.HF_ENDPOINT
        raise OSError(f"{where} is not in the cache {directory}, and {endpoint} cannot be reached ({error})") from error
    try:
        return datasets.load_dataset(identity, configuration)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        raise OSError(f"{where} is not in the cache {directory} and could not be downloaded ({reason})") from error


def require_connection(endpoint: str) -> None:
    """Connect once, to the proxy if there is one; an OSError if nothing answers."""
    asked = urlsplit(endpoint)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(asked.scheme, proxies.get("all"))
    if proxy and not urllib.request.proxy_bypass(asked.hostname or ""):
        asked = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    port = asked.port or (80 if asked.scheme == "http" else 443)
    socket.create_connection((asked.hostname, port), timeout=_SECONDS).close()


@contextmanager
def _without_network(datasets: Any) -> Iterator[None]:
    before = datasets.config.HF_HUB_OFFLINE
    verbosity = datasets.logging.get_verbosity()
    datasets.config.HF_HUB_OFFLINE = True
    datasets.logging.set_verbosity_error()  # it warns that it takes the cached copy, which is what is wanted
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
        datasets.logging.set_verbosity(verbosity)


def _part(dataset: Any, origin: str, columns: Columns) -> Part:
    table = dataset.with_format("arrow")[:]
    return part_of_table(table, chosen_columns(table.schema, origin, columns), origin)
