"""Encoded images, or arrays of them, become arrays of one size; needs pillow where it decodes or resizes.

``image_files.py`` finds the images, ``data_sets.py`` asks for their pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ...files.unpacking import UNPACK_UP_TO, TooLarge, require_room

Array = npt.NDArray[Any]

ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM")
"""What pillow may take an image for; for some other formats it starts programs."""
_GREY = ("L", "1", "LA", "La")
_DEEP = ("I", "F")
_MOST_OF_8_BITS = 255


@dataclass(frozen=True, slots=True)
class InTable:
    """An encoded image, and where it is in a file."""

    content: bytes
    row: int
    """From 0, in the file."""
    origin: str

    def __str__(self) -> str:
        return f"the image in row {self.row} of {self.origin}"


Encoded = InTable | Path


def decoded(images: Iterable[Encoded], image_size: int | None = None, most: int = UNPACK_UP_TO) -> list[Array]:
    """Decode and, if asked to, resize.

    Args:
        images: encoded images or their files.
        image_size: height and width in pixels of the result (bilinear; proportions are not kept); None: as stored.
        most: bytes of pixels, in all and of an image before it is resized.

    Returns:
        For each image (H, W) uint8 if it is grey, else (H, W, 3), as its EXIF orientation says; transparency is left
        out.

    Raises:
        ValueError: an image that is damaged, or has more than 8 bits a channel.
        OSError: a file that cannot be read.
        ImportError: pillow is missing.
    """
    pillow = require_pillow()
    from PIL import ImageOps, UnidentifiedImageError, features

    arrays, num_bytes = [], 0
    known = [name for name in _FORMATS if name != "AVIF" or features.check("avif")]
    for image in images:
        source = io.BytesIO(image.read_bytes() if isinstance(image, Path) else image.content)
        try:
            with pillow.open(source, formats=known) as opened:
                require_room(str(image), num_bytes + math.prod(opened.size) * len(opened.getbands()), 0, most)
                deep = _deep_kind(opened)
                if not deep:
                    arrays.append(_as_array(pillow, ImageOps.exif_transpose(opened), image_size))
                    num_bytes += arrays[-1].nbytes
        except TooLarge:
            raise
        except UnidentifiedImageError as error:
            raise ValueError(f"{image} is damaged or no image: it is none of {', '.join(known)}") from error
        # whatever a damaged file makes of pillow: OSError, SyntaxError, struct.error, DecompressionBombError
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{image} is damaged or no image: {reason}") from error
        if deep:
            raise ValueError(f"{image} has pixels of pillow's mode {deep}; save it with 8 bits a channel")
    return arrays


def _deep_kind(opened: Any) -> str:
    """Pillow's name of more than 8 bits a channel, which it would cut for coloured images without a word; or ""."""
    if opened.mode.startswith(_DEEP):
        return str(opened.mode)
    for codec, _, _, arguments in opened.tile:
        each = arguments if isinstance(arguments, tuple) else (arguments,)
        if raw := next((kind for kind in each if isinstance(kind, str) and ";16" in kind), None):
            return raw
        if codec == "ppm" and isinstance(each[-1], int) and each[-1] > _MOST_OF_8_BITS:
            return f"{opened.mode} up to {each[-1]}"
    return ""


def _as_array(pillow: ModuleType, image: Any, image_size: int | None) -> Array:
    if image.mode in _GREY:
        image = image if image.mode == "L" else image.convert("L")
    elif image.mode != "RGB":
        # a palette with transparency warns when it is converted in one step
        image = (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
    if image_size is not None and image.size != (image_size, image_size):
        image = image.resize((image_size, image_size), pillow.Resampling.BILINEAR)
    return np.asarray(image)


def stacked(parts: Sequence[Sequence[Array]], origin: str) -> list[Array]:
    """One array for each part of a data set.

    Args:
        parts: what ``decoded`` returned.
        origin: where they are from, for messages.

    Returns:
        (N, 1, H, W) uint8 when all images of all parts are grey, else (N, 3, H, W).

    Raises:
        ValueError: images of two sizes.
    """
    sizes = sorted({image.shape[:2] for part in parts for image in part})
    if len(sizes) > 1:
        shown = " and ".join(f"{height} x {width}" for height, width in sizes[:2])
        raise ValueError(
            f"images of {origin} have {len(sizes)} sizes, such as {shown} pixels; pass image_size to resize them to one"
        )
    channels = max((3 if image.ndim == 3 else 1 for part in parts for image in part), default=1)
    arrays = []
    for part in parts:
        array = np.empty((len(part), channels, *sizes[0]), np.uint8)
        for place, image in zip(array, part, strict=True):
            place[...] = image.transpose(2, 0, 1) if image.ndim == 3 else image
        arrays.append(array)
    return arrays


def resized(images: Array, image_size: int) -> Array:
    """Resize an array of images as ``decoded`` does.

    Args:
        images: (N, C, H, W) uint8 or float32.
        image_size: height and width in pixels.

    Returns:
        (N, C, image_size, image_size) of the same type.

    Raises:
        ImportError: pillow is missing.
    """
    if images.shape[2:] == (image_size, image_size):
        return images
    pillow = require_pillow()
    size = (image_size, image_size)
    planes = images.reshape(-1, *images.shape[2:])
    result = np.empty((len(planes), *size), images.dtype)
    for place, plane in zip(result, planes, strict=True):
        place[...] = pillow.fromarray(plane).resize(size, pillow.Resampling.BILINEAR)
    return result.reshape(*images.shape[:2], *size)


def require_pillow() -> ModuleType:
    """``PIL.Image``, or an ImportError of one sentence on what to install."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("decoding or resizing images needs pillow: pip install pillow") from None
    return Image
