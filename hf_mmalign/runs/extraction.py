"""Features of a data set's texts and pictures by encoders that others have trained, as a data set of its own."""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, DatasetDict, Features, Image
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.errors import DataError, shown
from ..data.loading import load_multimodal_dataset, modalities_of
from ..data.schema import feature_sequence
from ..perturbation.noisy_data import RowNoise
from ..reporting.data_card import write_data_card
from ..reporting.files import write_text
from .encoders import Encoder, ImageEncoder, TextEncoder, read_picture

logger = logging.get_logger(__name__)

SETTINGS = "extraction.json"

_RAW = ("text", "image")
# A part is held in memory before it is written, and is what a killed run loses.
_PART_BYTES = 64 * 2**20
_MOST_PART_ROWS = 1024
# Texts at a model's limit, of all, above which a warning says so.
_CUT_SHARE = 0.05


def extract(
    name_or_format: str,
    path: str | Path | None = None,
    *,
    output: str | Path,
    text: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    keep: Sequence[str] = (),
    text_pooling: str | None = None,
    image_pooling: str | None = None,
    max_text_length: int | None = None,
    splits: Sequence[str] | None = None,
    noise: Mapping[str, Any] | None = None,
    noise_seed: int = 0,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    progress: bool = True,
    cache_dir: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> DatasetDict:
    """Encode the texts and pictures of a data set, and save the features as a data set that the format `table` reads.

    Feature sequences of the data set, its ids, labels and groups are kept. `text` and `image` become feature sequences
    of the same names; one that is neither encoded nor kept is left out. A killed run goes on where it stopped when
    called again.

    Args:
        name_or_format, path, cache_dir: As for :func:`hf_mmalign.load_multimodal_dataset`.
        output (`str` or `Path`): Folder of the new data set, in the form of `save_to_disk`, with a `README.md` that says
            what made it. Until all is done, parts of it lie beside it in `OUTPUT.partial`.
        text, image (`str`, *optional*): The encoders: any `AutoModel` (for pictures one of timm's too), as the folder that
            `save_pretrained` wrote or as a name on the Hub. Of CLIP and its kind the tower is taken.
        audio (`str`, *optional*): `"log-mel"`, the frames that a table's sounds become (option `audio` of the format). They
            are kept in any case; this makes sure that there are some.
        keep (`Sequence[str]`): `text` or `image`, to be taken along raw.
        text_pooling, image_pooling (`str`, *optional*): `"mean"` over tokens or patches, `"cls"`, the first one,
            `"pooler"`, what the model itself pools, or `"none"` for all of them. By default texts are averaged and pictures
            pooled by the model if its files have the weights for it, else averaged. In a model of two towers both are
            pooled by it.
        max_text_length (`int`, *optional*): Longest text in tokens; by default what tokenizer and model take.
        splits (`Sequence[str]`, *optional*): The splits to take; all by default.
        noise (`Mapping[str, Any]`, *optional*): Noise on raw texts and pictures before they are encoded, `{protocol: qmf,
            kind: gaussian, epsilon: 5}` and if need be `units` and `modalities`, drawn as in
            :class:`hf_mmalign.perturbation.protocols.NoiseProtocol`. Models trained on the clean features are measured on
            such a copy by the argument `noisy_copies` of :func:`hf_mmalign.runs.robustness`.
        noise_seed (`int`): Seed of that noise.
        batch_size (`int`): Samples at a time. No feature depends on it beyond rounding.
        device (`str` or `torch.device`, *optional*): Where to run; by default an accelerator, if there is one.
        progress (`bool`): Show a progress bar on standard error.
        options (`Mapping[str, Any]`, *optional*): Further arguments of `load_multimodal_dataset`: those of the reader,
            `label_column`, folds.

    Returns:
        The new data set. A missing text or picture is a sequence of length 0, a pooled one of length 1; float32.

    Raises:
        DataError: For a data set, an encoder or options that cannot be used, for a picture that cannot be read, named by
            its row, and if the folder holds something else or was begun with other settings.
    """
    output = Path(output)
    _check_arguments(text, image, audio, keep, batch_size)
    dataset = load_multimodal_dataset(name_or_format, path, cache_dir=cache_dir, **(options or {}))
    kinds = modalities_of(dataset)
    _check_modalities(kinds, {"text": text, "image": image}, audio, keep)
    dataset = _chosen(dataset, splits)
    row_noise = None if noise is None else _row_noise(noise, {"text": text, "image": image}, noise_seed)
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    encoders: dict[str, Encoder] = {}
    if text is not None:
        encoders["text"] = TextEncoder(text, text_pooling, device, max_text_length)
    if image is not None:
        encoders["image"] = ImageEncoder(image, image_pooling, device)
    settings = {
        "source": {
            "format": name_or_format,
            "path": None if path is None else str(path),
            "options": dict(options or {}),
        },
        "content": {split: _fingerprint(data) for split, data in dataset.items()},
        "encoders": {name: encoder.identity for name, encoder in encoders.items()},
        "keep": sorted(keep),
    }
    if noise is not None:
        settings["noise"] = {"units": "mvsa", "modalities": list(encoders), **noise, "seed": noise_seed}
    settings = json.loads(json.dumps(settings, default=str))
    if _is_finished(output, settings):
        return datasets.load_from_disk(str(output))
    work = output.with_name(f"{output.name}.partial")
    _begin(work, settings)
    left_out = [name for name, kind in kinds.items() if kind in _RAW and name not in (*encoders, *keep)]
    with _no_bars():
        parts = _Parts(dataset.with_format(None), work, encoders, left_out, row_noise)
        parts.write_all(batch_size, progress)
        result = parts.assembled()
        whole = Path(tempfile.mkdtemp(prefix=".whole-", dir=work))
        result.save_to_disk(str(whole))
    write_text(whole / SETTINGS, json.dumps(settings, indent=2) + "\n")
    write_data_card(whole, output, result, settings, left_out)
    whole.chmod(work.stat().st_mode)
    output.parent.mkdir(parents=True, exist_ok=True)
    whole.replace(output)  # an empty folder gives way
    shutil.rmtree(work)
    _warn_of_cut_texts(encoders.get("text"))
    return datasets.load_from_disk(str(output))


class _Parts:
    """A data set's rows in parts of a size that memory holds, each a folder that is there as a whole or not at all."""

    def __init__(
        self,
        dataset: DatasetDict,
        work: Path,
        encoders: Mapping[str, Encoder],
        left_out: list[str],
        noise: RowNoise | None,
    ):
        self.work, self.encoders, self.noise = work, encoders, noise
        self.dataset = dataset
        columns = list(next(iter(dataset.values())).features)
        self.kept = [name for name in columns if name not in (*encoders, *left_out)]
        self.order = [name for name in columns if name not in left_out]
        row_bytes = sum(4 * encoder.width * max(encoder.steps, 64) for encoder in encoders.values())
        self.size = max(1, min(_MOST_PART_ROWS, _PART_BYTES // row_bytes))

    def write_all(self, batch_size: int, progress: bool) -> None:
        """Encode and write the parts that are not there yet."""
        total = sum(len(data) for data in self.dataset.values())
        with tqdm(total=total, desc="Extracting", unit=" rows", disable=not progress, file=sys.stderr) as bar:
            for split, start, stop, folder in self._all():
                if folder.is_dir():
                    bar.update(stop - start)
                    bar.refresh()
                    continue
                part = self._part(split, start, stop, batch_size, bar)
                draft = Path(tempfile.mkdtemp(prefix=".part-", dir=self.work))
                part.save_to_disk(str(draft))
                draft.replace(folder)

    def assembled(self) -> DatasetDict:
        """All parts as one data set, mapped into memory."""
        found: dict[str, list[Dataset]] = {}
        for split, _, _, folder in self._all():
            found.setdefault(split, []).append(datasets.load_from_disk(str(folder)))
        return DatasetDict({split: datasets.concatenate_datasets(parts) for split, parts in found.items()})

    def _all(self) -> Iterator[tuple[str, int, int, Path]]:
        for split, data in self.dataset.items():
            for start in range(0, len(data), self.size):
                stop = min(start + self.size, len(data))
                yield split, start, stop, self.work / f"{split}-{start}-{stop}"

    def _part(self, split: str, start: int, stop: int, batch_size: int, bar: tqdm) -> Dataset:
        rows = self.dataset[split].select(range(start, stop))
        pieces = [rows.select_columns(self.kept)]
        for number, (name, encoder) in enumerate(self.encoders.items()):
            # Rows are counted by the last encoder only.
            last = bar if number == len(self.encoders) - 1 else None
            column, place = rows.select_columns([name]), _Place(split, name, start)
            cells = _encoded(column, place, encoder, self.noise, batch_size, last)
            features = Features({name: feature_sequence(encoder.width)})
            pieces.append(Dataset.from_dict({name: cells}, features=features))
        return datasets.concatenate_datasets(pieces, axis=1).select_columns(self.order)


@dataclass(frozen=True)
class _Place:
    """Which cells are encoded: those of one modality, in a split from its row `start` on."""

    split: str
    modality: str
    start: int

    @property
    def field(self) -> str:
        return f"{self.split}.{self.modality}"


def _encoded(
    rows: Dataset, place: _Place, encoder: Encoder, noise: RowNoise | None, batch_size: int, bar: tqdm | None
) -> list[np.ndarray]:
    name = place.modality
    if isinstance(rows.features[name], Image):
        rows = rows.cast_column(name, Image(decode=False))
    result = [np.zeros((0, encoder.width), np.float32)] * len(rows)
    batches = _by_length if encoder.kind == "text" else _in_order
    for indices, cells in batches(rows, name, batch_size):
        present = [(place.start + index, cell) for index, cell in zip(indices, cells, strict=True) if cell is not None]
        samples = [cell for _, cell in present]
        if encoder.kind == "image":
            samples = [read_picture(cell, row=row, field=place.field) for row, cell in present]
        if noise is not None:
            samples = [noise({name: sample}, row, 0)[name] for (row, _), sample in zip(present, samples, strict=True)]
        for (row, _), features in zip(present, encoder(samples) if present else [], strict=True):
            if not np.isfinite(features).all():
                raise DataError(f"{shown(encoder.name)} makes NaN or Inf of it", row=row, field=place.field)
            result[row - place.start] = features
        if bar is not None:
            bar.update(len(indices))
    return result


def _by_length(rows: Dataset, name: str, size: int) -> Iterator[tuple[list[int], list[Any]]]:
    """Texts of about one length together, so that there is little padding; missing ones last."""
    texts = rows[name][:]
    order = sorted(range(len(texts)), key=lambda index: (texts[index] is None, len(texts[index] or "")))
    for first in range(0, len(order), size):
        indices = order[first : first + size]
        yield indices, [texts[index] for index in indices]


def _in_order(rows: Dataset, name: str, size: int) -> Iterator[tuple[list[int], list[Any]]]:
    """Pictures a batch at a time: a part's together may be more than memory holds."""
    for first in range(0, len(rows), size):
        cells = rows[first : first + size][name]
        yield list(range(first, first + len(cells))), cells


def _check_arguments(
    text: str | None, image: str | None, audio: str | None, keep: Sequence[str], batch_size: int
) -> None:
    if text is None and image is None:
        raise DataError("no encoder is given: say text or image, the folder or name of a model")
    if audio not in (None, "log-mel"):
        raise DataError(f"sounds become log-mel frames, and {audio!r} is not known; say log-mel", field="audio")
    for name in keep:
        if name not in _RAW:
            raise DataError(f"{name!r} is none of {', '.join(_RAW)}; all other columns are kept anyway", field="keep")
        if {"text": text, "image": image}[name] is not None:
            raise DataError(f"{name} is encoded, and its column cannot hold the raw one too", field="keep")
    if batch_size < 1:
        raise DataError(f"at least 1 is expected, not {batch_size}", field="batch_size")


def _chosen(dataset: DatasetDict, splits: Sequence[str] | None) -> DatasetDict:
    for split in splits or ():
        if split not in dataset:
            raise DataError(f"{split!r} is none of {', '.join(dataset)}", field="splits")
    return dataset if not splits else DatasetDict({split: dataset[split] for split in splits})


def _row_noise(noise: Mapping[str, Any], encoders: Mapping[str, str | None], seed: int) -> RowNoise:
    try:
        if isinstance(noise, Mapping) and "protocol" not in noise:
            raise ValueError(
                f"noise is of a protocol, such as {{protocol: qmf, kind: gaussian, epsilon: 5}}, not {noise}."
            )
        return RowNoise.of(noise, {name: name for name, model in encoders.items() if model is not None}, seed, "noise")
    except ValueError as error:
        raise DataError(str(error), field="noise") from error


def _check_modalities(
    kinds: Mapping[str, str | int], encoders: Mapping[str, str | None], audio: str | None, keep: Sequence[str]
) -> None:
    for name in _RAW:
        if (encoders[name] is not None or name in keep) and kinds.get(name) != name:
            found = ", ".join(f"{other} ({kind})" for other, kind in kinds.items())
            raise DataError(f"the data set has no raw {name}; its modalities are {found}", field=name)
    if audio is not None and not isinstance(kinds.get("audio"), int):
        raise DataError(f"the data set has no audio; its modalities are {', '.join(kinds)}", field="audio")


def _fingerprint(data: Dataset) -> str:
    """Of a split's rows: the library's own, which follows from the files' sizes and times and from the options."""
    return hashlib.sha256(f"{data._fingerprint} {len(data)}".encode()).hexdigest()[:16]


def _is_finished(output: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the folder holds what is asked for. Raises DataError if it holds anything else."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    file = output / SETTINGS
    if not file.is_file():
        raise DataError("it is there already, and extract has not made it; take another folder", file=output)
    _require_same(json.loads(file.read_text(encoding="utf-8")), settings, output)
    return True


def _begin(work: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of parts, or go on with the one of a killed run."""
    work.mkdir(parents=True, exist_ok=True)
    file = work / SETTINGS
    if file.is_file():
        _require_same(json.loads(file.read_text(encoding="utf-8")), settings, work)
    else:
        write_text(file, json.dumps(settings, indent=2) + "\n")
    for draft in work.glob(".*-*"):
        if draft.is_dir():
            shutil.rmtree(draft)


def _require_same(begun: Mapping[str, Any], settings: Mapping[str, Any], folder: Path) -> None:
    before, now = _flat(begun), _flat(settings)
    changed = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(f"{key} was {shown(before.get(key))} and is {shown(now.get(key))}" for key in changed)
        message = f"made with other settings: {differences}. Say those again, take another folder, or remove this one"
        raise DataError(message, file=folder)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _warn_of_cut_texts(encoder: Encoder | None) -> None:
    if isinstance(encoder, TextEncoder) and encoder.cut > _CUT_SHARE * encoder.seen:
        logger.warning(
            f"{encoder.cut} of {encoder.seen} texts fill the limit of {encoder.max_length} tokens; the rest of them was cut"
        )


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bars of `datasets`, one for each part."""
    were_on = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()
