"""Test sets whose features were extracted from disturbed texts and pictures, for models trained on the clean features."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets import Array2D, Dataset

from ..data.errors import DataError
from ..evaluation.scores import Condition
from ..perturbation.protocols import ALL_MODALITIES
from .extraction import SETTINGS


def read_noisy_copies(
    folders: Sequence[str | Path], split: str, data: Dataset, modalities: Sequence[str]
) -> dict[Condition, list[Dataset]]:
    """The rows of a split with the features of noisy copies of it, by what was done to them: one data set per seed.

    Args:
        folders (`Sequence[str]`): Made by :func:`hf_mmalign.runs.extract` with `noise`.
        split (`str`): The split, by the name it has in both.
        data (`Dataset`): Its clean rows, with ids.
        modalities (`Sequence[str]`): All of the model's. Noise on all that are encoded counts as on `"all"`.

    Raises:
        DataError: If a folder is none of these, or its rows or features are not those of `data`.
    """
    found: dict[Condition, dict[int, Dataset]] = {}
    for folder in map(Path, folders):
        noise, clean = _noise_of(folder), _same_rows(folder, split, data)
        disturbed = list(noise["modalities"])
        if not set(disturbed) <= set(modalities):
            raise DataError(f"noise on {disturbed}, and the model's modalities are {list(modalities)}", file=folder)
        whole = len(disturbed) > 1
        if whole and set(disturbed) < set(modalities):
            raise DataError(f"noise on {disturbed} is on neither one nor all of {list(modalities)}", file=folder)
        condition = Condition(noise["kind"], ALL_MODALITIES if whole else disturbed[0], float(noise["epsilon"]))
        of_condition = found.setdefault(condition, {})
        if noise["seed"] in of_condition:
            raise DataError(f"a second copy with {' '.join(condition.parts)} and seed {noise['seed']}", file=folder)
        of_condition[noise["seed"]] = _with_features(data, clean, disturbed, folder)
    return {condition: [copies[seed] for seed in sorted(copies)] for condition, copies in found.items()}


def _noise_of(folder: Path) -> Mapping[str, Any]:
    try:
        return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))["noise"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("no noisy copy: `hf-mmalign data extract --noise` makes them", file=folder) from error


def _same_rows(folder: Path, split: str, data: Dataset) -> Dataset:
    copy = datasets.load_from_disk(str(folder))
    if split not in copy:
        raise DataError(f"it has the splits {', '.join(copy)}, not {split!r}", file=folder)
    for name, rows in (("the data set", data), ("the copy", copy[split])):
        if "id" not in rows.features:
            raise DataError(f"{name} has no ids to tell its rows by; say the option `id` of the table", file=folder)
    if list(map(str, copy[split]["id"][:])) != list(map(str, data["id"][:])):
        raise DataError(f"its rows are not those of the split {split!r}", file=folder)
    return copy[split]


def _with_features(data: Dataset, copy: Dataset, names: list[str], folder: Path) -> Dataset:
    for name in names:
        clean, noisy = data.features.get(name), copy.features[name]
        if not isinstance(clean, Array2D) or clean.shape[1] != noisy.shape[1]:
            raise DataError(f"features of width {noisy.shape[1]}, which the data set has not", file=folder, field=name)
    bare = data.remove_columns(names)
    merged = datasets.concatenate_datasets(
        [bare.with_format(None), copy.select_columns(names).with_format(None)], axis=1
    )
    return merged.select_columns(data.column_names).with_format(**data.format)
