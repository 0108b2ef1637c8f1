"""`how2`: instructional videos in English with their Portuguese, as the How2 packages unpack side by side.

    folder/data/{train,val,dev5}/text.id.{en,pt}                                    ID SENTENCE, a line each
    folder/features/resnext101-action-avgpool-300h/{train,val,dev5}.npy             (N, 2048), a row per line
    folder/**/*.scp and the *.ark that they name                                    Kaldi's speech features, by ID

A row is `text`, `target`, and where asked for `video` (1, 2048) and `speech` (T, D).
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features, Value

from ..errors import DataError, shown
from ..kaldi import read_index, read_matrix
from ..schema import TARGET, Source, feature_sequence
from .features import FiniteGate
from .files import path_inside, require_folder, require_text
from .options import require_choice

_FILES = {"train": "train", "validation": "val"}
_VIDEO = "features/resnext101-action-avgpool-300h/{split}.npy"


def open_source(
    path: Path,
    source: str = "en",
    target: str = "pt",
    test: str = "dev5",
    video: str | bool = False,
    speech: str | bool = False,
    speech_pooling: str = "none",
    nonfinite: str = "error",
) -> Source:
    """Open a folder of How2.

    Args:
        path (`Path`): The folder, `how2-300h-v1`.
        source, target (`str`): Languages, as the files end.
        test (`str`): Folder of the test split below `data`.
        video (`str` or `bool`): True takes the action features of the package, a pattern such as `"resnet/{split}.npy"`
            others with a row for each line.
        speech (`str` or `bool`): True takes every `.scp` of the folder, a pattern such as `"fbank/*.scp"` those. An
            utterance that none names has no speech.
        speech_pooling (`str`): `"mean"` over the frames makes one step of them, `"none"` leaves them.
        nonfinite (`str`): `error`, or `replace` NaN and Inf among features by 0.
    """
    require_folder(path, "the folder of data/ and features/")
    require_choice("speech_pooling", speech_pooling, ("none", "mean"))
    columns: dict[str, Any] = {"id": Value("string"), "text": Value("string")}
    pattern = None
    if video is not False:
        pattern = _VIDEO if video is True else str(video)
        if "{split}" not in pattern:
            raise DataError(f"{{split}} is expected in the file's name, not {shown(pattern)}", field="video")
        columns["video"] = feature_sequence(_video(path, pattern, "train").shape[1])
    index: dict[str, tuple[Path, int]] = {}
    if speech is not False:
        index = _index(path, "**/*.scp" if speech is True else str(speech))
        columns["speech"] = feature_sequence(read_matrix(*next(iter(index.values()))).shape[1])
    columns[TARGET] = Value("string")
    stream = partial(
        _rows,
        path,
        languages=(source, target),
        video=pattern,
        speech=index if "speech" in columns else None,
        mean=speech_pooling == "mean",
        nonfinite=nonfinite,
    )
    names = _FILES | {"test": test}
    return Source(Features(columns), {split: partial(stream, name) for split, name in names.items()})


def _index(path: Path, pattern: str) -> dict[str, tuple[Path, int]]:
    files = sorted(file for file in path.glob(pattern) if file.is_file())
    index: dict[str, tuple[Path, int]] = {}
    for file in files:
        index |= read_index(file, path)
    if not index:
        raise DataError(f"no utterance is in the files {shown(pattern)}", file=path, field="speech")
    return index


def _video(path: Path, pattern: str, split: str) -> np.ndarray:
    file = path_inside(path, pattern.replace("{split}", split), field="video")
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"no array of numbers: {error}", file=file) from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError("an array (N, D) of numbers is expected", file=file)
    return values


def _rows(
    path: Path,
    name: str,
    *,
    languages: tuple[str, str],
    video: str | None,
    speech: Mapping[str, tuple[Path, int]] | None,
    mean: bool,
    nonfinite: str,
) -> Iterator[dict[str, Any]]:
    files = [path / "data" / name / f"text.id.{language}" for language in languages]
    targets = dict(_sentences(files[1]))
    clips = None if video is None else _video(path, video, name)
    gates = {kind: FiniteGate(nonfinite, path, f"{name}.{kind}") for kind in ("video", "speech")}
    row = -1
    for row, (identifier, text) in enumerate(_sentences(files[0])):
        if identifier not in targets:
            raise DataError(f"there is no {identifier!r}, which {files[0].name} has", file=files[1])
        if name == "train" and not targets[identifier]:
            raise DataError(f"a training row needs a translation, and {identifier!r} has none", file=files[1])
        result: dict[str, Any] = {"id": identifier, "text": text or None, TARGET: targets[identifier] or None}
        if clips is not None:
            if row >= len(clips):
                raise DataError(f"{len(clips)} rows, but {files[0].name} has more", file=path, field=f"{name}.video")
            result["video"] = gates["video"](clips[row : row + 1], row)
        if speech is not None:
            result["speech"] = gates["speech"](_utterance(speech, identifier, mean), row)
        yield result
    if clips is not None and row + 1 != len(clips):
        raise DataError(f"{len(clips)} rows, but {files[0].name} has {row + 1}", file=path, field=f"{name}.video")
    for gate in gates.values():
        gate.close()


def _utterance(index: Mapping[str, tuple[Path, int]], identifier: str, mean: bool) -> np.ndarray:
    if identifier not in index:
        return np.zeros((0, read_matrix(*next(iter(index.values()))).shape[1]), np.float32)
    values = read_matrix(*index[identifier])
    return values.mean(axis=0, keepdims=True) if mean and len(values) else values


def _sentences(file: Path) -> Iterator[tuple[str, str]]:
    """Ids and sentences of the lines, which end in a newline and at nothing else."""
    try:
        with open(file, encoding="utf-8", newline="\n") as stream:
            for number, line in enumerate(stream, start=1):
                identifier, _, sentence = line.strip().partition(" ")
                if not identifier:
                    raise DataError("`ID SENTENCE` is expected, not an empty line", file=file, row=number)
                yield identifier, require_text(sentence.strip(), file=file, row=number)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read as UTF-8 text: {error}", file=file) from error
