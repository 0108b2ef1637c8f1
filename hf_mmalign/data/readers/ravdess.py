"""`ravdess`: facial action units and voice features of RAVDESS, acted emotions of 24 actors.

    {"01-01-05-01-02-01-16": (294,) numbers: 35 facial action units, then 259 MFCC statistics, …}

The name of a clip says what it is: modality, vocal channel, emotion, intensity, statement, repetition, actor (odd numbers
are men, even ones women). Both modalities are sequences of one step. Splits are by actor, because a model that has seen an
actor recognises him (random splits inflate the accuracy by ten points).

The file is read by :mod:`hf_mmalign.data.safe_pickle`, so nothing it contains is executed.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Features, Value

from ..errors import DataError, shown
from ..safe_pickle import load_pickle
from ..schema import SPLITS, Source, feature_sequence
from .features import FiniteGate
from .files import first_file, require_file
from .options import require_boolean, require_integer

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_MODALITIES = {"action_units": 35, "mfcc": 259}
_CLIP = re.compile(r"\d\d-\d\d-(?P<emotion>0[1-8])-\d\d-\d\d-\d\d-(?P<actor>\d\d)")


def open_source(
    path: Path, fold: int = 0, folds: int = 6, standardize_actors: bool = False, nonfinite: str = "error"
) -> Source:
    """Open RAVDESS features: `action_units` (1, 35), `mfcc` (1, 259), and the emotion as the label.

    Args:
        path (`Path`): The pickle, or the folder with `au_mfcc.pkl`.
        fold (`int`): 0 to `folds` - 1. The actors of this fold are the test split, those of the next one (after the last,
            the first) the validation split, all others the training split.
        folds (`int`): Number of folds, at least 3; men and women are spread evenly over them.
        standardize_actors (`bool`): Bring each actor's features to zero mean and unit variance over the actor's own clips,
            as speaker normalisation does. No label is used, but all clips of a test actor are: for a system that has
            recordings of the person before it judges one, and not to be compared with results without it.
        nonfinite (`str`): `error`, or `replace` NaN and Inf by 0.
    """
    require_integer("folds", folds, 3, 12)
    require_integer("fold", fold, 0, folds - 1)
    require_boolean("standardize_actors", standardize_actors)
    if path.is_dir():
        path = first_file(path, ("au_mfcc.pkl",), "the pickle of RAVDESS features")
    clips = _checked_clips(load_pickle(require_file(path, "a pickle of RAVDESS features")), path)
    actors = {name: int(_CLIP.fullmatch(name)["actor"]) for name in clips}
    if standardize_actors:
        clips = _standardized(clips, actors)
    fold_of = _fold_of_actors(sorted(set(actors.values())), folds, path)
    split_of = {fold: "test", (fold + 1) % folds: "validation"}
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in sorted(clips, key=_mixed_order):
        names[split_of.get(fold_of[actors[name]], "train")].append(name)
    columns = {"id": Value("string"), **{name: feature_sequence(width) for name, width in _MODALITIES.items()}}
    features = Features({**columns, "label": ClassLabel(names=list(EMOTIONS))})
    return Source(features, {split: partial(_rows, names[split], clips, nonfinite, path) for split in SPLITS})


def _checked_clips(content: Any, path: Path) -> dict[str, np.ndarray]:
    if not isinstance(content, dict) or not content:
        raise DataError("a dict of clips is expected, their names as keys", file=path)
    width = sum(_MODALITIES.values())
    clips = {}
    for row, (name, values) in enumerate(content.items()):
        if not isinstance(name, str) or not _CLIP.fullmatch(name):
            expected = "seven two-digit numbers joined by '-', the third from 01 to 08"
            raise DataError(f"the key {shown(name)} is no clip name: {expected}", file=path, row=row)
        try:
            values = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{width} numbers are expected: {error}", file=path, row=row, field=name) from error
        if values.shape != (width,):
            raise DataError(f"{width} numbers are expected, not {values.shape}", file=path, row=row, field=name)
        clips[name] = values
    return clips


def _standardized(clips: dict[str, np.ndarray], actors: dict[str, int]) -> dict[str, np.ndarray]:
    """Each actor's clips, standardised by what is finite in them."""
    result = {}
    for actor in set(actors.values()):
        names = [name for name in clips if actors[name] == actor]
        values = np.stack([clips[name] for name in names])
        finite = np.ma.masked_invalid(values)
        mean, std = finite.mean(axis=0).filled(0), finite.std(axis=0).filled(0)
        constant = std <= np.finfo(np.float32).eps * np.abs(mean)
        result |= dict(zip(names, (values - mean) / np.where(constant, 1, std), strict=True))
    return result


def _fold_of_actors(actors: list[int], folds: int, path: Path) -> dict[int, int]:
    """The fold of each actor. Women are dealt in the opposite direction, so that uneven folds even out."""
    men = [actor for actor in actors if actor % 2]
    women = [actor for actor in actors if not actor % 2]
    if min(len(men), len(women)) < folds:
        raise DataError(f"{folds} folds need as many men and women; there are {len(men)} and {len(women)}", file=path)
    return {actor: index % folds for index, actor in enumerate(men)} | {
        actor: folds - 1 - index % folds for index, actor in enumerate(women)
    }


def _mixed_order(name: str) -> tuple[list[str], str]:
    """Sorts clips by emotion last, so that the first rows of a split, which a recipe may limit itself to, have them all."""
    _modality, _channel, emotion, *rest = name.split("-")
    return rest, emotion


def _rows(names: list[str], clips: dict[str, np.ndarray], nonfinite: str, path: Path) -> Iterator[dict[str, Any]]:
    gates = {modality: FiniteGate(nonfinite, path, modality) for modality in _MODALITIES}
    for row, name in enumerate(names):
        parts = np.split(clips[name], np.cumsum(list(_MODALITIES.values()))[:-1])
        columns = {
            modality: gate(part[None, None], row)[0]
            for (modality, gate), part in zip(gates.items(), parts, strict=True)
        }
        yield {"id": name, **columns, "label": EMOTIONS[int(_CLIP.fullmatch(name)["emotion"]) - 1]}
    for gate in gates.values():
        gate.close()
