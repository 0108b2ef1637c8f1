"""MultiBench's pickles of MOSEI, MOSI and UR-FUNNY."""

import os

import numpy as np
import pytest

from hf_mmalign.data.errors import DataError, UnsafePickleError
from hf_mmalign.data.readers.features import strip_front_padding
from hf_mmalign.data.schema import label_names_of, modalities_of, num_labels_of, problem_type_of


def test_mosei(load, write_pickle, mosei):
    data = load("multibench", write_pickle(mosei))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 10, "validation": 4, "test": 5}
    assert modalities_of(data) == {"vision": 5, "audio": 4, "text": 7}
    assert (problem_type_of(data), num_labels_of(data), label_names_of(data)) == ("regression", 1, None)
    for index, row in enumerate(data["validation"]):
        assert row["id"] == f"video{index}_{index}.5_{index + 1}.5"
        assert row["label"] == pytest.approx(mosei["valid"]["labels"][index, 0, 0], rel=1e-6)
        for name in ("vision", "audio", "text"):
            padded = mosei["valid"][name][index]
            np.testing.assert_array_equal(row[name], padded[padded.any(axis=1)])
            assert row[name].dtype == np.float32


@pytest.mark.parametrize("negative", [0, -1])
def test_ur_funny_has_two_classes_however_they_are_written(load, write_pickle, ur_funny, negative):
    for split in ur_funny.values():
        split["labels"] = np.where(split["labels"] == 0, negative, 1)
    data = load("multibench", write_pickle(ur_funny))
    assert problem_type_of(data) == "single_label_classification"
    assert label_names_of(data) == ["negative", "positive"]
    assert data["train"]["label"][:].tolist() == [0, 1] * 5
    assert data["train"][3]["id"] == "103"
    assert data["train"][0]["vision"].dtype == np.float32


def test_the_task_can_be_named(load, write_pickle, ur_funny, mosei):
    path = write_pickle(ur_funny)
    assert problem_type_of(load("multibench", path, task="regression")) == "regression"
    with pytest.raises(DataError, match=r"are no classes"):
        load("multibench", write_pickle(mosei), task="classification")


def test_padding_is_stripped_only_in_front():
    sequence = np.array([[0, 0], [0, 0], [0, 1], [0, 0], [2, 0], [0, 0]], dtype=np.float32)
    np.testing.assert_array_equal(strip_front_padding(sequence), sequence[2:])
    np.testing.assert_array_equal(strip_front_padding(sequence[4:]), sequence[4:])
    assert strip_front_padding(sequence[:2]).shape == (0, 2)


def test_an_all_zero_sequence_is_a_missing_modality(load, write_pickle, mosei):
    mosei["train"]["audio"][3] = 0
    mosei["train"]["text"][5] = 0
    path = write_pickle(mosei)
    train = load("multibench", path)["train"]
    assert train[3]["audio"].shape == (0, 4)
    assert [len(row["text"]) == 0 for row in train] == [index == 5 for index in range(10)]
    kept = load("multibench", path, drop_missing=["text"])["train"]
    assert [row["id"] for row in kept] == [row["id"] for index, row in enumerate(train) if index != 5]


def test_nan_and_inf_are_counted_or_replaced(load, write_pickle, mosei):
    mosei["valid"]["audio"][2, -1, 1] = -np.inf  # as in the real audio features
    mosei["valid"]["audio"][3, -2:, 0] = np.nan
    path = write_pickle(mosei)
    with pytest.raises(DataError) as caught:
        load("multibench", path)
    assert (caught.value.file, caught.value.row, caught.value.field) == (str(path), 2, "valid.audio")
    assert "3 NaN or Inf values, the first at index [2, 5, 1]" in str(caught.value)
    audio = load("multibench", path, nonfinite="replace")["validation"][2]["audio"]
    assert audio[-1, 1] == 0
    assert audio[-1, 2] == mosei["valid"]["audio"][2, -1, 2]


def test_a_double_too_large_for_float32_counts_as_infinite(load, write_pickle, ur_funny):
    ur_funny["train"]["vision"][0, -1, 0] = 1e300
    with pytest.raises(DataError, match="1 NaN or Inf"):
        load("multibench", write_pickle(ur_funny))


class Hostile:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def test_a_hostile_pickle_does_nothing(load, write_pickle, mosei, tmp_path):
    mosei["note"] = Hostile(tmp_path / "victim")
    with pytest.raises(UnsafePickleError, match="mkdir"):
        load("multibench", write_pickle(mosei))
    assert not (tmp_path / "victim").exists()


def put(split, field, value):
    def change(content):
        content[split][field] = value(content[split][field])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("valid"), "field 'valid': a dict with the splits train, valid and test"),
        (lambda content: content["test"].pop("audio"), r"field 'test\.audio': missing"),
        (put("train", "vision", list), r"field 'train\.vision': a numeric array \(N, T, D\) is expected, not list"),
        (put("train", "text", lambda x: x[:, 0]), r"field 'train\.text'.*shape \(10, 7\)"),
        (put("train", "text", lambda x: x.astype(object)), r"field 'train\.text'.*object"),
        (put("train", "text", lambda x: x[:-1]), r"field 'train\.text': 9 rows, but 10 in vision"),
        (put("train", "id", lambda x: x[:-1]), r"field 'train\.id': 9 rows"),
        (put("valid", "id", lambda x: [[0] * 101] * 4), r"row 0, field 'valid\.id': no identifier: 101 parts"),
        (put("valid", "id", lambda x: ["a", {}, "c", "d"]), r"row 1, field 'valid\.id': no identifier: .* not dict"),
        (put("valid", "id", lambda x: [10**4000, 1 << 20000, 1, 2]), r"row 1, field 'valid\.id': no identifier"),
        (put("test", "audio", lambda x: x[:, :, :3]), "field 'audio': .*different feature widths.*'test': 3"),
        (put("test", "labels", lambda x: np.repeat(x, 6, axis=1)), r"field 'test\.labels': one number per row"),
        (put("test", "labels", lambda x: x * np.nan), r"row 0, field 'test\.labels': 5 values are NaN or Inf"),
        (put("test", "labels", lambda x: x.astype(str)), r"field 'test\.labels'"),
    ],
)
def test_faults_are_named(load, write_pickle, mosei, change, message):
    change(mosei)
    with pytest.raises(DataError, match=rf"data\.pkl.*{message}"):
        load("multibench", write_pickle(mosei))


def test_an_error_quotes_the_beginning_of_what_is_wrong(load, write_pickle, mosei):
    """The key unfolds to 100 000 numbers, and numpy's error quotes the whole string."""
    key = (1,)
    for _ in range(5):
        key = (key,) * 10
    mosei["train"].pop("vision")
    mosei["train"][key] = 10**4000
    with pytest.raises(DataError, match=r"field 'train\.vision': missing; the split has only") as caught:
        load("multibench", write_pickle(mosei))
    assert len(str(caught.value)) < 1500
    mosei["train"] = mosei["test"] | {"labels": ["x" * 10**6] * 5}
    with pytest.raises(DataError, match=r"field 'train\.labels'") as caught:
        load("multibench", write_pickle(mosei))
    assert len(str(caught.value)) < 1500


def test_an_empty_split_is_named(load, write_pickle, mosei):
    mosei["valid"] = {name: values[:0] for name, values in mosei["valid"].items()}
    with pytest.raises(DataError, match="validation split is empty"):
        load("multibench", write_pickle(mosei))


@pytest.mark.parametrize(
    ("options", "field"),
    [({"nonfinite": "ignore"}, "nonfinite"), ({"drop_missing": ["txt"]}, "drop_missing"), ({"task": "x"}, "task")],
)
def test_wrong_option_values_are_refused(load, write_pickle, mosei, options, field):
    with pytest.raises(DataError, match=field):
        load("multibench", write_pickle(mosei), **options)


@pytest.mark.parametrize("absent", ["text", "audio", "vision"])
def test_two_modalities_are_enough(load, write_pickle, mosei, absent):
    whole = load("multibench", write_pickle(mosei))
    for split in mosei.values():
        del split[absent]
    rows = load("multibench", write_pickle(mosei))
    assert modalities_of(rows) == {name: width for name, width in modalities_of(whole).items() if name != absent}
    for row, expected in zip(rows["test"], whole["test"], strict=True):
        for name in modalities_of(rows):
            np.testing.assert_array_equal(row[name], expected[name])
    other = "audio" if absent == "text" else "text"
    for split in mosei.values():
        del split[other]
    with pytest.raises(DataError, match="at least two of"):
        load("multibench", write_pickle(mosei))
