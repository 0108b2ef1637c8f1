"""What is refused before training starts."""

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.schema import feature_sequence, modalities_of, num_labels_of, problem_type_of
from hf_mmalign.data.validation import feature_chunks, validate_dataset


def make(features, **columns):
    return Dataset.from_dict(columns, features=Features(features))


@pytest.fixture
def views():
    features = {"audio": feature_sequence(2), "label": ClassLabel(names=["a", "b", "c"])}
    sequences = [np.arange(2.0 * steps, dtype=np.float32).reshape(-1, 2) for steps in (3, 0, 1, 2)]
    rows = make(features, audio=sequences, label=[0, 2, 1, 1])
    return DatasetDict(train=rows, validation=rows, test=rows)


def check(data, **changes):
    arguments = {
        "modalities": modalities_of(data),
        "problem_type": problem_type_of(data),
        "num_labels": num_labels_of(data),
    }
    validate_dataset(data, **arguments | changes)


@pytest.mark.parametrize("name", ["digits-captions", "digits-views"])
def test_embedded_data_passes(load, name):
    check(load(name))


def test_every_reader_passes(load, hateful_memes, mmimdb_folder, mmimdb_hdf5, write_pickle, mosei):
    check(load("image-text", hateful_memes))
    check(load("mmimdb", mmimdb_folder, num_genres=3))
    check(load("mmimdb", mmimdb_hdf5.path))
    check(load("mmimdb", mmimdb_hdf5.path, poster="pixels"))
    check(load("multibench", write_pickle(mosei)))


def test_columns_the_model_does_not_take_are_no_fault(load):
    check(load("digits-views"), modalities={"top": 8})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": {"vision": 2}}, "'train.vision': the model takes it, but the data set has only {'audio': 2}"),
        ({"modalities": {"audio": 3}}, "the model takes features of width 3, the data set has features of width 2"),
        ({"modalities": {"audio": "image"}}, "the model takes image, the data set has features of width 2"),
        ({"problem_type": "regression"}, "the labels are for single_label_classification, the model is for regression"),
        ({"num_labels": 2}, "row 1, field 'train.label': 2 is outside the range: a class id from 0 to 1 is expected"),
    ],
)
def test_a_model_that_does_not_fit(views, changes, message):
    with pytest.raises(DataError) as caught:
        check(views, **changes)
    assert message in str(caught.value)


def test_no_train_split_and_empty_splits(views):
    with pytest.raises(DataError, match="no train split"):
        check(DatasetDict(test=views["test"]))
    views["validation"] = views["validation"].select([])
    with pytest.raises(DataError, match="'validation': the split is empty"):
        check(views)


@pytest.mark.parametrize("select", [False, True])
def test_nan_and_inf_are_counted_with_their_place(views, select):
    rows = [row["audio"] for row in views["train"].with_format("numpy")]
    rows[2][0, 1] = np.inf
    rows[3][1] = np.nan
    views["test"] = make(views["train"].features, audio=rows, label=[0, 0, 0, 0])
    if select:
        views["test"] = views["test"].select([3, 2])
    with pytest.raises(DataError) as caught:
        check(views)
    assert "3 NaN or Inf values" in str(caught.value)
    row, place = (0, "at step 1, dimension 0") if select else (2, "at step 0, dimension 1")
    assert (caught.value.row, caught.value.field) == (row, "test.audio")
    assert place in str(caught.value)


def test_mixed_widths_are_named(views):
    """The column's type does not bind what a foreign Arrow file holds."""
    width = views["train"].features["audio"]
    storage = pa.array([[[1, 2]], [[1, 2], [1, 2, 3]]], type=pa.list_(pa.list_(pa.float32())))
    table = pa.table({"audio": pa.ExtensionArray.from_storage(width(), storage), "label": pa.array([0, 1], pa.int64())})
    views["train"] = Dataset(table.replace_schema_metadata(views["train"].features.arrow_schema.metadata))
    with pytest.raises(DataError, match="row 1, field 'audio': a step has width 3, the column 2"):
        check(views)


def test_feature_chunks_cover_every_row_once(views):
    [(first, lengths, values)] = feature_chunks(views["train"], "audio")
    assert (first, lengths.tolist(), values.shape) == (0, [3, 0, 1, 2], (6, 2))
    shuffled = views["train"].select([3, 0])
    [(_, lengths, values)] = feature_chunks(shuffled, "audio")
    assert (lengths.tolist(), values[:2].tolist()) == ([2, 3], [[0, 1], [2, 3]])


def test_labels_outside_the_range():
    text = {"text": Value("string")}
    multi = make(text | {"label": List(ClassLabel(names=["a", "b", "c"]))}, text=["x"] * 3, label=[[0], [], [1, 2]])
    check(DatasetDict(train=multi))
    with pytest.raises(DataError, match=r"row 2, field 'train\.label': 2 is outside"):
        check(DatasetDict(train=multi), num_labels=2)
    unknown = make(text | {"label": ClassLabel(names=["a", "b"])}, text=["x"] * 2, label=[0, -1])
    with pytest.raises(DataError, match=r"row 1, field 'train\.label': -1 is outside"):
        check(DatasetDict(train=unknown))
    regression = make(text | {"label": Value("float32")}, text=["x"] * 2, label=[0.5, float("nan")])
    with pytest.raises(DataError, match=r"row 1.*nan is outside the range: a finite number"):
        check(DatasetDict(train=regression))


def test_training_rows_need_labels_and_test_rows_do_not():
    features = {"text": Value("string"), "label": ClassLabel(names=["a", "b"])}
    whole, partial = make(features, text=["x"] * 2, label=[0, 1]), make(features, text=["x"] * 2, label=[0, None])
    check(DatasetDict(train=whole, test=partial))
    with pytest.raises(DataError, match="1 of 2 training rows have no label"):
        check(DatasetDict(train=partial, test=whole))


def test_a_label_column_is_needed():
    with pytest.raises(DataError, match="no column 'label'"):
        check(DatasetDict(train=make({"text": Value("string")}, text=["x"])))


@pytest.mark.parametrize(("content", "fault"), [(None, "does not exist"), (b"no picture", "cannot be read")])
def test_unreadable_pictures_are_named(load, hateful_memes, content, fault):
    data = load("image-text", hateful_memes)
    picture = hateful_memes / "img/00012.png"
    picture.unlink()
    if content:
        picture.write_bytes(content)
    with pytest.raises(DataError, match=rf"row 2, field 'train\.image': .*00012\.png {fault}"):
        check(data)


def test_text_that_is_no_utf8_is_named():
    """Arrow does not look into what it is given; a row would raise when it is read, in the middle of an epoch."""
    offsets = pa.py_buffer(np.array([0, 2, 2, 5], np.int32).tobytes())
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"ok\xed\xa0\x80")])
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a"])})
    table = pa.table({"text": texts, "label": pa.array([0, 0, 0], pa.int64())})
    rows = Dataset(table.replace_schema_metadata(features.arrow_schema.metadata))
    with pytest.raises(DataError, match=r"row 2, field 'train\.text': no valid UTF-8"):
        check(DatasetDict(train=rows))
    check(DatasetDict(train=rows.select([1, 0])))


def test_unreadable_embedded_pictures_are_named():
    features = {"image": Image(), "label": ClassLabel(names=["a"])}
    rows = make(features, image=[None, {"bytes": b"no picture", "path": None}], label=[0, 0])
    with pytest.raises(DataError, match=r"row 1, field 'train\.image'"):
        check(DatasetDict(train=rows))
