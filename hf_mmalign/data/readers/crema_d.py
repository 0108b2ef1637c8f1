"""`crema-d`: acted emotion in sound and picture, as OGM-GE and BalanceBenchmark lay CREMA-D out.

    folder/train.csv, test.csv          1041_TIE_NEU_XX,NEU      a clip and its emotion, without a header; or val.csv too
    folder/AudioWAV/1041_TIE_NEU_XX.wav
    folder/Image-01-FPS/1041_TIE_NEU_XX/*.jpg

Other places of sounds and frames: :mod:`.clips`. A clip's first four digits name the actor, whom `group` keeps.
"""

from pathlib import Path
from typing import Any

from ..errors import DataError, shown
from ..schema import Source
from .clips import Clip, ClipFiles, annotation_lines, refuse_shared, with_validation
from .files import first_file, require_folder

EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
_FILES = {"train": ("train.csv",), "test": ("test.csv",)}
_VALIDATION = ("val.csv", "validation.csv")


def open_source(
    path: Path,
    validation_fraction: float = 0.1,
    seed: int = 0,
    audio: dict[str, Any] | str | None = None,
    frames: int = 1,
    drop_missing: bool = False,
) -> Source:
    """Open a CREMA-D folder.

    Args:
        path (`Path`): The folder.
        validation_fraction (`float`): Share of the training clips that become the validation split, by class, where there
            is no `val.csv`.
        seed (`int`): Seed of that draw.
        audio (`dict` or `str`, *optional*): Of the log-mel frames: `sampling_rate`, `n_mels`, `window_ms`, `hop_ms`;
            `"raw"` leaves sounds as they are.
        frames (`int`): Frames in the picture, evenly spaced, side by side.
        drop_missing (`bool`): Leave out clips without sound or frames.
    """
    require_folder(path, "the folder of train.csv, test.csv, sounds and frames")
    files = ClipFiles(path, audio, frames, drop_missing)
    chosen = {split: first_file(path, names, f"the {split} split") for split, names in _FILES.items()}
    validation = next((path / name for name in _VALIDATION if (path / name).is_file()), None)
    if validation is not None:
        chosen["validation"] = validation
    clips = {split: _clips(file) for split, file in chosen.items()}
    refuse_shared(clips)
    return files.source(with_validation(clips, validation_fraction, seed), EMOTIONS)


def _clips(file: Path) -> list[Clip]:
    clips = []
    for number, line in annotation_lines(file):
        name, _, emotion = (part.strip() for part in line.partition(","))
        if not name or emotion not in EMOTIONS:
            expected = f"CLIP,EMOTION with one of {', '.join(EMOTIONS)}"
            raise DataError(f"{expected} is expected, not {shown(line)}", file=file, row=number)
        clips.append(Clip(name, name, emotion, name.partition("_")[0], file, number))
    if not clips:
        raise DataError("the file has no clips", file=file)
    return clips
