"""Small data sets in the true formats."""

import json
import pickle
from pathlib import Path
from typing import NamedTuple

import datasets
import h5py
import numpy as np
import PIL.Image
import pytest

datasets.disable_progress_bars()


def save_picture(path, size=(20, 16), colour=(200, 30, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).convert(mode).save(path)


def write_json_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def hateful_memes(tmp_path):
    """Hateful Memes as released in phase 2: train, dev_seen, and a test_seen without labels."""
    folder = tmp_path / "hateful_memes"
    rows = []
    for index in range(8):
        image = f"img/{10 + index:05d}.png"
        save_picture(folder / image, size=(20 + index, 16), mode=("RGB", "RGBA", "L", "P")[index % 4])
        rows.append({"id": 10 + index, "img": image, "label": index % 2, "text": f"meme number {index}"})
    write_json_lines(folder / "train.jsonl", rows[:4])
    write_json_lines(folder / "dev_seen.jsonl", rows[4:6])
    write_json_lines(folder / "test_seen.jsonl", [{k: v for k, v in row.items() if k != "label"} for row in rows[6:]])
    return folder


@pytest.fixture
def mmimdb_folder(tmp_path):
    """MM-IMDb's folder form, with six movies in the train split and two in each other one."""
    folder = tmp_path / "mmimdb"
    genres = [
        ["Drama", "War"],
        ["Drama", "Comedy"],
        ["Comedy"],
        ["Drama", "Comedy"],
        ["Drama", "Adult"],
        ["War"],
        ["Drama"],
        ["Sport"],
        ["War", "Comedy"],
        ["Drama"],
    ]
    movies = [f"{index:07d}" for index in range(10)]
    for movie, labels in zip(movies, genres, strict=True):
        save_picture(folder / "dataset" / f"{movie}.jpeg", size=(40, 64))
        content = {"plot": ["Short.", f"The longest plot, of movie {movie}."], "genres": labels, "title": movie}
        (folder / "dataset" / f"{movie}.json").write_text(json.dumps(content), encoding="utf-8")
    split = {"train": movies[:6], "dev": movies[6:8], "test": movies[8:]}
    (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return folder


class MovieFile(NamedTuple):
    path: Path
    rgb: np.ndarray
    genres: np.ndarray


@pytest.fixture
def mmimdb_hdf5(tmp_path):
    """The HDF5 form as its authors' script writes it, Fuel's split table included, with 7 + 3 + 4 movies."""
    path = tmp_path / "multimodal_imdb.hdf5"
    rng = np.random.RandomState(0)
    rows = 14
    rgb = rng.randint(0, 256, size=(rows, 16, 10, 3))
    caffe = rgb[..., ::-1].transpose(0, 3, 1, 2) - np.array([103.939, 116.779, 123.68]).reshape(3, 1, 1)
    genres = (rng.rand(rows, 5) < 0.4).astype("int32")
    with h5py.File(path, "w") as file:
        file["features"] = rng.randn(rows, 300).astype("float32")
        file["vgg_features"] = rng.rand(rows, 4096).astype("float32")
        file["images"] = caffe.astype("int32")  # truncates, as assigning floats to the int32 array does
        file["genres"] = genres
        file["genres"].attrs["target_names"] = json.dumps(["Drama", "Comedy", "Romance", "Thriller", "Crime"])
        file["imdb_ids"] = np.array([f"{index:07d}" for index in range(rows)], dtype="S7")
        ranges = {"train": (0, 7), "dev": (7, 10), "test": (10, 14)}
        table = [(key.encode(), b"genres", start, stop) for key, (start, stop) in ranges.items()]
        fields = [("split", "S5"), ("source", "S12"), ("start", np.int64), ("stop", np.int64)]
        file.attrs["split"] = np.array(table, dtype=fields)
    return MovieFile(path, rgb, genres)


def multibench_split(rng, rows, labels, ids):
    """Sequences of 1 to 6 steps, padded with zeros at the front to 6."""
    split = {"labels": labels, "id": ids}
    for name, width in (("vision", 5), ("audio", 4), ("text", 7)):
        split[name] = rng.randn(rows, 6, width).astype("float32")
        for row in range(rows):
            split[name][row, : rng.randint(6)] = 0
    return split


@pytest.fixture
def mosei():
    """MOSEI's content: sentiment strengths (N, 1, 1), ids as triples. A dict, for `write_pickle`."""
    rng = np.random.RandomState(0)
    content = {}
    for key, rows in (("train", 10), ("valid", 4), ("test", 5)):
        ids = np.array([[f"video{row}", f"{row}.5", f"{row + 1}.5"] for row in range(rows)])
        content[key] = multibench_split(rng, rows, rng.uniform(-3, 3, (rows, 1, 1)), ids)
    return content


@pytest.fixture
def ur_funny():
    """UR-FUNNY's content: labels 0 and 1 (N, 1), numbers as ids (N, 1), float64 features."""
    rng = np.random.RandomState(1)
    content = {}
    for key, rows in (("train", 10), ("valid", 4), ("test", 5)):
        split = multibench_split(rng, rows, np.arange(rows)[:, None] % 2, np.arange(rows)[:, None] + 100)
        content[key] = {k: v.astype("float64") if k in ("vision", "audio", "text") else v for k, v in split.items()}
    return content


def mmsa_split(rng, rows, aligned, prefix):
    """A split as MMSA writes it: padded with zeros behind, text features non-zero in their padding too."""
    steps = {"text": 6, "audio": 6, "vision": 6} if aligned else {"text": 6, "audio": 9, "vision": 7}
    widths = {"text": 8, "audio": 5, "vision": 4}
    lengths = {name: rng.randint(2, count + 1, size=rows) for name, count in steps.items()}
    lengths |= {"audio": lengths["text"], "vision": lengths["text"]} if aligned else {}
    split = {name: rng.randn(rows, steps[name], widths[name]).astype("float32") for name in steps}
    for name in ("audio", "vision"):
        for row, length in enumerate(lengths[name]):
            split[name][row, length:] = 0
    mask = np.arange(steps["text"]) < lengths["text"][:, None]
    split["text_bert"] = np.stack([np.where(mask, 100, 0), mask, 0 * mask], axis=1).astype("float32")
    strengths = np.round(rng.uniform(-3, 3, rows), 1)
    split |= {
        "raw_text": [f"sentence {prefix} {row}" for row in range(rows)],
        "id": [f"{prefix}_video$_${row}" for row in range(rows)],
        "annotations": ["Positive" if strength > 0 else "Negative" for strength in strengths],
        "classification_labels": np.sign(strengths) + 1,
        "regression_labels": strengths,
    }
    if not aligned:
        split |= {"audio_lengths": lengths["audio"].tolist(), "vision_lengths": lengths["vision"].tolist()}
    return split


def mmsa_content(aligned):
    rng = np.random.RandomState(2)
    return {key: mmsa_split(rng, rows, aligned, key) for key, rows in (("train", 12), ("valid", 5), ("test", 6))}


@pytest.fixture
def mmsa_aligned():
    """`aligned_50.pkl` of CMU-MOSI, with 6 steps. A dict, for `write_pickle`."""
    return mmsa_content(aligned=True)


@pytest.fixture
def mmsa_unaligned():
    """`unaligned_50.pkl` of CMU-MOSI, with 6, 9 and 7 steps. A dict, for `write_pickle`."""
    return mmsa_content(aligned=False)


@pytest.fixture
def iemocap():
    """DecAlign's `iemocap_data.pkl`: one vector per utterance and modality, six classes. A dict, for `write_pickle`."""
    rng = np.random.RandomState(3)
    content = {}
    for key, rows in (("train", 12), ("valid", 6), ("test", 7)):
        content[key] = {name: rng.randn(rows, 1, width) for name, width in (("text", 8), ("audio", 5), ("vision", 4))}
        content[key] |= {
            "raw_text": [f"utterance {row}" for row in range(rows)],
            "id": [f"Ses01F_impro01_F{row:03d}" for row in range(rows)],
            "classification_labels": np.arange(rows) % 6,
        }
    return content


@pytest.fixture
def write_pickle(tmp_path):
    def write(content, protocol=4):
        path = tmp_path / "data.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        return path

    return write


@pytest.fixture
def load(tmp_path):
    """`load_multimodal_dataset` with a cache of the test's own."""
    from hf_mmalign.data.loading import load_multimodal_dataset

    def call(*args, **options):
        return load_multimodal_dataset(*args, cache_dir=tmp_path / "cache", **options)

    return call
