"""`kinetics-sounds`: actions that are seen and heard, with the lists of OGM-GE or of BalanceBenchmark.

    folder/my_train.txt, my_test.txt                 -3Mwkq-7TV4_2,10,23        or train.txt, test.txt, val.txt
    folder/ks_train_overlap.txt, ks_test_overlap.txt -3Mwkq-7TV4_2.mp4 … 23
    folder/train/NAME/NAME.wav
    folder/train/NAME/frame_00001.jpg, …

A line begins with the clip's name and ends with its class, an id from 0 or a name, between commas or blanks. Other places
of sounds and frames: :mod:`.clips`.
"""

import re
from pathlib import Path
from typing import Any

from ..errors import DataError, shown
from ..schema import Source
from .clips import Clip, ClipFiles, annotation_lines, refuse_shared, with_validation
from .files import first_file, require_folder

_FILES = {
    "train": ("train.txt", "my_train.txt", "ks_train_overlap.txt", "train.csv"),
    "test": ("test.txt", "my_test.txt", "ks_test_overlap.txt", "test.csv"),
}
_VALIDATION = ("val.txt", "my_val.txt", "ks_val_overlap.txt", "val.csv")
_ENDING = re.compile(r"\.(mp4|mkv|webm|avi|wav)$")
# The published lists have 31 to 34 classes.
_MOST_CLASSES = 10_000


def open_source(
    path: Path,
    label_names: list[str] | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    audio: dict[str, Any] | str | None = None,
    frames: int = 1,
    drop_missing: bool = False,
) -> Source:
    """Open a Kinetics-Sounds folder.

    Args:
        path (`Path`): The folder.
        label_names (`list[str]`, *optional*): The classes in the order of their ids; by default "0", "1", … up to the
            largest id of the lists, or where those have names, these sorted.
        validation_fraction (`float`): Share of the training clips that become the validation split, by class, where there
            is no list of one.
        seed (`int`): Seed of that draw.
        audio (`dict` or `str`, *optional*): Of the log-mel frames: `sampling_rate`, `n_mels`, `window_ms`, `hop_ms`;
            `"raw"` leaves sounds as they are.
        frames (`int`): Frames in the picture, evenly spaced, side by side.
        drop_missing (`bool`): Leave out clips without sound or frames: some videos have gone from the web.
    """
    require_folder(path, "the folder of the lists, sounds and frames")
    files = ClipFiles(path, audio, frames, drop_missing)
    chosen = {split: first_file(path, names, f"the {split} split") for split, names in _FILES.items()}
    validation = next((path / name for name in _VALIDATION if (path / name).is_file()), None)
    if validation is not None:
        chosen["validation"] = validation
    clips = {split: _clips(file) for split, file in chosen.items()}
    refuse_shared(clips)
    names = _label_names(clips, label_names)
    numbered = {split: [clip._replace(label=_name_of(clip, names)) for clip in found] for split, found in clips.items()}
    return files.source(with_validation(numbered, validation_fraction, seed), names)


def _clips(file: Path) -> list[Clip]:
    clips = []
    for number, line in annotation_lines(file):
        parts = [part.strip() for part in line.split(",")] if "," in line else line.split()
        if len(parts) < 2 or not parts[0] or not parts[-1]:
            raise DataError(f"a line from NAME to class is expected, not {shown(line)}", file=file, row=number)
        name = _ENDING.sub("", parts[0])
        clips.append(Clip(name, name, parts[-1], name, file, number))
    if not clips:
        raise DataError("the file has no clips", file=file)
    return clips


def _label_names(clips: dict[str, list[Clip]], names: list[str] | None) -> list[str]:
    if names:
        return [str(name) for name in names]
    found = {clip.label for split in clips.values() for clip in split}
    if not all(label.isascii() and label.isdigit() for label in found):
        return sorted(found)
    largest = max(int(label[:10]) for label in found)
    if largest >= _MOST_CLASSES:
        raise DataError(f"class id {largest} is implausible", file=clips["train"][0].file, field="label")
    return [str(index) for index in range(largest + 1)]


def _name_of(clip: Clip, names: list[str]) -> str:
    """The name of a clip's class, which the list may have as its id."""
    if clip.label in names or not clip.label.isdigit() or int(clip.label[:10]) >= len(names):
        return clip.label  # if it is none of them, the rows' reader says so
    return names[int(clip.label)]
