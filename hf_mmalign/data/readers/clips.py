"""What the readers of CREMA-D, AVE and Kinetics-Sounds share: clips, each a sound file and a folder of frames.

    folder/audio/NAME.wav           or AudioWAV/NAME.wav, audio/{train,test}/NAME.wav, {train,test}/NAME/NAME.wav
    folder/visual/NAME/*.jpg        or frames/NAME/, Image-01-FPS/NAME/, visual/{train,test}/NAME/, {train,test}/NAME/

Videos are not decoded: the frames are those that somebody extracted, as the public code does once per second. `audio` is
the sound's log-mel frames, `image` the middle frame, or several side by side.
"""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from datasets import ClassLabel, Features, Image, Value

from ..audio import LogMel, check_audio, read_audio
from ..errors import DataError, shown
from ..pictures import opened_picture
from ..schema import SOUND, SPLITS, Source, feature_sequence
from ..splitting import draw_parts
from .files import ImageChecker, path_inside, require_text
from .options import require_boolean, require_integer
from .table import audio_settings

_SOUND_FOLDERS = ("audio/{name}", "AudioWAV/{name}", "audio/{split}/{name}", "{split}/{name}/{name}")
_FRAME_FOLDERS = (
    "visual/{name}", "frames/{name}", "Image-01-FPS/{name}", "Image-02-FPS/{name}", "Image-03-FPS/{name}",
    "visual/{split}/{name}", "frames/{split}/{name}", "{split}/{name}",
)  # fmt: skip
_SOUND_ENDINGS = (".wav", ".flac", ".mp3", ".ogg")
_PICTURE_ENDINGS = (".jpg", ".jpeg", ".png")
_VIDEOS = ("AVE/{name}.mp4", "VideoFlash/{name}.flv", "video/{name}.mp4", "{split}/{name}.mp4")
# What the splits' folders are called; rows of a split that was drawn from another lie in that one's.
_SPLIT_FOLDERS = {
    "train": ("train",),
    "validation": ("val", "validation", "valid", "train"),
    "test": ("test", "val"),
}
_MOST_FRAMES = 16
_JPEG_QUALITY = 95


class Clip(NamedTuple):
    """A line of an annotation file.

    Attributes:
        id (`str`): Of the row.
        name (`str`): Of its files, without ending.
        label (`str`): Name of the class.
        group (`str`): What clips of one person, or of one video, have in common.
        file (`Path`), line (`int`): Where it stands, from 1.
    """

    id: str
    name: str
    label: str
    group: str
    file: Path
    line: int

    @property
    def place(self) -> dict[str, Any]:
        return {"file": self.file, "row": self.line}


class ClipFiles:
    """Finds and reads the files of clips.

    Args:
        root (`Path`): The data set's folder.
        audio (`dict` or `str`, *optional*): As the option `audio` of a table.
        frames (`int`): How many frames go into the picture, evenly spaced and side by side.
        drop_missing (`bool`): Leave out clips without sound or frames, as the public code does. Else they lack that
            modality, and one without both is an error.
    """

    def __init__(self, root: Path, audio: dict[str, Any] | str | None, frames: int, drop_missing: bool):
        self.root = root
        self.mel = None if audio == "raw" else LogMel(**audio_settings(audio))
        self.frames = require_integer("frames", frames, 1, _MOST_FRAMES)
        self.drop_missing = require_boolean("drop_missing", drop_missing)
        self.images = ImageChecker()

    def source(self, clips: dict[str, list[Clip]], names: Sequence[str]) -> Source:
        """A source of the splits' clips, whose classes have these names."""
        features = Features(
            {
                "id": Value("string"),
                "audio": SOUND if self.mel is None else feature_sequence(self.mel.n_mels),
                "image": Image(),
                "group": Value("string"),
                "label": ClassLabel(names=list(names)),
            }
        )
        ids = {name: index for index, name in enumerate(names)}
        return Source(features, {split: partial(self._rows, clips[split], split, ids) for split in SPLITS})

    def _rows(self, clips: list[Clip], split: str, ids: dict[str, int]) -> Iterator[dict[str, Any]]:
        for clip in clips:
            if clip.label not in ids:
                found = f"{shown(clip.label)} is none of the classes {shown(list(ids))}"
                raise DataError(found, **clip.place, field="label")
            sound, pictures = self._sound_of(clip, split), self._frames_of(clip, split)
            if self.drop_missing and (sound is None or not pictures):
                continue
            if sound is None and not pictures:
                raise DataError(self._nothing(clip, split), **clip.place)
            yield {
                "id": clip.id,
                "audio": self._frames_of_sound(sound, clip) if self.mel is not None else _checked_sound(sound, clip),
                "image": self._picture(pictures, clip),
                "group": clip.group,
                "label": ids[clip.label],
            }

    def _places(self, patterns: Sequence[str], clip: Clip, split: str) -> Iterator[Path]:
        for pattern in patterns:
            for folder in _SPLIT_FOLDERS[split] if "{split}" in pattern else ("",):
                yield path_inside(self.root, pattern.format(name=clip.name, split=folder), **clip.place)

    def _sound_of(self, clip: Clip, split: str) -> Path | None:
        for place in self._places(_SOUND_FOLDERS, clip, split):
            for ending in _SOUND_ENDINGS:
                path = place.with_name(place.name + ending)
                if path.is_file():
                    return path
        return None

    def _frames_of(self, clip: Clip, split: str) -> list[Path]:
        for place in self._places(_FRAME_FOLDERS, clip, split):
            if place.is_dir():
                pictures = [path for path in place.iterdir() if path.suffix.lower() in _PICTURE_ENDINGS]
                if pictures:
                    return sorted(pictures, key=_by_number)
        return []

    def _frames_of_sound(self, path: Path | None, clip: Clip) -> np.ndarray:
        if path is None:
            return np.zeros((0, self.mel.n_mels), np.float32)
        samples = read_audio(path, self.mel.sampling_rate, **clip.place, field=path.name)
        if len(samples) < self.mel.frame_length:
            message = f"{path}: {len(samples)} samples are shorter than one window of {self.mel.frame_length}"
            raise DataError(message, **clip.place)
        return self.mel(samples)

    def _picture(self, pictures: list[Path], clip: Clip) -> dict[str, Any] | None:
        if not pictures:
            return None
        # The middles of equal parts: of one part the middle frame.
        chosen = [pictures[(2 * part + 1) * len(pictures) // (2 * self.frames)] for part in range(self.frames)]
        if self.frames == 1:
            return self.images.cell(chosen[0], **clip.place)
        return {"path": None, "bytes": side_by_side(chosen, **clip.place)}

    def _nothing(self, clip: Clip, split: str) -> str:
        name = shown(clip.name)
        video = next((path for path in self._places(_VIDEOS, clip, split) if path.is_file()), None)
        advice = f"; {video.name} is there, but videos are not decoded: extract its sound and frames" if video else ""
        return (
            f"no sound (audio/NAME.wav, say) and no folder of frames (visual/NAME/) for {name}{advice}. drop_missing: true "
            "leaves such clips out"
        )


def _checked_sound(path: Path | None, clip: Clip) -> dict[str, Any] | None:
    if path is None:
        return None
    check_audio(path, **clip.place, field=path.name)
    return {"bytes": None, "path": str(path.resolve())}


def side_by_side(paths: Sequence[Path], **place: Any) -> bytes:
    """Pictures of one size, that of the first, in one row, as JPEG. Raises DataError for one that cannot be read."""
    pictures = []
    for path in paths:
        with opened_picture(path, **place) as picture:
            whole = picture.convert("RGB")
        pictures.append(whole if not pictures or whole.size == pictures[0].size else whole.resize(pictures[0].size))
    width, height = pictures[0].size
    row = PIL.Image.new("RGB", (width * len(pictures), height))
    for number, picture in enumerate(pictures):
        row.paste(picture, (number * width, 0))
    content = BytesIO()
    row.save(content, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return content.getvalue()


def annotation_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbers, from 1, and contents of a text file's lines, without blank ones; UTF-8, with or without its mark."""
    try:
        with open(file, encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, require_text(line.strip(), file=file, row=number)
    except UnicodeDecodeError as error:
        raise DataError(f"not valid UTF-8: {error}", file=file) from error


def with_validation(clips: dict[str, list[Clip]], fraction: float, seed: int) -> dict[str, list[Clip]]:
    """The splits, where there is no validation split with one drawn from the training clips, by class."""
    if "validation" in clips:
        return clips
    if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
        raise DataError(f"a number between 0 and 1 is expected, not {fraction!r}", field="validation_fraction")
    train = clips["train"]
    require_integer("seed", seed, 0, 2**32 - 1)
    parts = draw_parts(len(train), {"validation": fraction}, seed, classes=[clip.label for clip in train])
    return {
        "train": [train[row] for row in parts["rest"]],
        "validation": [train[row] for row in parts["validation"]],
        "test": clips["test"],
    }


def refuse_shared(clips: dict[str, list[Clip]]) -> None:
    """Raise DataError for a clip that is in the test split and in another."""
    seen = {clip.id: clip for split in ("train", "validation") for clip in clips.get(split, [])}
    for clip in clips["test"]:
        if clip.id in seen:
            where = seen[clip.id].file.name
            raise DataError(f"{shown(clip.id)} is a test clip, and in {where} too", **clip.place)


def _by_number(path: Path) -> list[Any]:
    """frame_2 before frame_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", path.name)]
