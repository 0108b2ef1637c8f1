"""`table`: the same small data set in every form that a user may keep it in."""

import csv
import io
import json
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_mmalign import load_multimodal_dataset
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.schema import label_names_of, modalities_of, problem_type_of
from hf_mmalign.data.splitting import draw_parts, fold_of_rows

COUNT = 12
NAMED = {"train": "train", "validation": "dev", "test": "test"}
DRAWN = {"validation": 0.25, "test": 0.25}


def sequence(row: int) -> np.ndarray:
    """(1 + row mod 3, 2) features; every fifth row misses them."""
    return np.arange(2 * (1 + row % 3), dtype=np.float32).reshape(-1, 2) + row


def rows() -> list[dict]:
    """Rows as JSON would have them: a text, a flat vector, a sequence, a class."""
    return [
        {
            "tweet": None if row == 3 else f"text {row}",
            "face": [float(row), 1.0, 2.0],
            "mfcc": None if row % 5 == 4 else sequence(row).tolist(),
            "mood": ("bad", "good")[row % 2],
            "person": f"p{row // 3}",
        }
        for row in range(COUNT)
    ]


COLUMNS = {"text": "tweet", "face": "face", "mfcc": "mfcc"}


def load(path, cache, **options) -> DatasetDict:
    chosen = {"columns": COLUMNS, "label": "mood", "splits": DRAWN} | options
    return load_multimodal_dataset("table", path, cache_dir=cache, **chosen)


def check(data: DatasetDict) -> None:
    """All rows of `rows()` are there, whatever form they came in."""
    assert modalities_of(data) == {"text": "text", "face": 3, "mfcc": 2}
    assert label_names_of(data) == ["bad", "good"]
    found = {}
    for split in data.values():
        for row in split:
            number = int(np.asarray(row["face"])[0, 0])
            found[number] = row
            assert row["text"] == (None if number == 3 else f"text {number}")
            expected = np.zeros((0, 2)) if number % 5 == 4 else sequence(number)
            np.testing.assert_array_equal(np.asarray(row["mfcc"]).reshape(-1, 2), expected)
            assert row["label"] == number % 2
    assert sorted(found) == list(range(COUNT))


def write_json_lines(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    return path


def write_csv(folder: Path) -> Path:
    """Sequences in JSON, or as paths to .npy beside the file."""
    path = folder / "rows.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows()[0]))
        writer.writeheader()
        for number, row in enumerate(rows()):
            mfcc = ""
            if row["mfcc"] is not None:
                np.save(folder / f"{number}.npy", sequence(number))
                mfcc = f"{number}.npy"
            writer.writerow(row | {"face": json.dumps(row["face"]), "mfcc": mfcc, "tweet": row["tweet"] or ""})
    return path


def write_parquet(folder: Path) -> Path:
    path = folder / "rows.parquet"
    Dataset.from_list(rows()).to_parquet(path)
    return path


def write_to_disk(folder: Path) -> Path:
    """With the classes and widths that a `datasets` user declares."""
    features = Features(
        {
            "tweet": Value("string"),
            "face": Array2D((None, 3), "float32"),
            "mfcc": Array2D((None, 2), "float32"),
            "mood": ClassLabel(names=["bad", "good"]),
            "person": Value("string"),
        }
    )
    content = [row | {"face": [row["face"]], "mfcc": row["mfcc"] or []} for row in rows()]
    Dataset.from_generator(lambda: iter(content), features=features, cache_dir=str(folder / "made")).save_to_disk(
        folder / "saved"
    )
    return folder / "saved"


def write_npz(folder: Path) -> Path:
    path = folder / "rows.npz"
    padded, lengths = np.zeros((COUNT, 3, 2), np.float32), np.zeros(COUNT, int)
    for number, row in enumerate(rows()):
        if row["mfcc"] is not None:
            lengths[number] = len(row["mfcc"])
            padded[number, : lengths[number]] = row["mfcc"]
    np.savez(
        path,
        tweet=np.array([row["tweet"] or "" for row in rows()]),
        face=np.array([row["face"] for row in rows()], np.float32),
        mfcc=padded,
        mfcc_lengths=lengths,
        mood=np.array([row["mood"] for row in rows()]),
        person=np.array([row["person"] for row in rows()]),
    )
    return path


WRITERS = [write_json_lines, write_csv, write_parquet, write_to_disk, write_npz]


@pytest.mark.parametrize("write", WRITERS)
def test_every_form_gives_the_same_rows(tmp_path, write):
    check(load(write(tmp_path), tmp_path / "cache"))


def test_split_names_files_and_shares(tmp_path):
    lines, folder = [json.dumps(row) + "\n" for row in rows()], tmp_path / "data"
    folder.mkdir()
    for name, part in (("train", lines[:6]), ("dev", lines[6:9]), ("test", lines[9:])):
        (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    by_name = load(folder, tmp_path / "cache", splits=None)
    assert {split: len(data) for split, data in by_name.items()} == {"train": 6, "validation": 3, "test": 3}
    by_file = load(
        folder, tmp_path / "cache", splits={"train": "train.jsonl", "validation": "test.jsonl", "test": "dev.jsonl"}
    )
    assert list(by_file["validation"]["text"]) == list(by_name["test"]["text"])
    mixed = load(folder, tmp_path / "cache", splits={"test": "test", "train": "train", "validation": 0.34, "seed": 3})
    assert {split: len(data) for split, data in mixed.items()} == {"train": 4, "validation": 2, "test": 3}


def test_a_split_from_nowhere_is_an_error_that_shows_the_way(tmp_path):
    with pytest.raises(DataError, match=r"say where validation comes from.*splits: \{train: train"):
        load(write_json_lines(tmp_path), tmp_path / "cache", splits=None)


def test_groups_stay_together_in_splits_and_folds(tmp_path):
    path = write_json_lines(tmp_path)
    data = load(path, tmp_path / "cache", splits=DRAWN | {"group": "person"}, group="person")
    people = [set(split["group"]) for split in data.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 4
    seen = []
    for fold in range(4):
        folded = load(path, tmp_path / "cache", group="person", folds=4, fold=fold)
        assert sum(len(split) for split in folded.values()) == COUNT
        people = [set(split["group"]) for split in folded.values()]
        assert sum(map(len, people)) == len(set.union(*people))
        seen += list(folded["test"]["text"])
    assert len(seen) == COUNT


def test_folds_of_any_format():
    tests = []
    for fold in range(3):
        data = load_multimodal_dataset("digits-captions", folds=3, fold=fold)
        share = np.bincount(data["test"]["label"]) / len(data["test"])
        assert share.max() < 2 * share.min()  # classes are spread evenly
        tests.append(len(data["test"]))
    whole = load_multimodal_dataset("digits-captions")
    assert sum(tests) == sum(len(split) for split in whole.values())
    with pytest.raises(DataError, match="folds says how many"):
        load_multimodal_dataset("digits-captions", fold=1)


def write_wav(path: Path, rate: int, frequency: float) -> None:
    tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(rate // 2) / rate)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((tone * 32767).astype("<i2").tobytes())


def test_pictures_and_sounds_by_path(tmp_path):
    lines = []
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
        write_wav(tmp_path / f"{number}.wav", (8000, 16000)[number % 2], 1000)
        image = None if number == 0 else f"{number}.png"
        lines.append({"image": image, "audio": f"{number}.wav" if number else None, "label": number % 2})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    data = load_multimodal_dataset(
        "table", path, cache_dir=tmp_path / "cache", splits={"validation": 0.3, "test": 0.3}, audio={"n_mels": 40}
    )
    assert modalities_of(data) == {"image": "image", "audio": 40}
    frames = [row["audio"] for split in data.values() for row in split if len(row["audio"])]
    assert len(frames) == 5
    # Whatever its rate, a tone of 1000 Hz is loudest in the same filter, and a tenth of a second is ten frames.
    assert len({int(np.asarray(frame).mean(axis=0).argmax()) for frame in frames}) == 1
    assert {len(frame) for frame in frames} == {48}
    assert label_names_of(data) == ["0", "1"]


def test_webdataset_shards(tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number in range(6):
            picture = io.BytesIO()
            Image.new("RGB", (32, 32), (0, 0, 40 * number)).save(picture, "PNG")
            parts = (("png", picture.getvalue()), ("txt", f"text {number}".encode()), ("cls", str(number % 2).encode()))
            for ending, content in parts:
                entry = tarfile.TarInfo(f"{number:03d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    data = load_multimodal_dataset(
        "table", tmp_path / "shard.tar", cache_dir=tmp_path / "cache", columns={"image": "png", "text": "txt"},
        label="cls", splits={"validation": 0.3, "test": 0.3},
    )  # fmt: skip
    assert modalities_of(data) == {"image": "image", "text": "text"}
    assert {row["text"] for split in data.values() for row in split} == {f"text {number}" for number in range(6)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mfcc": [[1.0, 2.0, 3.0]]}, "features of width 2 are expected"),
        ({"mfcc": [[1.0, float("nan")]]}, "NaN or Inf at step 0, dimension 1"),
        ({"mfcc": "no.npy"}, r"no readable \.npy"),
        ({"mood": None}, "a training row needs a label"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, change, message):
    changed = rows()
    changed[7] |= change
    if isinstance(change.get("mfcc"), str):
        changed = [
            row | {"mfcc": change["mfcc"] if number == 7 else json.dumps(row["mfcc"])}
            for number, row in enumerate(changed)
        ]
        changed = [row | {"mfcc": None if row["mfcc"] == "null" else row["mfcc"]} for row in changed]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in changed), encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        load(
            path, tmp_path / "cache", splits={"train": "train", "validation": 0.01, "test": 0.01} | DRAWN | {"seed": 5}
        )
    assert caught.value.row is not None
    assert caught.value.file.endswith("rows.jsonl")


def test_regression_several_labels_and_own_names(tmp_path):
    path = tmp_path / "rows.jsonl"
    content = [
        row | {"score": row["face"][0] / 3, "tags": ["x", "y"][: 1 + number % 2]} for number, row in enumerate(rows())
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    assert problem_type_of(load(path, tmp_path / "c", label="score")) == "regression"
    several = load(path, tmp_path / "c", label="tags")
    assert problem_type_of(several) == "multi_label_classification"
    assert label_names_of(load(path, tmp_path / "c", label_names=["good", "bad"])) == ["good", "bad"]
    with pytest.raises(DataError, match="'bad' is none of the label_names"):
        load(path, tmp_path / "c", label_names=["good", "fine"])
    with pytest.raises(DataError, match="there is no such column; the table has"):
        load(path, tmp_path / "c", label="moody")


@given(
    count=st.integers(6, 60),
    groups=st.integers(3, 12),
    seed=st.integers(0, 5),
    grouped=st.booleans(),
    classed=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_parts_and_folds_are_partitions(count, groups, seed, grouped, classed):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, count) if grouped else None
    kinds = rng.integers(0, 3, count) if classed else None
    try:
        parts = draw_parts(count, {"a": 0.3, "b": 0.3}, seed, group, kinds)
    except DataError:
        assert grouped or (classed and count < 12)  # a group may be too large for any share, a class too small
    else:
        assert sorted(np.concatenate(list(parts.values()))) == list(range(count))
        again = draw_parts(count, {"a": 0.3, "b": 0.3}, seed, group, kinds)
        assert all(np.array_equal(parts[name], again[name]) for name in parts)
        if grouped:
            assert not set(group[parts["a"]]) & set(group[parts["b"]])
        elif not classed:
            assert len(parts["a"]) == pytest.approx(0.3 * count, abs=1)
    if not grouped or len(set(group.tolist())) >= 3:
        fold_of = fold_of_rows(count, 3, seed, group, kinds)
        assert set(fold_of) == {0, 1, 2}
        if grouped:
            assert all(len(set(fold_of[group == one])) == 1 for one in set(group.tolist()))
