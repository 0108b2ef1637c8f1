"""A table whose training split is read while it is trained on."""

import io
import pickle
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from PIL import Image

from hf_mmalign import MultimodalCollator, MultimodalProcessor, load_multimodal_dataset
from hf_mmalign.data import loading
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.schema import label_names_of, modalities_of
from hf_mmalign.data.tokenizers import spaced_texts, train_tokenizer_on
from hf_mmalign.data.validation import validate_dataset
from tests.data.streamed_files import write_shards

pytestmark = pytest.mark.skipif(not loading.TABLES_STREAM, reason="this version of datasets is refused")

COLUMNS = {"text": "tweet", "face": "face", "mfcc": "mfcc"}


def stream(path, cache, **options):
    chosen = {"columns": COLUMNS, "label": "mood"} | options
    return load_multimodal_dataset("table", path, cache_dir=cache, streaming=True, **chosen)


def content(row) -> tuple:
    """Of a row, whatever it is of; equal rows have equal contents."""
    arrays = (np.asarray(row[name]).reshape(-1, width).tolist() for name, width in (("face", 3), ("mfcc", 2)))
    return (row["text"], *arrays, int(row["label"]))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "saved"])
def test_a_stream_has_the_rows_of_the_table(tmp_path, form):
    folder = write_shards(tmp_path / "data", form)
    whole = load_multimodal_dataset("table", folder, cache_dir=tmp_path / "c", columns=COLUMNS, label="mood")
    data = stream(folder, tmp_path / "c")
    assert isinstance(data["train"], IterableDataset)
    assert isinstance(data["validation"], Dataset)
    assert data["train"].features == whole["train"].features
    assert modalities_of(data) == {"text": "text", "face": 3, "mfcc": 2}
    assert label_names_of(data) == ["bad", "good"]
    for split in ("train", "validation", "test"):
        assert [content(row) for row in data[split]] == [content(row) for row in whole[split]]
    row = next(iter(data["train"]))
    assert row["face"].dtype == row["mfcc"].dtype == np.float32
    # Nobody knows what number a row of a shuffled and divided stream has.
    assert row["id"] is None
    again = pickle.loads(pickle.dumps(data["train"]))  # for workers that are not forked
    assert content(next(iter(again))) == content(row)


@pytest.mark.skipif(not hasattr(IterableDataset, "reshard"), reason="this version of datasets reads whole files")
def test_of_parquet_no_more_than_a_row_group_is_read_at_a_time(tmp_path):
    """What is read ahead of a file, often all of it, is held in memory, and so for each of the files that are mixed."""
    folder = write_shards(tmp_path / "data", "parquet")
    pq.write_table(pq.read_table(folder / "train-2.parquet"), folder / "train-2.parquet", row_group_size=2)
    data = stream(folder, tmp_path / "c")
    assert data["train"].num_shards == 2 + 4  # two files with all rows in one, and eight rows in four
    assert [row["text"] for row in data["train"]][-1] == "train text 19"


def test_files_are_named_and_rows_by_their_column(tmp_path):
    folder = write_shards(tmp_path / "data", "jsonl")
    splits = {"train": "train-*.jsonl", "validation": "test.jsonl", "test": "validation.jsonl"}
    data = stream(folder, tmp_path / "c", splits=splits, id="name")
    assert [row["id"] for row in data["train"]] == [f"train {number}" for number in range(20)]
    assert list(data["validation"]["id"]) == [f"test {number}" for number in range(6)]


def write_webdataset(folder: Path) -> Path:
    folder.mkdir()
    for shard, samples in (("train-0", 5), ("train-1", 3), ("validation", 4), ("test", 4)):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for number in range(samples):
                picture = io.BytesIO()
                Image.new("RGB", (32, 24), (0, 0, 40 * number)).save(picture, "PNG")
                vector = io.BytesIO()
                np.save(vector, np.full(4, number, np.float32))
                parts = {"png": picture.getvalue(), "txt": f"text {number}".encode(), "cls": b"%d" % (number % 2)}
                for ending, data in (parts | {"npy": vector.getvalue()}).items():
                    entry = tarfile.TarInfo(f"{shard}-{number:03d}.{ending}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    return folder


def test_webdataset_shards(tmp_path):
    columns = {"image": "png", "text": "txt", "vector": "npy"}
    data = stream(write_webdataset(tmp_path / "data"), tmp_path / "c", columns=columns, label="cls")
    assert modalities_of(data) == {"image": "image", "text": "text", "vector": 4}
    rows = list(data["train"])
    assert data["train"].num_shards == 2
    assert [row["id"] for row in rows] == [f"train-0-{n:03d}" for n in range(5)] + [
        f"train-1-{n:03d}" for n in range(3)
    ]
    assert {np.asarray(row["image"]).shape for row in rows} == {(24, 32, 3)}
    assert [int(row["vector"][0, 0]) for row in rows] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert len(data["validation"]) == 4


def test_what_a_stream_cannot_have_is_an_error_that_says_what_can(tmp_path):
    folder = write_shards(tmp_path / "data", "jsonl")
    with pytest.raises(DataError, match=r"validation draws rows at random.*streamed; name files or splits"):
        stream(folder, tmp_path / "c", splits={"validation": 0.1, "test": "test.jsonl"})
    with pytest.raises(DataError, match="folds draw from all rows"):
        stream(folder, tmp_path / "c", folds=5, fold=0)
    with pytest.raises(DataError, match="option label names the column: label: mood"):
        stream(folder, tmp_path / "c", label_column="mood")
    with pytest.raises(DataError, match="only the format table can be streamed, not 'image-text'"):
        load_multimodal_dataset("image-text", folder, streaming=True)
    with pytest.raises(DataError, match=r"say where validation comes from.*splits: \{train: train-\*\.parquet"):
        stream(folder / "train-0.jsonl", tmp_path / "c")
    np.savez(tmp_path / "rows.npz", face=np.ones((4, 3)), mood=np.arange(4))
    with pytest.raises(DataError, match=r"an \.npz is read as a whole"):
        stream(tmp_path / "rows.npz", tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mfcc": [[1.0, 2.0, 3.0]]}, "features of width 2 are expected"),
        ({"mfcc": [[1.0, float("nan")]]}, "NaN or Inf at step 0, dimension 1"),
        ({"mood": None}, "a training row needs a label"),
        ({"mood": "ugly"}, "'ugly' is none of the classes"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, message):
    folder = write_shards(tmp_path / "data", "jsonl", changed={17: change})
    data = stream(folder, tmp_path / "c", label_names=["bad", "good"], id="name")
    with pytest.raises(DataError, match=message) as caught:
        validate_dataset(data, modalities_of(data), "single_label_classification", 2)
    assert caught.value.row == 17
    assert "(the row's id is 'train 17')" in str(caught.value)


def test_a_file_that_breaks_off_is_unreadable(tmp_path):
    folder = write_shards(tmp_path / "data", "jsonl")
    with open(folder / "train-1.jsonl", "a", encoding="utf-8") as file:
        file.write('{"tweet": "broken')
    with pytest.raises(DataError, match=r"data: the table cannot be read: .*Missing a closing quotation mark"):
        stream(folder, tmp_path / "c")


def test_classes_are_found_in_one_pass_that_is_made_once_or_not_at_all(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "data", "jsonl")
    assert label_names_of(stream(folder, tmp_path / "c", label_names=["good", "bad"])) == ["good", "bad"]
    assert not list((tmp_path / "c").glob("hf_mmalign/kept/*.json"))
    assert label_names_of(stream(folder, tmp_path / "c")) == ["bad", "good"]
    (kept,) = (tmp_path / "c").glob("hf_mmalign/kept/classes-*.json")
    kept.write_text(kept.read_text().replace("good", "fine"))
    assert label_names_of(stream(folder, tmp_path / "c")) == ["bad", "fine"]  # nobody read the files
    kept.write_text(kept.read_text()[:50])
    assert label_names_of(stream(folder, tmp_path / "c")) == ["bad", "good"]
    # Other files are other data.
    write_shards(folder, "jsonl", changed={3: {"mood": "ugly"}})
    assert label_names_of(stream(folder, tmp_path / "c")) == ["bad", "good", "ugly"]


def test_what_is_fitted_on_a_stream_equals_what_is_fitted_on_the_table(tmp_path):
    folder = write_shards(tmp_path / "data", "jsonl")
    whole = load_multimodal_dataset("table", folder, cache_dir=tmp_path / "c", columns=COLUMNS, label="mood")
    data = stream(folder, tmp_path / "c")
    one, other = (MultimodalProcessor().fit_features(split["train"]) for split in (whole, data))
    for name in ("face", "mfcc"):
        np.testing.assert_allclose(one.feature_statistics[name].mean, other.feature_statistics[name].mean, atol=1e-6)
        np.testing.assert_allclose(one.feature_statistics[name].std, other.feature_statistics[name].std, atol=1e-6)
    tokenizers = [train_tokenizer_on(split["train"], "wordpiece") for split in (whole, data)]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    collator = MultimodalCollator.from_dataset(MultimodalProcessor(tokenizers[0]), data)
    batch = collator([row for row, _ in zip(data["train"], range(4), strict=False)])
    assert batch["features"]["face"].shape == (4, 1, 3)
    assert batch["labels"].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("count", [3, 10, 11, 20, 2500])
def test_evenly_spaced_texts_of_a_stream(count):
    rows = Dataset.from_dict({"text": [str(number) for number in range(count)]}).to_iterable_dataset()
    taken = [int(text) for batch in spaced_texts(rows, 10) for text in batch]
    assert len(taken) == min(count, 10)
    gaps = np.diff(taken)
    assert taken[0] == 0
    assert gaps.max() <= 2 * gaps.min()
    assert taken[-1] + gaps.max() >= count


def test_streams_made_by_hand(tmp_path):
    features = Features({"text": Value("string"), "vector": [Value("float32")], "label": Value("int64")})
    rows = [{"text": f"text {number}", "vector": [number, 1.0], "label": number % 2} for number in range(4)]
    made = IterableDataset.from_generator(lambda: iter(rows), features=features)
    assert modalities_of(made) == {"text": "text", "vector": 2}
    with pytest.raises(DataError, match="a stream's integers do not tell how many classes"):
        MultimodalCollator.from_dataset(MultimodalProcessor(), made)
    named = made.cast_column("label", ClassLabel(names=["a", "b"]))
    tokenizer = train_tokenizer_on(named, "wordpiece")
    collator = MultimodalCollator.from_dataset(MultimodalProcessor(tokenizer), named)
    assert collator(list(named))["features"]["vector"].shape == (4, 1, 2)
    with pytest.raises(DataError, match="does not say which columns it has"):
        modalities_of(IterableDataset.from_generator(lambda: iter(rows)))


def test_an_empty_split_is_found(tmp_path):
    folder = write_shards(tmp_path / "data", "jsonl")
    data = stream(folder, tmp_path / "c")
    data["train"] = data["train"].skip(100)
    with pytest.raises(DataError, match="'train': the split is empty"):
        validate_dataset(data, modalities_of(data), "single_label_classification", 2)


def test_a_name_on_the_hub_is_known_by_its_state(tmp_path, monkeypatch):
    """The state of the repository is part of what the classes are kept by."""
    folder, state = write_shards(tmp_path / "data", "jsonl"), "one"
    monkeypatch.setattr(loading, "version_on_hub", lambda name: state)
    monkeypatch.setattr(
        "hf_mmalign.data.tables._load",
        lambda path, name, files, streaming: datasets.load_dataset(str(folder), streaming=streaming),
    )
    assert label_names_of(stream("somebody/tweets", tmp_path / "c")) == ["bad", "good"]
    write_shards(folder, "jsonl", changed={3: {"mood": "ugly"}})
    assert label_names_of(stream("somebody/tweets", tmp_path / "c")) == ["bad", "good"]
    state = "two"
    assert label_names_of(stream("somebody/tweets", tmp_path / "c")) == ["bad", "good", "ugly"]


def test_an_old_version_of_datasets_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "TABLES_STREAM", False)
    with pytest.raises(DataError, match=r"5\.2 or newer is needed"):
        stream(write_shards(tmp_path / "data", "jsonl"), tmp_path / "c")
