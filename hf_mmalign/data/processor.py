"""From raw text, pictures and feature sequences to the tensors every model of the package takes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from torch import Tensor
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoTokenizer,
    BatchFeature,
    FeatureExtractionMixin,
    PreTrainedTokenizerBase,
)
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy
from transformers.utils import CONFIG_NAME, PushToHubMixin, cached_file

from ..stub import write_stub
from .errors import DataError
from .feature_statistics import FeatureStatistics, load_feature_statistics, save_feature_statistics
from .image_processors import HUB_ARGUMENTS, load_image_processor, process_images
from .processor_inputs import PICTURES, SOUNDS, as_arrays, batch_size, check_text, listed, moved
from .schema import TARGET, modalities_of
from .sounds import process_sounds
from .tensors import pad_features
from .tokenizers import TOKENIZER_FILES, train_tokenizer

__all__ = ["MultimodalBatch", "MultimodalProcessor", "train_tokenizer"]

_CONFIG_FILE = "processor_config.json"
_IMAGE_PROCESSOR_FILE = "preprocessor_config.json"
_STATISTICS_FILE = "feature_statistics.safetensors"
_SETTINGS = ("max_text_length", "truncation", "feature_sizes")
# The folders of the parts of `modality_processors` in that of the processor, each with its modality's name. One level:
# transformers uploads no deeper.
_PART = "processor-{}"


class MultimodalBatch(BatchFeature):
    """A `BatchFeature` whose :meth:`to` also moves what lies in dicts inside it, as feature sequences do."""

    def to(self, *args: Any, **kwargs: Any) -> "MultimodalBatch":
        self.data = moved(self.data, *args, **kwargs)
        return self


class MultimodalProcessor(PushToHubMixin):
    """A tokenizer, image processors, feature extractors of sound, and normalisation and padding of feature sequences.

    All have one saved folder. It holds the stock files of tokenizer and image processor, so stock `AutoTokenizer`,
    `AutoImageProcessor` and `ViltProcessor.from_pretrained` load it too; those of `modality_processors` lie in
    `processor-<modality>` inside it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`, *optional*): For raw text.
        image_processor (*optional*): For pictures; any image processor of transformers.
        modality_processors (`Mapping[str, Any]`, *optional*):
            By modality, a feature extractor of transformers for sounds, or an image processor, for raw modalities beside
            `"text"` and `"image"`: `{"audio": AutoFeatureExtractor…, "depth": AutoImageProcessor…}`.
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
        modality_processors: Mapping[str, Any] | None = None,
    ):
        self.modality_processors = dict(modality_processors or {})
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
        if "audio" in self.modality_processors:
            names += [self.modality_processors["audio"].model_input_names[0], "audio_mask"]
        names += ["modality_inputs"] if set(self.modality_processors) - {"audio"} else []
        return [*names, "features", "feature_mask"]

    def fit_features(
        self, dataset: Dataset | IterableDataset, modalities: Iterable[str] | None = None
    ) -> "MultimodalProcessor":
        """Fit the normalisation of feature sequences: mean and standard deviation per dimension over all valid steps.

        Args:
            dataset (`datasets.Dataset` or `IterableDataset`): The training split, which is read once; with any other, what
                is tested would leak into training.
            modalities (`Iterable[str]`, *optional*): The columns to normalise, by default all feature sequences.

        Returns:
            The processor itself.

        Raises:
            DataError: For a column that is no feature sequence, is missing in every row, or holds NaN or Inf.
        """
        if isinstance(dataset, dict):
            raise TypeError("fit_features takes one split: pass dataset['train']")
        kinds = modalities_of(dataset)
        available = [name for name, kind in kinds.items() if isinstance(kind, int)]
        names = available if modalities is None else list(modalities)
        for name in names:
            if name not in available:
                raise DataError(f"no feature sequence; there is {', '.join(available) or 'none'}", field=name)
        self.feature_statistics |= FeatureStatistics.fit_all(dataset, names) if names else {}
        self.feature_sizes |= {name: kinds[name] for name in names}
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
        audio: Any | Sequence[Any] | None = None,
        modality_inputs: Mapping[str, Any] | None = None,
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
            audio: B sounds (or one), each the path of a file, its bytes, a dict of `bytes` and `path` or of `array` and
                `sampling_rate`, or an array (S,) at the extractor's rate; None where the sound is missing. Others are
                resampled, channels averaged.
            modality_inputs: By a further modality of `modality_processors`, B pictures or sounds (or one), as above.
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
            `pixel_mask` (B, H, W) int64; `input_values` or `input_features` float32 and `audio_mask` (B, S) int64;
            `modality_inputs`, a dict of these by modality; `features`, a dict of (B, T, D) float32, and `feature_mask`, a
            dict of (B, T) int64. The mask of a missing modality is 0 throughout its row. Features are normalised where the
            processor has their statistics; padding is 0, whatever lay there. `.to(device, dtype)` moves all of it.

        Raises:
            DataError: For input of another shape or type, modalities of different numbers of samples, a picture that cannot
                be read or is too large or too long, NaN or Inf in a valid step of a feature sequence, a missing sequence
                of unknown width, and for arguments of another value.
        """
        if return_tensors not in ("pt", "np"):
            raise DataError(f"'pt' or 'np' is expected, not {return_tensors!r}", field="return_tensors")
        texts, pictures = listed(text, str, "text"), listed(images, PICTURES, "images")
        others = self._other_samples(audio, modality_inputs)
        size = batch_size({"text": texts, "images": pictures} | others, features, feature_mask)
        batch: dict[str, Any] = {}
        if texts is not None:
            batch |= self._tokenize(texts, padding, truncation, max_length)
        if pictures is not None:
            if self.image_processor is None:
                raise DataError("there are pictures, but the processor has no image processor", field="image")
            batch |= process_images(self.image_processor, pictures, "image")
        if others:
            batch |= self._process_others(others)
        if features is not None:
            batch |= self._process_features(features, feature_mask or {}, size)
        return MultimodalBatch(as_arrays(batch) if return_tensors == "np" else batch)

    def _other_samples(self, audio: Any, modality_inputs: Mapping[str, Any] | None) -> dict[str, list[Any]]:
        """What is given for the parts of `modality_processors`, as lists by modality."""
        if not isinstance(modality_inputs, (Mapping, type(None))):
            raise DataError(f"a dict is expected, not {type(modality_inputs).__name__}", field="modality_inputs")
        given = {
            name: value for name, value in {"audio": audio, **(modality_inputs or {})}.items() if value is not None
        }
        for name in given:
            if name not in self.modality_processors:
                known = list(self.modality_processors) or "none"
                raise DataError(f"the processor has no part for it; its modality_processors are {known}", field=name)
        return {
            name: listed(value, *((SOUNDS, name, (1,)) if self._is_sound(name) else (PICTURES, name)))
            for name, value in given.items()
        }

    def _is_sound(self, name: str) -> bool:
        return isinstance(self.modality_processors[name], FeatureExtractionMixin)

    def _process_others(self, samples: Mapping[str, list[Any]]) -> dict[str, Any]:
        made = {}
        for name, values in samples.items():
            process = process_sounds if self._is_sound(name) else process_images
            made[name] = process(self.modality_processors[name], values, name)
        batch: dict[str, Any] = made.pop("audio") if "audio" in made and self._is_sound("audio") else {}
        return batch | ({"modality_inputs": made} if made else {})

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the files of all parts, `processor_config.json`, and the feature statistics if any."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        for part in (self.tokenizer, self.image_processor):
            if part is not None:
                part.save_pretrained(folder)
        for name, part in self.modality_processors.items():
            part.save_pretrained(folder / _PART.format(name))
        config = {
            "processor_class": type(self).__name__,
            "auto_map": {"AutoProcessor": write_stub(folder, MultimodalProcessor)},
            "max_text_length": self.max_text_length,
            "truncation": self.truncation,
        }
        if self.modality_processors:
            kinds = {name: "audio" if self._is_sound(name) else "image" for name in self.modality_processors}
            config["modality_processors"] = kinds
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
        """Load from a folder or a Hub repository: one of ours, or a stock one with a tokenizer, an image processor or both,
        or the feature extractor of a model of sounds, which is then the one of `"audio"`.

        Args:
            pretrained_model_name_or_path (`str`): Folder or repository id.
            kwargs: `max_text_length`, `truncation` and `feature_sizes` replace the saved values; the usual Hub arguments
                (`revision`, `token`, `cache_dir`, …) are passed on.
        """
        source = str(pretrained_model_name_or_path)
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}

        def find(file: str) -> str | None:
            return cached_file(source, file, _raise_exceptions_for_missing_entries=False, **hub)

        def read(file: str) -> dict[str, Any]:
            path = find(file)
            return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}

        config = read(_CONFIG_FILE)
        has_tokenizer = any(find(file) for file in TOKENIZER_FILES)
        stock = read(_IMAGE_PROCESSOR_FILE)
        hears = "feature_extractor_type" in stock and "image_processor_type" not in stock
        # transformers' own processors save the image processor inside processor_config.json, timm's models in config.json.
        has_image_processor = (
            "image_processor" in config or (stock and not hears) or "architecture" in read(CONFIG_NAME)
        )
        if not (has_tokenizer or has_image_processor or hears or config.get("processor_class") == cls.__name__):
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
            image_processor=load_image_processor(source, **hub) if has_image_processor else None,
            modality_processors=_load_parts(
                source, {"audio": ""} if hears else config.get("modality_processors", {}), hub
            ),
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
        # A sum that is finite has finite terms only, and one pass over them instead of four tells.
        if not values.sum().isfinite():
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
            check_text(text, row)
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

    def target_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each translation, its end token included; cut as the texts are.

        Raises:
            DataError: For what is no text, or without a tokenizer.
        """
        if self.tokenizer is None:
            raise DataError("there are translations, but the processor has no tokenizer", field=TARGET)
        for row, text in enumerate(texts):
            check_text(text, row, TARGET)
        limits = self._length_arguments(False, None, None)
        return self.tokenizer(text_target=list(texts), **limits)["input_ids"]

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


def _load_parts(source: str, kinds: Mapping[str, str], hub: Mapping[str, Any]) -> dict[str, Any]:
    """The `modality_processors` of a folder, by modality `"image"` or `"audio"`, or `""` for one in the folder itself."""
    parts = {}
    for name, kind in kinds.items():
        place = {"subfolder": "/".join(filter(None, (hub.get("subfolder"), _PART.format(name))))} if kind else {}
        load = AutoImageProcessor.from_pretrained if kind == "image" else AutoFeatureExtractor.from_pretrained
        parts[name] = load(source, **{**hub, **place})
    return parts
