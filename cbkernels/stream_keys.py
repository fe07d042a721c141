"""Keys of fingerprints (``docs/fingerprint.md``, section 2): 128 bits, drawn at random unless they are given.

Fingerprints meet only under one key. Without ``key=`` all streams of a process have one, and so have all those of the
processes that ``torch.distributed`` has joined when the first rows come.
"""

from __future__ import annotations

import operator
import os
import sys
import weakref
from typing import Any, SupportsIndex

FIXED_KEY = 0x243F6A8885A308D3
"""Of ``row_fingerprints``, and of all streams before they had keys: known to everybody."""

_NUM_BYTES = 16
_of_this_process: dict[str, int] = {}
_agreed: tuple[Any, int] | None = None
"""A weak reference to a default process group, and the key of its processes."""


def checked_key(key: bytes | SupportsIndex | None) -> int | None:
    """What a user gave as ``key=``, as an integer.

    Raises:
        TypeError, ValueError: it is neither 16 bytes nor an integer of 128 bits; the sentence keeps a key secret.
    """
    if key is None:
        return None
    if isinstance(key, bytes):
        if len(key) != _NUM_BYTES:
            raise ValueError(f"key has {len(key)} bytes; pass 16, or an integer from 0 to 2**128 - 1")
        return int.from_bytes(key, "big")
    if isinstance(key, bool) or not hasattr(key, "__index__"):
        raise TypeError(f"key is a {type(key).__name__}; pass 16 bytes, an integer from 0 to 2**128 - 1, or None")
    number = operator.index(key)
    if not 0 <= number < 1 << 8 * _NUM_BYTES:
        raise ValueError(f"key is {number}; pass 16 bytes, or an integer from 0 to 2**128 - 1")
    return number


def as_text(key: int) -> str:
    """32 hexadecimal digits."""
    return f"{key:032x}"


def from_text(text: object) -> int:
    """The key that ``as_text`` wrote.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str) or len(text) != 2 * _NUM_BYTES or not set(text) <= set("0123456789abcdef"):
        raise ValueError(f"the key is {text!r}; it must be {2 * _NUM_BYTES} hexadecimal digits")
    return int(text, 16)


def default_key() -> int:
    """The key of this process, or of all the processes of the default group of ``torch.distributed``.

    The first process that asks tells the others, through the store in which they met: nobody waits for anybody.
    """
    global _agreed
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return _key_of_this_process()
    group = distributed.group.WORLD
    if _agreed is None or _agreed[0]() is not group:
        try:
            store = distributed.distributed_c10d._get_default_store()
            told = store.compare_set("cbkernels/key of fingerprints", "", as_text(_key_of_this_process()))
            _agreed = weakref.ref(group), from_text(told.decode())
        except Exception:  # a store that cannot, or that went away: computing across ranks says what to do
            return _key_of_this_process()
    return _agreed[1]


def _drawn() -> int:
    return int.from_bytes(os.urandom(_NUM_BYTES), "big")


def _key_of_this_process() -> int:
    """The same for all threads, whoever asks first. Its forks have it too, if it was drawn before them."""
    return _of_this_process.setdefault("key", _drawn())
