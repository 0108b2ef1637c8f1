"""Encoders of texts and pictures that others have trained, as they make features: any `AutoModel`, any of timm's."""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import timm
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging

from ..data.errors import DataError, shown
from ..data.pictures import opened_picture

logger = logging.get_logger(__name__)

POOLINGS = ("mean", "cls", "pooler", "none")

_PROBE_PICTURE = (224, 224)


class Encoder:
    """A model with what prepares its input; the ways to pool are those of :func:`hf_mmalign.runs.extract`.

    Args:
        name (`str`): A folder that `save_pretrained` wrote, or a name on the Hub.
        pooling (`str`, *optional*): One of `POOLINGS`; left out, it becomes the one that fits the model.
        device (`str` or `torch.device`): Where the model runs, in float32.

    Attributes:
        width (`int`), steps (`int`): Width of a feature vector, and how many a plain sample has.

    Raises:
        DataError: If there is no such model, weights are missing in its files, or it does not pool that way.
    """

    kind: str

    def __init__(self, name: str, pooling: str | None, device: str | torch.device):
        if pooling not in (None, *POOLINGS):
            raise DataError(f"{pooling!r} is none of {', '.join(POOLINGS)}", field=f"{self.kind}_pooling")
        self.name = name
        source = hub_name(name)
        try:
            self._prepare(source)
            model, info = AutoModel.from_pretrained(source, dtype=torch.float32, output_loading_info=True)
        except (OSError, ValueError, ImportError) as error:
            raise DataError(f"the encoder {shown(name)} cannot be loaded: {error}", field=self.kind) from error
        missing = [key for key in info["missing_keys"] if "pooler" not in key]
        if missing:
            raise DataError(
                f"{shown(name)} lacks weights of {type(model).__name__}, which would be random: {shown(sorted(missing))}",
                field=self.kind,
            )
        # The forward of one tower of CLIP and its kind; their features lie in one space behind their poolers.
        tower = getattr(model, f"get_{self.kind}_features", None)
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.model.to(device).eval()
        self.config = model.config
        self._forward = tower or self.model
        self._limit_length()
        pooler = not info["missing_keys"] and self._run(self._probe()).get("pooler_output") is not None
        if pooling == "pooler" and not pooler:
            raise DataError(f"{shown(name)} has no pooler", field=f"{self.kind}_pooling")
        prefers_pooler = pooler and (self.kind == "image" or tower is not None)
        self.pooling = pooling or ("pooler" if prefers_pooler else "mean")
        self.steps, self.width = self(self._samples())[0].shape

    def __call__(self, samples: Sequence[Any]) -> list[np.ndarray]:
        """(T, D) float32 for each sample; T is 1 unless `pooling` is `none`."""
        raise NotImplementedError

    def _prepare(self, source: str) -> None:
        """Load what makes tensors of samples."""
        raise NotImplementedError

    def _samples(self) -> list[Any]:
        """A plain sample, by which the model shows the form of its output."""
        raise NotImplementedError

    def _probe(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def _limit_length(self) -> None:
        """Learn the longest input."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for the features to be the same."""
        settings = {"model": self.name, "class": type(self.model).__name__, "pooling": self.pooling}
        folder = Path(self.name)
        if folder.is_dir():
            files = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
            settings["files"] = {name: [status.st_size, status.st_mtime_ns] for name, status in files}
        else:
            settings["revision"] = getattr(self.config, "_commit_hash", None)
        return settings

    @torch.inference_mode()
    def _run(self, inputs: dict[str, Tensor]) -> Any:
        return self._forward(**{name: value.to(self.model.device) for name, value in inputs.items()})

    def _encode(self, inputs: dict[str, Tensor], mask: Tensor | None = None) -> list[np.ndarray]:
        """Run a batch and pool it; `mask` (B, T) is 1 on the steps that count."""
        output = self._run(inputs)
        if self.pooling == "pooler":
            return list(output.pooler_output.flatten(1)[:, None].float().cpu().numpy())
        hidden, is_map = self._sequence(output.last_hidden_state)
        if self.pooling == "cls":
            if is_map:
                message = f"{shown(self.name)} makes a map of features, which has no class token"
                raise DataError(message, field=f"{self.kind}_pooling")
            return list(hidden[:, :1].float().cpu().numpy())
        mask = torch.ones(hidden.shape[:2]) if mask is None else mask
        if self.pooling == "mean":
            weights = mask.to(hidden.device)[..., None].float()
            hidden = hidden.masked_fill(weights == 0, 0.0).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)
            return list(hidden.float().cpu().numpy())
        states, valid = hidden.float().cpu().numpy(), mask.cpu().numpy() != 0
        return [row[steps] for row, steps in zip(states, valid, strict=True)]

    def _sequence(self, hidden: Tensor) -> tuple[Tensor, bool]:
        """Tokens (B, T, D) as they are; a map of features row by row, with whether it was one."""
        if hidden.ndim == 3:
            return hidden, False
        inner = getattr(self.model, "timm_model", None)
        channels_last = str(getattr(inner, "output_fmt", "NCHW")).endswith("NHWC")
        return (hidden.flatten(1, 2) if channels_last else hidden.flatten(2).transpose(1, 2)), True


class TextEncoder(Encoder):
    """Features of texts; of the `seen` ones, `cut` were as long as the model takes, or longer.

    Args:
        name, pooling, device: As for :class:`Encoder`.
        max_length (`int`, *optional*): Longest text in tokens; by default what tokenizer and model take.
    """

    kind = "text"

    def __init__(self, name: str, pooling: str | None, device: str | torch.device, max_length: int | None = None):
        self.max_length, self.seen, self.cut = max_length, 0, 0
        super().__init__(name, pooling, device)

    def __call__(self, samples: Sequence[str]) -> list[np.ndarray]:
        """(T, D) float32 for each text; special tokens are among the T, and a text without any token is a missing one."""
        inputs = self._inputs(list(samples))
        if not (real := inputs["attention_mask"].any(dim=1)).all():
            encoded = iter(self([text for text, kept in zip(samples, real, strict=True) if kept]) if real.any() else [])
            return [next(encoded) if kept else np.zeros((0, self.width), np.float32) for kept in real]
        self.seen += len(inputs["input_ids"])
        if self.max_length is not None:
            self.cut += int((inputs["attention_mask"].sum(dim=1) >= self.max_length).sum())
        return self._encode(inputs, inputs["attention_mask"])

    @property
    def identity(self) -> dict[str, Any]:
        return super().identity | {"max_text_length": self.max_length}

    def _prepare(self, source: str) -> None:
        # Padding at the end leaves the positions of tokens as they are when a text is alone.
        self.tokenizer = AutoTokenizer.from_pretrained(source, padding_side="right")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def _limit_length(self) -> None:
        config = self.config.get_text_config()
        limits = [self.tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or int(1e30)]
        limit = min(limits)
        if limit < 1_000_000:  # tokenizers without a limit say 1e30
            if self.max_length is not None and self.max_length > limit:
                message = f"{shown(self.name)} takes at most {limit} tokens, not {self.max_length}"
                raise DataError(message, field="max_text_length")
            self.max_length = self.max_length or limit

    def _samples(self) -> list[str]:
        return ["a"]

    def _probe(self) -> dict[str, Tensor]:
        return self._inputs(self._samples())

    def _inputs(self, texts: list[str]) -> dict[str, Tensor]:
        limit = {"truncation": True, "max_length": self.max_length} if self.max_length else {}
        encoded = self.tokenizer(texts, padding=True, return_attention_mask=True, return_tensors="pt", **limit)
        return dict(encoded)


class ImageEncoder(Encoder):
    """Features of pictures."""

    kind = "image"

    def __call__(self, samples: Sequence[PIL.Image.Image]) -> list[np.ndarray]:
        """(T, D) float32 for each RGB picture."""
        pixels = [self._pixels(picture) for picture in samples]
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, tensor in enumerate(pixels):
            by_shape.setdefault(tuple(tensor.shape), []).append(index)
        result: list[Any] = [None] * len(pixels)
        # No padding: most models know no mask of pixels and would look at it.
        for indices in by_shape.values():
            batch = torch.stack([pixels[index] for index in indices])
            # In which convolutions are faster, most of all on processors.
            encoded = self._encode({"pixel_values": batch.contiguous(memory_format=torch.channels_last)})
            for index, features in zip(indices, encoded, strict=True):
                result[index] = features
        return result

    def _prepare(self, source: str) -> None:
        self.processor = AutoImageProcessor.from_pretrained(source)

    def _samples(self) -> list[PIL.Image.Image]:
        return [PIL.Image.new("RGB", _PROBE_PICTURE)]

    def _probe(self) -> dict[str, Tensor]:
        return {"pixel_values": self._pixels(self._samples()[0])[None]}

    def _pixels(self, picture: PIL.Image.Image) -> Tensor:
        return self.processor([picture], return_tensors="pt")["pixel_values"][0]


def read_picture(cell: dict[str, Any], **place: Any) -> PIL.Image.Image:
    """A cell `{path, bytes}` as an upright RGB picture. Raises DataError for one that cannot be read."""
    content = cell["bytes"]
    with opened_picture(BytesIO(content) if content is not None else cell["path"], **place) as picture:
        return PIL.ImageOps.exif_transpose(picture).convert("RGB")


def hub_name(name: str) -> str:
    """timm's own short names, such as `resnet18`, as those of the Hub; anything else as it is."""
    if os.path.exists(name) or "/" in name or not timm.is_model(name):
        return name
    return timm.models.get_pretrained_cfg(name).hf_hub_id or name
