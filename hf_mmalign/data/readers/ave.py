"""`ave`: audio-visual events, with the annotation files that AVE is distributed with.

    folder/trainSet.txt, valSet.txt, testSet.txt     Church bell&RUhOCu3LNXM&good&0&10
    folder/audio/RUhOCu3LNXM.wav
    folder/visual/RUhOCu3LNXM/*.jpg

A line is category, video, quality, start and end of the event in seconds. The whole clip is taken, as works on balanced
learning do. A video may have several events; `group` keeps its name. Other places of sounds and frames: :mod:`.clips`.
"""

from pathlib import Path
from typing import Any

from ..errors import DataError, shown
from ..schema import Source
from .clips import Clip, ClipFiles, annotation_lines
from .files import first_file, require_folder

_FILES = {
    "train": ("trainSet.txt", "train.txt"),
    "validation": ("valSet.txt", "val.txt"),
    "test": ("testSet.txt", "test.txt"),
}
_FIELDS = 5


def open_source(
    path: Path,
    label_names: list[str] | None = None,
    audio: dict[str, Any] | str | None = None,
    frames: int = 1,
    drop_missing: bool = False,
) -> Source:
    """Open an AVE folder.

    Args:
        path (`Path`): The folder.
        label_names (`list[str]`, *optional*): The categories in the order of their ids; by default those of the three
            files, sorted.
        audio (`dict` or `str`, *optional*): Of the log-mel frames: `sampling_rate`, `n_mels`, `window_ms`, `hop_ms`;
            `"raw"` leaves sounds as they are.
        frames (`int`): Frames in the picture, evenly spaced, side by side.
        drop_missing (`bool`): Leave out clips without sound or frames.
    """
    require_folder(path, "the folder of trainSet.txt, valSet.txt, testSet.txt, sounds and frames")
    files = ClipFiles(path, audio, frames, drop_missing)
    chosen = {split: first_file(path, names, f"the {split} split") for split, names in _FILES.items()}
    clips = {split: _clips(file) for split, file in chosen.items()}
    found = sorted({clip.label for split in clips.values() for clip in split})
    return files.source(clips, [str(name) for name in label_names] if label_names else found)


def _clips(file: Path) -> list[Clip]:
    clips = []
    for number, line in annotation_lines(file):
        parts = [part.strip() for part in line.split("&")]
        if number == 1 and parts[:2] == ["Category", "VideoID"]:
            continue
        if len(parts) != _FIELDS or not all(parts[:2]):
            expected = "Category&VideoID&Quality&StartTime&EndTime"
            raise DataError(f"{expected} is expected, not {shown(line)}", file=file, row=number)
        category, video = parts[:2]
        clips.append(Clip(f"{video}/{number}", video, category, video, file, number))
    if not clips:
        raise DataError("the file has no clips", file=file)
    return clips
