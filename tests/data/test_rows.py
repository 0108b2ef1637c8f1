"""Rows read a batch at a time are the rows that `datasets` gives."""

import pickle

import datasets
import numpy as np
import pytest
from datasets import Array2D, Dataset, Features, Image, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from hf_mmalign import FusionConfig, FusionForSequenceClassification, MultimodalTrainer, MultimodalTrainingArguments
from hf_mmalign.data.rows import BatchedRows, rows_by_batch
from hf_mmalign.data.schema import feature_sequence

COLUMNS = {"id": Value("string"), "audio": feature_sequence(2), "face": feature_sequence(3), "label": Value("int64")}
LENGTHS = [3, 0, 1, 5, 0, 2, 4]


def data(lengths=LENGTHS, columns=COLUMNS) -> Dataset:
    rng = np.random.default_rng(0)
    rows = {
        "id": [f"r{index}" for index in range(len(lengths))],
        "audio": [rng.normal(size=(length, 2)).astype(np.float32) for length in lengths],
        "face": [rng.normal(size=(length + 1, 3)).astype(np.float32) for length in lengths[::-1]],
        "label": list(range(len(lengths))),
    }
    return Dataset.from_dict({name: rows[name] for name in columns}, features=Features(columns)).with_format("numpy")


def assert_same(rows, expected):
    assert len(rows) == len(expected)
    for one, other in zip(rows, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert np.asarray(one[name]).dtype == np.asarray(other[name]).dtype


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(LENGTHS) - 1), min_size=1, max_size=12), st.permutations(range(len(LENGTHS))))
def test_any_rows_of_any_selection(indices, order):
    for dataset in (data(), data().select(order), datasets.concatenate_datasets([data(), data()]).select(order)):
        assert_same(rows_by_batch(dataset).__getitems__(indices), [dataset[index] for index in indices])


@pytest.mark.parametrize("columns", [["audio"], ["audio", "face"], ["id", "face", "label"]])
def test_whatever_columns_there_are(columns, tmp_path):
    data(columns={name: COLUMNS[name] for name in columns}).save_to_disk(tmp_path)
    dataset = datasets.load_from_disk(tmp_path)
    rows = rows_by_batch(dataset)
    assert isinstance(rows, BatchedRows)
    assert len(rows) == len(dataset)
    loaded = [row for batch in DataLoader(rows, batch_size=3, collate_fn=list, num_workers=1) for row in batch]
    assert_same(loaded, list(dataset))
    assert_same([rows[2]], [dataset[2]])


def test_an_absent_cell_is_none_and_positions_are_a_lists():
    columns = Features({"audio": feature_sequence(2)})
    cells = [np.ones((2, 2), np.float32), None, np.zeros((0, 2), np.float32), np.full((1, 2), 3, np.float32)]
    rows = rows_by_batch(Dataset.from_dict({"audio": cells}, features=columns).with_format("numpy"))
    found = [row["audio"] for row in rows.__getitems__([0, 1, 2, -1])]
    assert found[1] is None
    for one, other in zip(found[::2], cells[::2], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found[3], cells[3])
    with pytest.raises(IndexError):
        rows.__getitems__([4])


def test_a_workers_copy_holds_no_cells():
    rows = rows_by_batch(data())
    rows[0]
    assert pickle.loads(pickle.dumps(rows.sequences["audio"]))._chunks is None
    assert_same([pickle.loads(pickle.dumps(rows))[3]], [data()[3]])


def test_a_row_may_be_written_into():
    dataset = data()
    rows = rows_by_batch(dataset)
    one, other = rows.__getitems__([0, 0])
    one["audio"][:] = 7
    assert_same([other, rows[0]], [dataset[0], dataset[0]])


def test_what_has_no_sequences_of_free_length_stays_as_it_is():
    plain, fixed = (
        data(columns={"id": COLUMNS["id"]}),
        Dataset.from_dict(
            {"audio": [np.zeros((2, 2), np.float32)]}, features=Features({"audio": Array2D((2, 2), "float32")})
        ).with_format("numpy"),
    )
    for dataset in (plain, fixed, data().with_format(None), data().with_format("numpy", columns=["audio"]), [{"a": 1}]):
        assert rows_by_batch(dataset) is dataset


def test_pictures_beside_sequences(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    columns = Features({"image": Image(), "audio": feature_sequence(2)})
    rows = {"image": [picture, None], "audio": [np.ones((1, 2), np.float32), np.zeros((0, 2), np.float32)]}
    dataset = Dataset.from_dict(rows, features=columns).with_format("numpy")
    found, expected = rows_by_batch(dataset).__getitems__([0, 1]), [dataset[0], dataset[1]]
    np.testing.assert_array_equal(found[0]["image"], expected[0]["image"])
    assert found[1]["image"] is None
    assert expected[1]["image"] is None
    assert found[1]["audio"].shape == (0, 2)


def test_a_column_of_lengths_still_groups_the_samples(tmp_path):
    """The sampler looks at the data set itself."""
    lengths = [1, 9] * 40
    rows = {
        "audio": [np.ones((length, 3), np.float32) for length in lengths],
        "label": [0, 1] * 40,
        "length": lengths,
    }
    columns = Features({"audio": feature_sequence(3), "label": Value("int64"), "length": Value("int64")})
    dataset = Dataset.from_dict(rows, features=columns).with_format("numpy")
    config = FusionConfig(feature_sizes={"audio": 3}, hidden_size=4, num_labels=2)
    settings = {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2, "use_cpu": True}
    trainer = MultimodalTrainer(
        FusionForSequenceClassification(config),
        MultimodalTrainingArguments(str(tmp_path), report_to="none", **settings),
        train_dataset=dataset,
        data_collator=lambda batch: [len(row["audio"]) for row in batch],
    )
    loader = trainer.get_train_dataloader()
    assert isinstance(loader.dataset, BatchedRows)
    batches = list(loader)
    assert sorted(length for batch in batches for length in batch) == sorted(lengths)
    assert sum(len(set(batch)) == 1 for batch in batches) >= 36  # of 40, and by chance half of them
