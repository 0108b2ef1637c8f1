"""Image processors of transformers: loading one, also for timm's models, and making a batch of pictures with it."""

import json
import math
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from transformers import AutoImageProcessor, BatchFeature, BitImageProcessor
from transformers.utils import CONFIG_NAME, cached_file

from .errors import DataError
from .pictures import check_processable
from .tensors import to_pixels

# A missing picture is a blank of the other pictures' size; where a batch has no picture at all, of this size.
_BLANK_SIZE = (32, 32)
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


def load_image_processor(source: str | Path, **kwargs: Any) -> Any:
    """The image processor of a folder or a name on the Hub.

    That of a model of timm is its evaluation transform as a stock processor, which, unlike transformers' wrapper, can be
    saved, and works on a whole batch.

    Args:
        source (`str`): Folder or name.
        kwargs: Arguments of the processor, over the saved ones; the usual Hub arguments.
    """
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    path = cached_file(str(source), CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **hub)
    config = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    if "architecture" in config:
        arguments = {name: value for name, value in kwargs.items() if name not in hub}
        return timm_image_processor(config["architecture"], config.get("pretrained_cfg"), **arguments)
    return AutoImageProcessor.from_pretrained(str(source), **kwargs)


def timm_image_processor(architecture: str, settings: dict[str, Any] | None = None, **kwargs: Any) -> BitImageProcessor:
    """The evaluation transform of a timm model as a stock processor.

    Args:
        architecture (`str`): timm's name of it.
        settings (`dict`, *optional*): The `pretrained_cfg` of its weights; by default that of the architecture.
        kwargs: Arguments of [`BitImageProcessor`], over these.

    Raises:
        DataError: If it pads pictures, or crops them to anything but squares.
    """
    import timm

    data = timm.data.resolve_data_config(settings or timm.models.get_pretrained_cfg(architecture).to_dict())
    _, height, width = data["input_size"]
    if data["crop_mode"] not in ("center", "squash") or (data["crop_mode"] == "center" and height != width):
        found = f"crop mode {data['crop_mode']!r} to {height} × {width}"
        raise DataError(f"{architecture} has the {found}, which no stock image processor has", field="image_processor")
    sizes = [math.floor(size / data["crop_pct"]) for size in (height, width)]
    squashed = data["crop_mode"] == "squash"
    modes = PIL.Image.Resampling
    arguments = {
        "size": {"height": sizes[0], "width": sizes[1]} if squashed else {"shortest_edge": sizes[0]},
        "crop_size": {"height": height, "width": width},
        "resample": int(getattr(modes, data["interpolation"].upper(), modes.BILINEAR)),
        # Pictures are in colour here, and made grey for an encoder of one channel.
        "image_mean": list(data["mean"]) * (3 if len(data["mean"]) == 1 else 1),
        "image_std": list(data["std"]) * (3 if len(data["std"]) == 1 else 1),
    }
    return BitImageProcessor(**arguments | kwargs)


def process_images(image_processor: Any, images: list[Any], field: str) -> dict[str, Tensor]:
    """B pictures as `pixel_values` (B, 3, H, W) and `pixel_mask` (B, H, W), 0 throughout where one is None."""
    pictures = [None if image is None else to_pixels(image, row, field) for row, image in enumerate(images)]
    height, width = next((picture.shape[1:] for picture in pictures if picture is not None), _BLANK_SIZE)
    blank = torch.zeros(3, height, width, dtype=torch.uint8)
    given = [blank if picture is None else picture for picture in pictures]
    processed = _tensors_of(image_processor, given, field)
    pixel_values = processed["pixel_values"]
    pixel_mask = processed.get("pixel_mask")
    if pixel_mask is None:
        pixel_mask = torch.ones(pixel_values[:, 0].shape, dtype=torch.long)
    missing = torch.tensor([picture is None for picture in pictures])
    pixel_values[missing] = 0
    pixel_mask[missing] = 0
    return {"pixel_values": pixel_values, "pixel_mask": pixel_mask}


def _tensors_of(image_processor: Any, pictures: list[Tensor], field: str) -> BatchFeature:
    try:
        # Tensors, not PIL images: the stock processors then stack equal sizes and work on the whole batch at once.
        return image_processor(pictures, input_data_format="channels_first", return_tensors="pt")
    except Exception as error:
        for row, picture in enumerate(pictures):
            check_processable(image_processor, picture.shape[2], picture.shape[1], row=row, field=field)
        name = type(image_processor).__name__
        raise DataError(f"{name} cannot make a batch of the pictures: {error}", field=field) from error
