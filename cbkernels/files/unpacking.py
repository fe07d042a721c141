"""How much memory a compressed file may ask for: a few megabytes can unpack to as many gigabytes."""

from __future__ import annotations

UNPACK_UP_TO = 4 << 30
"""Bytes that everything compressed may unpack to; more only if the file itself is large."""
FOLD = 8
"""Times its own size that a file may unpack to, whatever that is."""


class TooLarge(ValueError):
    """The sentence names the option that lets it pass."""


def require_room(what: str, unpacked: int, stored: int, most: int) -> None:
    """Refuse what unpacks to more than ``most`` bytes and ``FOLD`` times the bytes that are stored.

    Args:
        what: begins the sentence.
        unpacked: bytes that it would take.
        stored: bytes of the file.
        most: what the user allows.

    Raises:
        TooLarge: it is more.
    """
    if unpacked > max(most, FOLD * stored):
        raise TooLarge(
            f"{what} unpacks from {stored} to {unpacked} bytes, and to at most {most} it is read; "
            f"pass unpack_up_to with {unpacked} or more if you trust it"
        )
