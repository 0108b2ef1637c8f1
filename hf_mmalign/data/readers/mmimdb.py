"""`mmimdb`: the movies of MM-IMDb (poster, plot, genres), as the original folder or as one HDF5 file.

Folder (`mmimdb.tar.gz` of the GMU authors), with raw posters and plots:

    folder/split.json                 {"train": [ID, …], "dev": [ID, …], "test": [ID, …]}
    folder/dataset/ID.json            {"plot": ["…", …], "genres": ["Drama", …], …}
    folder/dataset/ID.jpeg

HDF5 (`multimodal_imdb.hdf5`, the file MultiBench reads), with extracted features of the same movies:

    features (N, 300)                 mean word2vec vector of the plot's words
    vgg_features (N, 4096)            activations of VGG-16 on the poster
    images (N, 3, 256, 160)           the poster, Caffe style: blue, green, red, less the channel means
    genres (N, 23)                    0 or 1, names in the attribute `target_names`
    imdb_ids (N,)

Its splits are row ranges; the file's own attribute `split` (Fuel's format) names them, and for the full file of 25959 rows
without it MultiBench's are used, which are the same: rows 0–15551, 15552–18159, 18160–25958.
"""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from datasets import ClassLabel, Features, Image, List, Value

from ..errors import DataError, shown
from ..pictures import check_picture_size
from ..schema import Source, feature_sequence
from .features import FiniteGate
from .files import ImageChecker, path_inside, read_json, require_folder, require_text
from .hdf5 import ArrayInfo, HDF5File
from .options import require_choice

_HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")
_SPLIT_KEYS = {"train": "train", "validation": "dev", "test": "test"}
_MULTIBENCH_ROWS = 25959
_MULTIBENCH_RANGES = {"train": (0, 15552), "validation": (15552, 18160), "test": (18160, 25959)}
_CAFFE_MEANS_BGR = np.array([103.939, 116.779, 123.68], dtype=np.float32).reshape(3, 1, 1)
_VISION = {"vgg": "vgg_features", "pixels": "images"}
_MOST_GENRES = 10_000


def open_source(
    path: Path, num_genres: int | None = None, poster: str | None = None, nonfinite: str | None = None
) -> Source:
    """Open MM-IMDb in either form; `path` is the folder or the HDF5 file.

    Args:
        path (`Path`): The folder, or the HDF5 file.
        num_genres (`int`, *optional*, folder only): The labels are this many genres, the most frequent ones of the
            training split, most frequent first; 25 by default. Movies of other genres only have no label set.
        poster (`str`, *optional*, HDF5 only): `vgg` (default) gives the VGG features as the modality `vision`, one step
            of width 4096, the input of MultiBench; `pixels` gives the poster as `image`.
        nonfinite (`str`, *optional*, HDF5 only): `error` (default), or `replace` NaN and Inf by 0.
    """
    if path.suffix.lower() in _HDF5_SUFFIXES:
        if num_genres is not None:
            raise DataError("the HDF5 form fixes its genres; the option is for the folder form", field="num_genres")
        return _open_hdf5(path, poster or "vgg", nonfinite or "error")
    for name, value in (("poster", poster), ("nonfinite", nonfinite)):
        if value is not None:
            raise DataError("the option is for the HDF5 form", field=name)
    require_folder(path, f"the folder, or a file with the suffix {' or '.join(_HDF5_SUFFIXES)},")
    return _open_folder(path, 25 if num_genres is None else num_genres)


def _open_folder(folder: Path, num_genres: int) -> Source:
    if num_genres < 1:
        raise DataError(f"a number from 1 is expected, not {num_genres}", field="num_genres")
    split_file = folder / "split.json"
    split = read_json(split_file, dict)
    for key in _SPLIT_KEYS.values():
        if not isinstance(split.get(key), list) or not all(isinstance(movie, (str, int)) for movie in split[key]):
            raise DataError("a list of movie ids is expected", file=split_file, field=key)
        for row, movie in enumerate(split[key]):
            require_text(str(movie), file=split_file, row=row, field=key)
    counts = Counter(genre for movie in split["train"] for genre in _movie(folder, movie)["genres"])
    if len(counts) < num_genres:
        raise DataError(f"the training split has only {len(counts)} genres", file=split_file, field="num_genres")
    genres = sorted(counts, key=lambda genre: (-counts[genre], genre))[:num_genres]
    classes = ClassLabel(names=genres)
    features = Features({"id": Value("string"), "text": Value("string"), "image": Image(), "label": List(classes)})
    images = ImageChecker()
    return Source(
        features,
        {name: partial(_folder_rows, folder, split[key], classes, images) for name, key in _SPLIT_KEYS.items()},
    )


def _movie(folder: Path, movie: str | int) -> dict[str, Any]:
    file = path_inside(folder, f"dataset/{movie}.json", file=folder / "split.json")
    content = read_json(file, dict)
    for field in ("plot", "genres"):
        value = content.get(field)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DataError(f"a list of strings is expected, not {value!r}", file=file, field=field)
        for item in value:
            require_text(item, file=file, field=field)
    return content


def _folder_rows(folder: Path, movies: list, classes: ClassLabel, images: ImageChecker) -> Iterator[dict[str, Any]]:
    for index, movie in enumerate(movies):
        content = _movie(folder, movie)
        place = {"file": folder / "split.json", "row": index, "field": "image"}
        # The longest of several plots, as the authors of the data set chose; no plot: the modality is missing.
        plot = max(content["plot"], key=len, default="").strip()
        yield {
            "id": str(movie),
            "text": plot or None,
            "image": images.cell(folder / "dataset" / f"{movie}.jpeg", **place),
            "label": sorted({classes.str2int(genre) for genre in content["genres"] if genre in classes.names}),
        }


def _open_hdf5(path: Path, poster: str, nonfinite: str) -> Source:
    require_choice("poster", poster, ("vgg", "pixels"))
    vision = _VISION[poster]
    with HDF5File(path) as file:
        found = file.describe(["features", vision, "genres", "imdb_ids"], "split", {"genres": "target_names"})
        dimensions = {"features": 2, vision: 4 if poster == "pixels" else 2, "genres": 2, "imdb_ids": 1}
        arrays = {name: _checked(found, name, ndim, path) for name, ndim in dimensions.items()}
        size = arrays["features"].shape[0]
        for name, array in arrays.items():
            if array.shape[0] != size:
                raise DataError(f"{array.shape[0]} rows, but {size} in features", file=path, field=name)
            file.check_size(array)
    if poster == "pixels":
        _channels, height, width = arrays[vision].shape[1:]
        if _channels != 3:
            raise DataError(f"(N, 3, H, W) is expected, not {arrays[vision].shape}", file=path, field=vision)
        check_picture_size(width, height, "a poster", file=path, field=vision)
    ranges = _split_ranges(found["table"], size, path)
    classes = ClassLabel(names=_genre_names(found["attributes"]["genres"], arrays["genres"].shape[1], path))
    features = Features(
        {
            "id": Value("string"),
            "text": feature_sequence(arrays["features"].shape[1]),
            **({"vision": feature_sequence(arrays[vision].shape[1])} if poster == "vgg" else {"image": Image()}),
            "label": List(classes),
        }
    )
    rows = partial(_hdf5_rows, path, list(arrays.values()), vision, nonfinite)
    return Source(features, {name: partial(rows, *ranges[name]) for name in ranges})


def _checked(found: dict[str, Any], field: str, ndim: int, path: Path) -> ArrayInfo:
    array = found["arrays"][field]
    if array is None:
        raise DataError(f"no such array; the file has {found['names']}", file=path, field=field)
    kinds = ("text",) if field == "imdb_ids" else ("f", "i", "u")
    if len(array.shape) != ndim or array.kind not in kinds:
        expected = f"an array of {'text' if field == 'imdb_ids' else 'numbers'} of {ndim} dimensions is expected"
        raise DataError(f"{expected}, not shape {array.shape}, type {array.type}", file=path, field=field)
    return array


def _genre_names(text: str | None, count: int, path: Path) -> list[str]:
    if count > _MOST_GENRES:
        raise DataError(f"{count} genres are implausible; at most {_MOST_GENRES}", file=path, field="genres")
    if text is None:
        return [f"genre_{index}" for index in range(count)]
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the attribute target_names is not JSON: {error}", file=path, field="genres") from error
    if not isinstance(names, list) or len(names) != count or len(set(map(str, names))) != len(names):
        message = f"target_names must list {count} distinct names, not {shown(names)}"
        raise DataError(message, file=path, field="genres")
    return [require_text(str(name), file=path, field="genres") for name in names]


def _split_ranges(table: list[list] | None, size: int, path: Path) -> dict[str, tuple[int, int]]:
    if table is not None:
        found = {(split, source): (start, stop) for split, source, start, stop in table}
        try:
            ranges = {name: found[key, "genres"] for name, key in _SPLIT_KEYS.items()}
        except KeyError as error:
            raise DataError("not Fuel's table of train, dev and test", file=path, field="split") from error
    elif size == _MULTIBENCH_ROWS:
        ranges = _MULTIBENCH_RANGES
    else:
        raise DataError(
            f"the attribute that names the splits is missing, and the file is not the full one of {_MULTIBENCH_ROWS} "
            f"rows (it has {size})",
            file=path,
            field="split",
        )
    for name, (start, stop) in ranges.items():
        if not 0 <= start <= stop <= size:
            raise DataError(f"{name} is rows {start} to {stop} of {size}", file=path, field="split")
    return ranges


def _hdf5_rows(
    path: Path, arrays: list[ArrayInfo], vision: str, nonfinite: str, start: int, stop: int
) -> Iterator[dict[str, Any]]:
    gates = {name: FiniteGate(nonfinite, path, name) for name in ("features", "vgg_features")}
    with HDF5File(path) as file:
        for first, chunk in file.chunks(arrays, start, stop):
            text = gates["features"](chunk["features"], first)
            pixels = vision == _VISION["pixels"]
            visual = _posters(chunk[vision]) if pixels else gates[vision](chunk[vision], first)
            genres = chunk["genres"]
            if not np.isin(genres, (0, 1)).all():
                bad = first + int(np.argwhere(~np.isin(genres, (0, 1)))[0, 0])
                raise DataError("a genre is neither 0 nor 1", file=path, row=bad, field="genres")
            for index, movie in enumerate(chunk["imdb_ids"]):
                yield {
                    "id": require_text(movie, file=path, row=first + index, field="imdb_ids"),
                    "text": text[index][None],
                    **({"image": _png(visual[index])} if pixels else {"vision": visual[index][None]}),
                    "label": np.flatnonzero(genres[index]).tolist(),
                }
    for gate in gates.values():
        gate.close()


def _posters(images: np.ndarray) -> np.ndarray:
    """Undo Caffe's preprocessing: (n, 3, H, W), BGR less the means → (n, H, W, 3) uint8, RGB."""
    pixels = np.rint(images.astype(np.float32) + _CAFFE_MEANS_BGR).clip(0, 255).astype(np.uint8)
    return pixels[:, ::-1].transpose(0, 2, 3, 1)


def _png(pixels: np.ndarray) -> dict[str, Any]:
    buffer = BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return {"path": None, "bytes": buffer.getvalue()}
