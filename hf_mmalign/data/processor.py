"""From raw text, pictures and feature sequences to the tensors every model of the package takes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy
from transformers.utils import CONFIG_NAME, PushToHubMixin, cached_file

from ..stub import write_stub
from .errors import DataError
from .feature_statistics import FeatureStatistics, load_feature_statistics, save_feature_statistics
from .pictures import check_processable
from .schema import modalities_of
from .tensors import pad_features, to_pixels
from .tokenizers import TOKENIZER_FILES, train_tokenizer

__all__ = ["MultimodalBatch", "MultimodalProcessor", "train_tokenizer"]

_CONFIG_FILE = "processor_config.json"
_IMAGE_PROCESSOR_FILE = "preprocessor_config.json"
_STATISTICS_FILE = "feature_statistics.safetensors"
_SETTINGS = ("max_text_length", "truncation", "feature_sizes")
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")

# A missing picture is a blank of the other pictures' size; where a batch has no picture at all, of this size.
_BLANK_SIZE = (32, 32)


class MultimodalBatch(BatchFeature):
    """A `BatchFeature` whose :meth:`to` also moves the feature sequences, which lie in a dict inside it."""

    def to(self, *args: Any, **kwargs: Any) -> "MultimodalBatch":
        nested = {name: BatchFeature(value) for name, value in self.items() if isinstance(value, dict)}
        super().to(*args, **kwargs)
        for name, tensors in nested.items():
            self.data[name] = tensors.to(*args, **kwargs).data
        return self


class MultimodalProcessor(PushToHubMixin):
    """A tokenizer, an image processor, and normalisation and padding of feature sequences, with one saved folder.

    The folder holds the stock files of both parts, so stock `AutoTokenizer`, `AutoImageProcessor` and
    `ViltProcessor.from_pretrained` load it too.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*): For raw text.
        image_processor (*optional*): For pictures; any image processor of transformers.
        max_text_length (`int`, *optional*): Longest text in tokens; by default the tokenizer's own limit, if it has one.
        truncation (`bool`): Cut longer texts. If False they stay whole, and it is for the model to take or refuse them.
        feature_statistics (`Mapping[str, FeatureStatistics]`, *optional*):
            By modality, the mean and standard deviation to normalise its feature sequences by; :meth:`fit_features` finds
            them out. A modality without any stays as it is.
        feature_sizes (`Mapping[str, int]`, *optional*):
            Width D by modality, so that a batch in which every sample lacks a feature sequence has its shape too. A
            :class:`MultimodalCollator` and the statistics tell them as well.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any | None = None,
        max_text_length: int | None = None,
        truncation: bool = True,
        feature_statistics: Mapping[str, FeatureStatistics] | None = None,
        feature_sizes: Mapping[str, int] | None = None,
    ):
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.max_text_length = max_text_length
        self.truncation = truncation
        self.feature_statistics = dict(feature_statistics or {})
        self.feature_sizes = {name: len(fitted.mean) for name, fitted in self.feature_statistics.items()}
        self.learn_feature_sizes(feature_sizes or {})

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model arguments this processor makes."""
        names = ["input_ids", "attention_mask", "token_type_ids"] if self.tokenizer is not None else []
        names += ["pixel_values", "pixel_mask"] if self.image_processor is not None else []
        return [*names, "features", "feature_mask"]

    def fit_features(self, dataset: Dataset, modalities: Iterable[str] | None = None) -> "MultimodalProcessor":
        """Fit the normalisation of feature sequences: mean and standard deviation per dimension over all valid steps.

        Args:
            dataset (`datasets.Dataset`): The training split; with any other, what is tested would leak into training.
            modalities (`Iterable[str]`, *optional*): The columns to normalise, by default all feature sequences.

        Returns:
            The processor itself.

        Raises:
            DataError: For a column that is no feature sequence, is missing in every row, or holds NaN or Inf.
        """
        if isinstance(dataset, DatasetDict):
            raise TypeError("fit_features takes one split: pass dataset['train']")
        kinds = modalities_of(dataset)
        available = [name for name, kind in kinds.items() if isinstance(kind, int)]
        for name in available if modalities is None else modalities:
            if name not in available:
                raise DataError(f"no feature sequence; there is {', '.join(available) or 'none'}", field=name)
            self.feature_statistics[name] = FeatureStatistics.fit(dataset, name)
            self.feature_sizes[name] = kinds[name]
        return self

    def learn_feature_sizes(self, sizes: Mapping[str, int]) -> None:
        """Be told the widths of feature sequences; what was known by another way of telling is forgotten.

        Raises:
            DataError: For a width that the statistics contradict.
        """
        for name, width in sizes.items():
            if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                raise DataError(f"a feature width from 1 is expected, not {width!r}", field=name)
            if name in self.feature_statistics and len(self.feature_statistics[name].mean) != width:
                fitted = len(self.feature_statistics[name].mean)
                raise DataError(f"the processor's statistics are of width {fitted}, not {width}", field=name)
            self.feature_sizes[name] = width

    def __call__(
        self,
        text: str | Sequence[str | None] | None = None,
        images: Any | Sequence[Any] | None = None,
        features: Mapping[str, Any] | None = None,
        feature_mask: Mapping[str, Any] | None = None,
        *,
        return_tensors: str = "pt",
        padding: bool | str = True,
        truncation: bool | str | None = None,
        max_length: int | None = None,
    ) -> MultimodalBatch:
        """Turn B samples into tensors; one sample is a batch of one. Only the keys of what is given come out.

        Args:
            text: B strings (or one); None where the text is missing.
            images: B pictures (or one), each a PIL image, the path of a file, a (H, W, 3) or (H, W) uint8 array, or a
                (3, H, W) uint8 tensor; None where the picture is missing. At most 64 million pixels, and one side at most
                20 times as long as the other.
            features: By modality, either B sequences (T_i, D), None or empty where missing, which are padded at the end; or
                an array or tensor, (B, T, D) if padded already, (T, D) for one sample; or None, missing in all samples.
            feature_mask: By modality, (B, T), 1 on valid steps, else 0; for the modalities given padded. Default: ones.
            return_tensors (`str`): `"pt"` for PyTorch's tensors, `"np"` for NumPy's arrays.
            padding (`bool` or `str`): Of the texts: True or `"longest"`, to the longest of the batch; `"max_length"`;
                False or `"do_not_pad"`, for texts of one length. Pictures and feature sequences are always padded to the
                largest of the batch.
            truncation (`bool` or `str`, *optional*): Whether to cut texts that are too long; by default as the processor
                was made.
            max_length (`int`, *optional*): Longest text in tokens; by default the processor's `max_text_length`, else the
                tokenizer's own limit, if it has one.

        Returns:
            `input_ids`, `attention_mask`, `token_type_ids` (B, T) int64; `pixel_values` (B, 3, H, W) float32 and
            `pixel_mask` (B, H, W) int64; `features`, a dict of (B, T, D) float32, and `feature_mask`, a dict of (B, T)
            int64. The mask of a missing modality is 0 throughout its row. Features are normalised where the processor has
            their statistics; padding is 0, whatever lay there. `.to(device, dtype)` moves all of it.

        Raises:
            DataError: For input of another shape or type, modalities of different numbers of samples, a picture that cannot
                be read or is too large or too long, NaN or Inf in a valid step of a feature sequence, a missing sequence
                of unknown width, and for arguments of another value.
        """
        if return_tensors not in ("pt", "np"):
            raise DataError(f"'pt' or 'np' is expected, not {return_tensors!r}", field="return_tensors")
        texts, pictures = _listed(text, str, "text"), _listed(images, (PIL.Image.Image, str, Path), "images")
        size = _batch_size(texts, pictures, features, feature_mask)
        batch: dict[str, Any] = {}
        if texts is not None:
            batch |= self._tokenize(texts, padding, truncation, max_length)
        if pictures is not None:
            batch |= self._process_images(pictures)
        if features is not None:
            batch |= self._process_features(features, feature_mask or {}, size)
        return MultimodalBatch(_as_arrays(batch) if return_tensors == "np" else batch)

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the files of tokenizer and image processor, `processor_config.json`, and the feature statistics if any."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for part in (self.tokenizer, self.image_processor):
            if part is not None:
                part.save_pretrained(folder)
        config = {
            "processor_class": type(self).__name__,
            "auto_map": {"AutoProcessor": write_stub(folder, MultimodalProcessor)},
            "max_text_length": self.max_text_length,
            "truncation": self.truncation,
        }
        if self.feature_sizes:
            config["feature_sizes"] = self.feature_sizes
        if self.feature_statistics:
            config["normalized_features"] = list(self.feature_statistics)
            save_feature_statistics(self.feature_statistics, folder / _STATISTICS_FILE)
        (folder / _CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoProcessor") -> None:
        """Nothing to do: the package registers its processor, and a saved folder names it instead of carrying its code."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "MultimodalProcessor":
        """Load from a folder or a Hub repository: one of ours, or a stock one with a tokenizer, an image processor or both.

        Args:
            pretrained_model_name_or_path (`str`): Folder or repository id.
            kwargs: `max_text_length`, `truncation` and `feature_sizes` replace the saved values; the usual Hub arguments
                (`revision`, `token`, `cache_dir`, …) are passed on.
        """
        source = str(pretrained_model_name_or_path)
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}

        def find(file: str) -> str | None:
            return cached_file(source, file, _raise_exceptions_for_missing_entries=False, **hub)

        def read(file: str) -> dict[str, Any]:
            path = find(file)
            return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}

        config = read(_CONFIG_FILE)
        has_tokenizer = any(find(file) for file in TOKENIZER_FILES)
        # transformers' own processors save the image processor inside processor_config.json.
        has_image_processor = "image_processor" in config or find(_IMAGE_PROCESSOR_FILE)
        if not (has_tokenizer or has_image_processor or config.get("processor_class") == cls.__name__):
            raise OSError(f"{source} has neither a tokenizer nor an image processor nor a {_CONFIG_FILE} of ours")
        # A processor that no collator has told the widths lies beside a model whose config has them.
        sizes = config.get("feature_sizes") or read(CONFIG_NAME).get("feature_sizes") or {}
        settings = {"feature_sizes": sizes} | {name: config[name] for name in _SETTINGS if config.get(name) is not None}
        settings |= {name: kwargs[name] for name in _SETTINGS if name in kwargs}
        normalized = config.get("normalized_features", [])
        statistics_file = find(_STATISTICS_FILE) if normalized else None
        if normalized and not statistics_file:
            raise OSError(f"{source} normalises {', '.join(normalized)}, but has no {_STATISTICS_FILE} to do it by")
        return cls(
            feature_statistics=load_feature_statistics(Path(statistics_file), normalized) if statistics_file else None,
            tokenizer=AutoTokenizer.from_pretrained(source, **hub) if has_tokenizer else None,
            image_processor=AutoImageProcessor.from_pretrained(source, **hub) if has_image_processor else None,
            **settings,
        )

    def _process_features(
        self, features: Mapping[str, Any], feature_mask: Mapping[str, Any], size: int
    ) -> dict[str, dict[str, Tensor]]:
        values, masks = {}, {}
        for name, sequences in features.items():
            sequences = [None] * size if sequences is None else sequences
            padded, masks[name] = pad_features(sequences, name, feature_mask.get(name), self.feature_sizes.get(name))
            values[name] = self._normalise(padded, masks[name], name)
        return {"features": values, "feature_mask": masks}

    def _normalise(self, values: Tensor, mask: Tensor, name: str) -> Tensor:
        bad = ~values.isfinite() & (mask.unsqueeze(-1) != 0)
        if bad.any():
            sample, step, dimension = bad.nonzero()[0].tolist()
            message = f"{int(bad.sum())} NaN or Inf values, the first at step {step}, dimension {dimension}"
            raise DataError(f"{message}; they must be replaced before, for example by 0", row=sample, field=name)
        if name not in self.feature_statistics:
            return values
        try:
            return self.feature_statistics[name].apply(values, mask)
        except DataError as error:
            raise DataError(str(error), field=name) from error

    def _tokenize(
        self, texts: list[Any], padding: bool | str, truncation: bool | str | None, max_length: int | None
    ) -> dict[str, Tensor]:
        if self.tokenizer is None:
            raise DataError("there is text, but the processor has no tokenizer", field="text")
        for row, text in enumerate(texts):
            _check_text(text, row)
        encoded = self.tokenizer(
            [text if text is not None else "" for text in texts],
            return_token_type_ids=True,
            **self._length_arguments(padding, truncation, max_length),
        )
        lengths = sorted({len(ids) for ids in encoded["input_ids"]})
        if len(lengths) > 1:
            found = f"the texts have {lengths[0]} to {lengths[-1]} tokens"
            raise DataError(f"{found} and make no tensor; padding=True and truncation=True do", field="text")
        names = ("input_ids", "attention_mask", "token_type_ids")
        batch = {name: torch.tensor(encoded[name], dtype=torch.long) for name in names}
        missing = torch.tensor([text is None for text in texts])
        batch["input_ids"][missing] = self.tokenizer.pad_token_id
        batch["attention_mask"][missing] = 0
        return batch

    def _length_arguments(
        self, padding: bool | str, truncation: bool | str | None, max_length: int | None
    ) -> dict[str, Any]:
        """The tokenizer's arguments about length, checked."""
        if max_length is not None and (
            isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1
        ):
            raise DataError(f"a number of tokens from 1 is expected, not {max_length!r}", field="max_length")
        limit = max_length or self.max_text_length or self.tokenizer.model_max_length
        limit = limit if limit < 1_000_000 else None  # tokenizers without a limit say 1e30
        try:
            padding = padding if isinstance(padding, bool) else PaddingStrategy(padding)
            truncation = self.truncation if truncation is None else truncation
            truncation = truncation if isinstance(truncation, bool) else TruncationStrategy(truncation)
        except ValueError as error:
            raise DataError(str(error), field="padding, truncation") from error
        if padding == PaddingStrategy.MAX_LENGTH and limit is None:
            raise DataError("'max_length' needs the argument max_length: the tokenizer knows no limit", field="padding")
        truncation = truncation if limit is not None else False
        used = truncation not in (False, TruncationStrategy.DO_NOT_TRUNCATE) or padding == PaddingStrategy.MAX_LENGTH
        return {"padding": padding, "truncation": truncation, "max_length": limit if used else None}

    def _process_images(self, images: list[Any]) -> dict[str, Tensor]:
        if self.image_processor is None:
            raise DataError("there are pictures, but the processor has no image processor", field="image")
        pictures = [None if image is None else to_pixels(image, row) for row, image in enumerate(images)]
        height, width = next((picture.shape[1:] for picture in pictures if picture is not None), _BLANK_SIZE)
        blank = torch.zeros(3, height, width, dtype=torch.uint8)
        processed = self._tensors_of([blank if picture is None else picture for picture in pictures])
        pixel_values = processed["pixel_values"]
        pixel_mask = processed.get("pixel_mask")
        if pixel_mask is None:
            pixel_mask = torch.ones(pixel_values[:, 0].shape, dtype=torch.long)
        missing = torch.tensor([picture is None for picture in pictures])
        pixel_values[missing] = 0
        pixel_mask[missing] = 0
        return {"pixel_values": pixel_values, "pixel_mask": pixel_mask}

    def _tensors_of(self, pictures: list[Tensor]) -> BatchFeature:
        try:
            # Tensors, not PIL images: the stock processors then stack equal sizes and work on the whole batch at once.
            return self.image_processor(pictures, input_data_format="channels_first", return_tensors="pt")
        except Exception as error:
            for row, picture in enumerate(pictures):
                check_processable(self.image_processor, picture.shape[2], picture.shape[1], row=row, field="image")
            name = type(self.image_processor).__name__
            raise DataError(f"{name} cannot make a batch of the pictures: {error}", field="image") from error


def _listed(value: Any, single: type | tuple[type, ...], field: str) -> list[Any] | None:
    """What is given for one sample or for several, as a list."""
    if value is None:
        return None
    if isinstance(value, single) or getattr(value, "ndim", None) in (2, 3):  # an array is one picture, or (4) several
        return [value]
    if isinstance(value, (Mapping, bytes)) or not isinstance(value, Iterable):
        raise DataError(f"one sample, or a list of them, is expected, not {type(value).__name__}", field=field)
    return list(value)


def _batch_size(
    texts: list[Any] | None,
    pictures: list[Any] | None,
    features: Mapping[str, Any] | None,
    feature_mask: Mapping[str, Any] | None,
) -> int:
    """B, which all that is given must agree on."""
    for field, value in (("features", features), ("feature_mask", feature_mask)):
        if not isinstance(value, (Mapping, type(None))):
            raise DataError(f"a dict by modality is expected, not {type(value).__name__}", field=field)
    unknown = sorted(set(feature_mask or {}) - set(features or {}))
    if unknown:
        raise DataError(f"there are no features of {unknown[0]!r} for this mask", field="feature_mask")
    sizes = {"text": len(texts)} if texts is not None else {}
    sizes |= {"images": len(pictures)} if pictures is not None else {}
    for name, values in (features or {}).items():
        if values is not None:
            if not hasattr(values, "__len__") or isinstance(values, (str, Mapping)):
                raise DataError(
                    f"sequences (T, D), one a sample, are expected, not {type(values).__name__}", field=name
                )
            # An array of two dimensions is one sample.
            sizes[name] = 1 if getattr(values, "ndim", None) == 2 else len(values)
    if not sizes and not features:
        raise DataError("nothing to process: text, images or features are expected")
    if len(set(sizes.values())) > 1:
        raise DataError(f"the same number of samples is expected of all, not {sizes}")
    size = next(iter(sizes.values()), 1)
    if not size:
        raise DataError("nothing to process: there is no sample")
    return size


def _check_text(text: Any, row: int) -> None:
    if not isinstance(text, (str, type(None))):
        raise DataError(f"a string, or None, is expected, not {type(text).__name__}", row=row, field="text")
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"half of a surrogate pair at index {error.start}, which is no text"
        raise DataError(message, row=row, field="text") from error


def _as_arrays(batch: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _as_arrays(value) if isinstance(value, dict) else value.cpu().numpy() for name, value in batch.items()
    }
