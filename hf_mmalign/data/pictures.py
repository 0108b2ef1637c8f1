"""Pictures from strangers: which files are opened, and how large a picture may be."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from .errors import DataError

# What Pillow may decode. Its other decoders are rare, less tested, or (EPS) start programs.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# More than any camera's usual picture; decoding as much takes seconds and 200 MB.
MAX_PIXELS = 64_000_000

# ViLT's image processor limits the longer side to 639 pixels, keeps the ratio, and rounds both sides down to multiples of
# 32: above a ratio of 20.3 nothing is left of the shorter one.
MAX_ASPECT_RATIO = 20


def check_picture_size(width: int, height: int, what: str = "the picture", **place: Any) -> None:
    """Raise `DataError` for a picture that is empty, too large or too long.

    Args:
        width (`int`), height (`int`): In pixels.
        what (`str`): What the error calls the picture.
        place: What the error names beside it (file, row, field).
    """
    found = f"{what} has {width} × {height} pixels"
    if min(width, height) < 1:
        raise DataError(f"{found}, that is none", **place)
    if width * height > MAX_PIXELS:
        message = f"at most {MAX_PIXELS // 10**6} million in all are taken; make it smaller"
        raise DataError(f"{found}; {message}", **place)
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        message = f"one side may be at most {MAX_ASPECT_RATIO} times as long as the other; crop it"
        raise DataError(f"{found}; {message}", **place)


@contextmanager
def opened_picture(source: str | Path | BytesIO, **place: Any) -> Iterator[PIL.Image.Image]:
    """Open a picture file, or the bytes of one, of a plausible size. Only the header is read, until someone asks for more.

    Raises:
        DataError: If the file is missing, no picture, too large or too long, or if what is done with it inside the `with`
            finds that it is damaged; `place` (file, row, field) goes into it.
    """
    what = "the image" if isinstance(source, BytesIO) else f"the image file {source}"
    try:
        if not isinstance(source, BytesIO) and not stat.S_ISREG(os.stat(source).st_mode):
            raise DataError(f"{what} is no regular file", **place)  # a pipe would be waited for without end
        with PIL.Image.open(source, formats=IMAGE_FORMATS) as image:
            check_picture_size(image.width, image.height, what, **place)
            yield image
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{what} does not exist", **place) from error
    # A damaged file makes Pillow's decoders raise nearly anything.
    except Exception as error:
        raise DataError(f"{what} cannot be read: {error or type(error).__name__}", **place) from error


def check_processable(image_processor: Any, width: int, height: int, **place: Any) -> None:
    """Raise `DataError` if an image processor cannot take a picture of this size; `place` (row, field) goes into it."""
    blank = np.zeros((3, height, width), np.uint8)
    try:
        image_processor([blank], input_data_format="channels_first", return_tensors="pt")
    except Exception as error:
        name, size = type(image_processor).__name__, getattr(image_processor, "size", None)
        message = f"the picture has {width} × {height} pixels, which {name} cannot bring to its size ({size})"
        raise DataError(f"{message}: {error}", **place) from error
