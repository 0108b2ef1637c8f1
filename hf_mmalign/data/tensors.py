"""Pictures and feature sequences of samples as tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from .errors import DataError
from .pictures import check_picture_size, opened_picture


def to_pixels(image: Any, row: int | None = None, field: str = "image") -> Tensor:
    """A picture as (3, H, W) uint8.

    Args:
        image: A PIL image, the path of a file, a (H, W, 3), (H, W, 4) or (H, W) uint8 array, or a (3, H, W) uint8 tensor.
        row (`int`, *optional*), field (`str`): The sample's number and the modality, for errors.

    Raises:
        DataError: For anything else, and for a picture that cannot be read or is too large or too long.
    """
    place: dict[str, Any] = {"row": row, "field": field}
    if isinstance(image, (str, Path)):
        with opened_picture(image, **place) as opened:
            # As `datasets` and transformers do it: a camera's pictures may lie on their side.
            return _pixels_of(PIL.ImageOps.exif_transpose(opened))
    if isinstance(image, PIL.Image.Image):
        place["file"] = getattr(image, "filename", None) or None
        check_picture_size(image.width, image.height, **place)  # before it is decoded
        try:
            return _pixels_of(image)
        except Exception as error:
            raise DataError(f"the image cannot be read: {error or type(error).__name__}", **place) from error
    if isinstance(image, Tensor):
        if not (image.ndim == 3 and image.shape[0] == 3 and image.dtype == torch.uint8):
            found = f"{tuple(image.shape)} {image.dtype}"
            raise DataError(f"a picture tensor must be (3, H, W) uint8, not {found}", **place)
        check_picture_size(image.shape[2], image.shape[1], **place)
        return image
    if not isinstance(image, np.ndarray):
        expected = "a PIL image, a path, an array or a tensor"
        raise DataError(f"a picture must be {expected}, not {type(image).__name__}", **place)
    pixels = np.repeat(image[:, :, None], 3, axis=2) if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype != np.uint8:
        raise DataError(f"a picture must be (H, W, 3) uint8, not {image.shape} {image.dtype}", **place)
    check_picture_size(pixels.shape[1], pixels.shape[0], **place)
    return torch.from_numpy(pixels[:, :, :3].copy()).permute(2, 0, 1)


def _pixels_of(image: PIL.Image.Image) -> Tensor:
    # A copy, because torch wants to own its memory and PIL's is read-only.
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def pad_features(
    values: Tensor | np.ndarray | Sequence[Any], name: str, mask: Any = None, width: int | None = None
) -> tuple[Tensor, Tensor]:
    """Feature sequences of one modality as (B, T, D) float32 and their mask (B, T) int64.

    Args:
        values: B sequences (T_i, D), None or empty where missing; or padded already, as an array or tensor (B, T, D); or
            (T, D), a batch of one.
        name (`str`): The modality, for errors.
        mask (*optional*): (B, T) of zeros and ones (or booleans) for what is padded already; by default ones.
        width (`int`, *optional*): D, where it is known, for a batch that does not tell.

    Returns:
        Values, whatever the mask leaves out being 0, and mask.
    """
    if isinstance(values, (Tensor, np.ndarray)) and values.ndim == 2:
        values = values[None]
        mask = mask[None] if isinstance(mask, (Tensor, np.ndarray)) and mask.ndim == 1 else mask
    if isinstance(values, (Tensor, np.ndarray)) and values.dtype != object:
        tensor = values if isinstance(values, Tensor) else torch.from_numpy(_numbers(values, name).copy())
        return _padded(tensor, name, mask)
    if mask is not None:
        raise DataError("a mask is for a padded tensor; sequences of their own lengths need none", field=name)
    return _pad_sequences(values, name, width)


def _padded(values: Tensor, name: str, mask: Any) -> tuple[Tensor, Tensor]:
    if values.ndim != 3:
        raise DataError(f"a padded tensor must be (B, T, D), not {tuple(values.shape)}", field=name)
    if mask is None:
        return values.float(), torch.ones(values.shape[:2], dtype=torch.long, device=values.device)
    mask = torch.as_tensor(mask, device=values.device)
    if mask.shape != values.shape[:2]:
        raise DataError(f"mask {tuple(mask.shape)} for features {tuple(values.shape)}", field=name)
    if not ((mask == 0) | (mask == 1)).all():
        raise DataError("a mask of zeros and ones is expected, 1 on valid steps", field=name)
    # Not a product: NaN and Inf would survive it.
    return values.float().masked_fill(mask.unsqueeze(-1) == 0, 0.0), mask.long()


def _pad_sequences(values: Sequence[Any], name: str, width: int | None) -> tuple[Tensor, Tensor]:
    sequences = [None if value is None else _numbers(value, name, row) for row, value in enumerate(values)]
    shapes = [sequence.shape for sequence in sequences if sequence is not None and sequence.size]
    # Empty sequences tell their width too, if they have one; it is needed where the whole batch lacks the modality.
    if not shapes and width is None:
        empty = [sequence.shape for sequence in sequences if sequence is not None]
        shapes = [shape for shape in empty if len(shape) == 2 and shape[1]]
        if not shapes:
            message = "missing in every sample, so its width is unknown; pass an array of shape (0, D), or make the"
            raise DataError(f"{message} processor with feature_sizes={{{name!r}: D}}", field=name)
    widths = {shape[-1] for shape in shapes}
    if len(widths) > 1 or any(len(shape) != 2 for shape in shapes):
        raise DataError(f"sequences of one width, (T, D), are expected, not {sorted(set(shapes))}", field=name)
    lengths = [len(sequence) if sequence is not None and sequence.size else 0 for sequence in sequences]
    shape = (len(sequences), max(1, *lengths), widths.pop() if widths else width)
    padded, mask = np.zeros(shape, dtype=np.float32), torch.zeros(shape[:2], dtype=torch.long)
    for index, length in enumerate(lengths):
        if length:
            padded[index, :length] = sequences[index]
            mask[index, :length] = 1
    return torch.from_numpy(padded), mask


def _numbers(value: Any, name: str, row: int | None = None) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):  # float64 beyond float32's range turns into Inf, which the processor refuses
            return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"a sequence of numbers (T, D) is expected: {error}", row=row, field=name) from error
