"""From raw text, pictures and feature sequences to the tensors every model of the package takes."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import PushToHubMixin, cached_file

from ..stub import write_stub
from .errors import DataError
from .feature_statistics import FeatureStatistics, load_feature_statistics, save_feature_statistics
from .schema import modalities_of

_CONFIG_FILE = "processor_config.json"
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "vocab.txt")
_IMAGE_PROCESSOR_FILE = "preprocessor_config.json"
_STATISTICS_FILE = "feature_statistics.safetensors"
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
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        image_processor: Any | None = None,
        max_text_length: int | None = None,
        truncation: bool = True,
        feature_statistics: Mapping[str, FeatureStatistics] | None = None,
    ):
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.max_text_length = max_text_length
        self.truncation = truncation
        self.feature_statistics = dict(feature_statistics or {})

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
        return self

    def __call__(
        self,
        text: str | Sequence[str | None] | None = None,
        images: Any | Sequence[Any] | None = None,
        features: Mapping[str, Tensor | Sequence[Any]] | None = None,
        feature_mask: Mapping[str, Tensor] | None = None,
    ) -> MultimodalBatch:
        """Turn B samples into tensors. Only the keys of the modalities that are given come out.

        Args:
            text: B strings (or one); None where the text is missing.
            images: B pictures (or one), each a PIL image, a (H, W, 3) or (H, W) uint8 array, or a (3, H, W) uint8 tensor;
                None where the picture is missing.
            features: By modality, either B sequences (T_i, D), None or empty where missing, which are padded at the end; or
                a padded tensor (B, T, D).
            feature_mask: By modality, (B, T), 1 on valid steps; for the modalities given as padded tensors. Default: ones.

        Returns:
            `input_ids`, `attention_mask`, `token_type_ids` (B, T) int64; `pixel_values` (B, 3, H, W) float32 and
            `pixel_mask` (B, H, W) int64; `features`, a dict of (B, T, D) float32, and `feature_mask`, a dict of (B, T)
            int64. The mask of a missing modality is 0 throughout its row. Features are normalised where the processor has
            their statistics; padding is 0.

        Raises:
            DataError: For input of another shape or type, and for NaN or Inf in a valid step of a feature sequence.
        """
        batch: dict[str, Any] = {}
        if text is not None:
            batch |= self._tokenize([text] if isinstance(text, str) else list(text))
        if images is not None:
            batch |= self._process_images(list(images) if isinstance(images, (list, tuple)) else [images])
        if features is not None:
            batch["features"], batch["feature_mask"] = {}, {}
            for name, sequences in features.items():
                values, mask = _pad(sequences, name, (feature_mask or {}).get(name))
                batch["features"][name] = self._normalise(values, mask, name)
                batch["feature_mask"][name] = mask
        return MultimodalBatch(batch)

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
            kwargs: `max_text_length` and `truncation` replace the saved values; the usual Hub arguments (`revision`,
                `token`, `cache_dir`, …) are passed on.
        """
        source = str(pretrained_model_name_or_path)
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}

        def find(file: str) -> str | None:
            return cached_file(source, file, _raise_exceptions_for_missing_entries=False, **hub)

        config_file = find(_CONFIG_FILE)
        config = json.loads(Path(config_file).read_text(encoding="utf-8")) if config_file else {}
        has_tokenizer = any(find(file) for file in _TOKENIZER_FILES)
        # transformers' own processors save the image processor inside processor_config.json.
        has_image_processor = "image_processor" in config or find(_IMAGE_PROCESSOR_FILE)
        if not (has_tokenizer or has_image_processor or config.get("processor_class") == cls.__name__):
            raise OSError(f"{source} has neither a tokenizer nor an image processor nor a {_CONFIG_FILE} of ours")
        settings = {name: config[name] for name in ("max_text_length", "truncation") if name in config}
        settings |= {name: kwargs[name] for name in ("max_text_length", "truncation") if name in kwargs}
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

    def _tokenize(self, texts: list[str | None]) -> dict[str, Tensor]:
        if self.tokenizer is None:
            raise DataError("there is text, but the processor has no tokenizer", field="text")
        limit = self.max_text_length or self.tokenizer.model_max_length
        # Tokenizers without a limit say 1e30.
        cut = {"truncation": True, "max_length": limit} if self.truncation and limit < 1_000_000 else {}
        encoded = self.tokenizer(
            [text if text is not None else "" for text in texts],
            padding=True,
            return_token_type_ids=True,
            return_tensors="pt",
            **cut,
        )
        batch = {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        missing = torch.tensor([text is None for text in texts])
        batch["input_ids"][missing] = self.tokenizer.pad_token_id
        batch["attention_mask"][missing] = 0
        return batch

    def _process_images(self, images: list[Any]) -> dict[str, Tensor]:
        if self.image_processor is None:
            raise DataError("there are pictures, but the processor has no image processor", field="image")
        pictures = [None if image is None else _to_pixels(image) for image in images]
        height, width = next((picture.shape[1:] for picture in pictures if picture is not None), _BLANK_SIZE)
        blank = torch.zeros(3, height, width, dtype=torch.uint8)
        # Tensors, not PIL images: the stock processors then stack equal sizes and work on the whole batch at once.
        processed = self.image_processor(
            [blank if picture is None else picture for picture in pictures],
            input_data_format="channels_first",
            return_tensors="pt",
        )
        pixel_values = processed["pixel_values"]
        pixel_mask = processed.get("pixel_mask")
        if pixel_mask is None:
            pixel_mask = torch.ones(pixel_values[:, 0].shape, dtype=torch.long)
        missing = torch.tensor([picture is None for picture in pictures])
        pixel_values[missing] = 0
        pixel_mask[missing] = 0
        return {"pixel_values": pixel_values, "pixel_mask": pixel_mask}


def train_tokenizer(texts: Iterable[str], vocab_size: int, lowercase: bool = True) -> PreTrainedTokenizerFast:
    """Build a BERT-style WordPiece tokenizer from texts, offline, the same from the same texts.

    The vocabulary is the special tokens, every character, and the most frequent words; a rarer word is spelt out. That
    suits the small vocabularies of models trained from scratch. (The trainers of the `tokenizers` library learn subwords
    too, but their ties fall at random, so that two runs with one seed would differ in their token ids.)

    Args:
        texts (`Iterable[str]`): The training split's texts; pass no others, or their words leak.
        vocab_size (`int`): Upper bound on the vocabulary, the five special tokens included.
        lowercase (`bool`): Lower the case, and strip accents with it, as BERT's uncased tokenizers do.

    Returns:
        `PreTrainedTokenizerFast` that wraps a text as `[CLS] … [SEP]`, a pair as `[CLS] … [SEP] … [SEP]` with token
        types 0 and 1.
    """
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    special["mask_token"] = "[MASK]"
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text)))
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for piece in (word[0], *(f"##{character}" for character in word[1:])):
            characters[piece] += count
    tokens = dict.fromkeys([*special.values(), *_by_frequency(characters), *_by_frequency(words)])
    vocab = {token: index for index, token in enumerate(list(tokens)[:vocab_size])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )


def _by_frequency(counts: Counter[str]) -> list[str]:
    return sorted(counts, key=lambda item: (-counts[item], item))


def _to_pixels(image: Any) -> Tensor:
    """A picture as (3, H, W) uint8."""
    if isinstance(image, Tensor):
        if image.ndim == 3 and image.shape[0] == 3 and image.dtype == torch.uint8:
            return image
        raise DataError(
            f"a picture tensor must be (3, H, W) uint8, not {tuple(image.shape)} {image.dtype}", field="image"
        )
    if hasattr(image, "convert"):
        image = image.convert("RGB")
    # A copy, because torch wants to own its memory and PIL's is read-only.
    pixels = np.array(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or pixels.dtype != np.uint8:
        raise DataError(f"a picture must be (H, W, 3) uint8, not {pixels.shape} {pixels.dtype}", field="image")
    return torch.from_numpy(pixels[:, :, :3]).permute(2, 0, 1)


def _pad(values: Tensor | Sequence[Any], name: str, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sequences (T_i, D) → (B, T, D) float32 and mask (B, T) int64; a padded tensor comes back with its mask."""
    if isinstance(values, Tensor):
        if values.ndim != 3:
            raise DataError(f"a padded tensor must be (B, T, D), not {tuple(values.shape)}", field=name)
        mask = torch.ones(values.shape[:2], dtype=torch.long) if mask is None else mask
        if mask.shape != values.shape[:2]:
            raise DataError(f"mask {tuple(mask.shape)} for features {tuple(values.shape)}", field=name)
        return values.float(), mask.long()
    if mask is not None:
        raise DataError("a mask is for a padded tensor; sequences of their own lengths need none", field=name)
    sequences = [None if value is None else np.asarray(value, dtype=np.float32) for value in values]
    shapes = [sequence.shape for sequence in sequences if sequence is not None and sequence.size]
    # Empty sequences tell their width too, if they have one; it is needed where the whole batch lacks the modality.
    shapes = shapes or [sequence.shape for sequence in sequences if sequence is not None and sequence.ndim == 2]
    if not shapes:
        raise DataError("missing in every sample, so its width is unknown; pass an array of shape (0, D)", field=name)
    widths = {shape[-1] for shape in shapes}
    if len(widths) > 1 or any(len(shape) != 2 for shape in shapes):
        raise DataError(f"sequences of one width, (T, D), are expected, not {sorted(set(shapes))}", field=name)
    lengths = [0 if sequence is None else len(sequence) for sequence in sequences]
    padded = np.zeros((len(sequences), max(1, *lengths), widths.pop()), dtype=np.float32)
    mask = torch.zeros(padded.shape[:2], dtype=torch.long)
    for index, length in enumerate(lengths):
        if length:
            padded[index, :length] = sequences[index]
            mask[index, :length] = 1
    return torch.from_numpy(padded), mask
