"""MMSA's pickles of MOSI, MOSEI and CH-SIMS, aligned and unaligned."""

import os

import numpy as np
import pytest

from hf_mmalign.data.errors import DataError, UnsafePickleError
from hf_mmalign.data.readers.features import strip_back_padding
from hf_mmalign.data.schema import label_names_of, modalities_of, problem_type_of

MODALITIES = ("text", "audio", "vision")


def text_lengths(split):
    return split["text_bert"][:, 1].sum(axis=1).astype(int)


def test_unaligned_sequences_end_where_mask_and_lengths_say(load, write_pickle, mmsa_unaligned):
    data = load("mmsa", write_pickle(mmsa_unaligned))
    assert {split: len(rows) for split, rows in data.items()} == {"train": 12, "validation": 5, "test": 6}
    assert modalities_of(data) == {"text": 8, "audio": 5, "vision": 4}
    assert list(modalities_of(data)) == list(MODALITIES)
    assert problem_type_of(data) == "regression"
    split = mmsa_unaligned["valid"]
    lengths = {"text": text_lengths(split), "audio": split["audio_lengths"], "vision": split["vision_lengths"]}
    for index, row in enumerate(data["validation"]):
        assert row["id"] == f"valid_video$_${index}"
        assert row["label"] == pytest.approx(split["regression_labels"][index])
        for name in MODALITIES:
            np.testing.assert_array_equal(row[name], split[name][index, : lengths[name][index]])


def test_aligned_sequences_share_the_text_mask_whatever_lengths_say(load, write_pickle, mmsa_aligned):
    split = mmsa_aligned["test"]
    split["audio_lengths"] = [1] * 6
    split["audio"][0, 1] = 0  # silence within the sentence is a step
    rows = load("mmsa", write_pickle(mmsa_aligned))["test"]
    for index, row in enumerate(rows):
        for name in MODALITIES:
            np.testing.assert_array_equal(row[name], split[name][index, : text_lengths(split)[index]])


def test_padding_in_front_goes_by_the_mask_too(load, write_pickle, mmsa_aligned):
    split = mmsa_aligned["test"]
    expected = [split["text"][index, :length].copy() for index, length in enumerate(text_lengths(split))]
    for name in MODALITIES:
        split[name] = split[name][:, ::-1]
    split["text_bert"] = split["text_bert"][:, :, ::-1]
    for row, sequence in zip(load("mmsa", write_pickle(mmsa_aligned))["test"], expected, strict=True):
        np.testing.assert_array_equal(row["text"], sequence[::-1])


def test_mask_and_segments_may_be_swapped(load, write_pickle, mmsa_aligned):
    path = write_pickle(mmsa_aligned)
    expected = [row["text"] for row in load("mmsa", path)["train"]]
    for split in mmsa_aligned.values():
        split["text_bert"] = split["text_bert"][:, [0, 2, 1]]
    os.utime(write_pickle(mmsa_aligned), ns=(0, 0))
    for row, sequence in zip(load("mmsa", path)["train"], expected, strict=True):
        np.testing.assert_array_equal(row["text"], sequence)


def test_without_mask_and_lengths_zeros_behind_are_padding(load, write_pickle, mmsa_unaligned):
    for split in mmsa_unaligned.values():
        for field in ("text_bert", "audio_lengths", "vision_lengths"):
            del split[field]
        split["audio"][0] = 0
    train = load("mmsa", write_pickle(mmsa_unaligned))["train"]
    assert train[0]["audio"].shape == (0, 5)
    used = (mmsa_unaligned["train"]["audio"] != 0).any(axis=2).sum(axis=1)
    assert [len(row["audio"]) for row in train] == used.tolist()
    assert all(len(row["text"]) == 6 for row in train)


def test_strip_back_padding():
    sequence = np.array([[0, 0], [0, 1], [0, 0], [2, 0], [0, 0], [0, 0]], dtype=np.float32)
    np.testing.assert_array_equal(strip_back_padding(sequence), sequence[:4])
    np.testing.assert_array_equal(strip_back_padding(sequence[:2]), sequence[:2])
    assert strip_back_padding(sequence[4:]).shape == (0, 2)


def test_a_sequence_of_zeros_within_its_length_is_missing(load, write_pickle, mmsa_unaligned):
    mmsa_unaligned["train"]["vision"][4] = 0
    train = load("mmsa", write_pickle(mmsa_unaligned))["train"]
    assert [len(row["vision"]) == 0 for row in train] == [index == 4 for index in range(12)]


def test_a_length_beyond_the_array_is_that_of_a_cut_sequence(load, write_pickle, mmsa_unaligned):
    mmsa_unaligned["train"]["audio_lengths"][0] = 400
    assert len(load("mmsa", write_pickle(mmsa_unaligned))["train"][0]["audio"]) <= 9


def test_raw_text(load, write_pickle, mmsa_aligned):
    mmsa_aligned["train"]["raw_text"][3] = "  "
    mmsa_aligned["valid"]["raw_text"] = np.array(mmsa_aligned["valid"]["raw_text"])
    mmsa_aligned["test"]["raw_text"] = np.array(mmsa_aligned["test"]["raw_text"], dtype=object)
    for split in mmsa_aligned.values():
        del split["text"]  # not needed then
    data = load("mmsa", write_pickle(mmsa_aligned), text="raw")
    assert modalities_of(data) == {"text": "text", "audio": 5, "vision": 4}
    assert [row["text"] for row in data["train"]][2:5] == ["sentence train 2", None, "sentence train 4"]
    assert data["test"][0]["text"] == "sentence test 0"
    lengths = text_lengths(mmsa_aligned["train"])
    assert [len(row["audio"]) for row in data["train"]] == lengths.tolist()


def test_minus_infinity_becomes_zero_or_is_refused(load, write_pickle, mmsa_unaligned):
    split = mmsa_unaligned["train"]
    split["audio"][2, 0, 1], split["audio"][2, 1, 0] = -np.inf, np.nan
    path = write_pickle(mmsa_unaligned)
    audio = load("mmsa", path)["train"][2]["audio"]
    assert (audio[0, 1], audio[1, 0]) == (0, 0)
    assert audio[0, 0] == split["audio"][2, 0, 0]
    with pytest.raises(DataError, match=r"row 2, field 'train\.audio': 2 NaN or Inf"):
        load("mmsa", path, nonfinite="error")


def test_labels_of_single_modalities(load, write_pickle, mmsa_unaligned):
    for split in mmsa_unaligned.values():
        split["regression_labels_A"] = (split["regression_labels"] / 2).tolist()
    path = write_pickle(mmsa_unaligned)
    rows = load("mmsa", path, label="A")["test"]
    assert rows["label"][:].tolist() == pytest.approx((mmsa_unaligned["test"]["regression_labels"] / 2).tolist())
    with pytest.raises(DataError, match=r"field 'train\.regression_labels_T': missing; the split has only"):
        load("mmsa", path, label="T")


def test_polarity_as_classes(load, write_pickle, mmsa_aligned):
    data = load("mmsa", write_pickle(mmsa_aligned), task="classification")
    assert label_names_of(data) == ["negative", "neutral", "positive"]
    assert data["train"]["label"][:].tolist() == mmsa_aligned["train"]["classification_labels"].tolist()


def ragged(split, make):
    """The features as rows of their own lengths, as `make` collects them."""
    for name in ("audio", "vision"):
        lengths = split[f"{name}_lengths"]
        split[name] = make([sequence[:length] for sequence, length in zip(split[name], lengths, strict=True)])


def object_array(rows):
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


@pytest.mark.parametrize(
    "make", [list, object_array, lambda rows: [row.tolist() for row in rows]], ids=["arrays", "objects", "numbers"]
)
def test_lists_and_object_arrays_read_as_arrays_do(load, write_pickle, mmsa_unaligned, make):
    expected = load("mmsa", write_pickle(mmsa_unaligned))["train"][:]
    for split in mmsa_unaligned.values():
        ragged(split, make)
        split["text"], split["text_bert"] = split["text"].astype(object), split["text_bert"].tolist()
        split["id"] = object_array(split["id"])
        split["regression_labels"] = split["regression_labels"].astype(object)
    found = load("mmsa", write_pickle(mmsa_unaligned))["train"][:]
    assert list(found["id"]) == list(expected["id"])
    np.testing.assert_array_equal(found["label"], expected["label"])
    for name in MODALITIES:
        for one, other in zip(found[name], expected[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


class Hostile:
    def __reduce__(self):
        return os.system, ("exit 0",)


@pytest.mark.parametrize("reader", ["mmsa", "iemocap", "ravdess"])
def test_a_hostile_pickle_is_refused(load, write_pickle, mmsa_aligned, reader):
    mmsa_aligned["train"]["raw_text"] = np.array(["a", Hostile()], dtype=object)
    with pytest.raises(UnsafePickleError, match=r"data\.pkl: the pickle asks for .*system, which is not allowed"):
        load(reader, write_pickle(mmsa_aligned))


def put(split, field, value):
    def change(content):
        content[split][field] = value(content[split][field])

    return change


def row(index, value):
    def change(rows):
        rows = list(rows)
        rows[index] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda content: content.pop("valid"), {}, "field 'valid': a dict with the splits train, valid and test"),
        (lambda content: content["test"].pop("audio"), {}, r"field 'test\.audio': missing"),
        (put("test", "audio", lambda x: None), {}, r"field 'test\.audio': missing"),
        (put("test", "audio", lambda x: 3), {}, r"field 'test\.audio': a list or an array .* not int"),
        (put("train", "vision", lambda x: x[:-1]), {}, r"field 'train\.vision': 11 rows, but 12 in text"),
        (put("train", "vision", row(2, "face")), {}, r"row 2, field 'train\.vision': a numeric array \(T, D\)"),
        (put("train", "vision", row(2, [[1.0], [1.0, 2.0]])), {}, r"row 2, field 'train\.vision': no regular array"),
        (put("train", "vision", row(2, np.ones((3, 2)))), {}, r"row 2, .*different feature widths: \[2, 4\]"),
        (put("train", "vision", lambda x: x[None]), {}, r"field 'train\.vision': an array \(N, T, D\)"),
        (put("valid", "text", lambda x: x[..., :3]), {}, "field 'text': .*different feature widths.*'validation': 3"),
        (put("train", "audio", lambda x: [None] * 12), {}, "field 'audio': the splits have different feature widths"),
        (
            put("train", "audio_lengths", row(1, -1)),
            {},
            r"row 1, field 'train\.audio_lengths': an integer of at least 0",
        ),
        (put("train", "audio_lengths", row(1, 1.5)), {}, r"row 1, field 'train\.audio_lengths'"),
        (put("train", "text_bert", lambda x: x[:, :2]), {}, r"field 'train\.text_bert': \(N, 3, T\) is expected"),
        (put("train", "text_bert", lambda x: x * 3), {}, r"field 'train\.text_bert': the attention mask"),
        (put("test", "regression_labels", row(4, np.nan)), {}, r"row 4, field 'test\.regression_labels'"),
        (put("test", "regression_labels", row(4, "good")), {}, r"field 'test\.regression_labels': numbers"),
        (put("test", "classification_labels", row(4, 3)), {"task": "classification"}, "row 4.*from 0 to 2"),
        (put("test", "raw_text", row(4, 3)), {"text": "raw"}, r"row 4, field 'test\.raw_text': a string"),
    ],
)
def test_faults_are_named(load, write_pickle, mmsa_unaligned, change, options, message):
    change(mmsa_unaligned)
    with pytest.raises(DataError, match=rf"data\.pkl.*{message}"):
        load("mmsa", write_pickle(mmsa_unaligned), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": "bert"}, "field 'text': one of features, raw is expected, not 'bert'"),
        ({"label": "X"}, "field 'label': one of M, T, A, V"),
        ({"task": 3}, "field 'task': one of regression, classification"),
        ({"nonfinite": "ignore"}, "nonfinite"),
    ],
)
def test_wrong_option_values_are_refused(load, write_pickle, mmsa_aligned, options, message):
    with pytest.raises(DataError, match=message):
        load("mmsa", write_pickle(mmsa_aligned), **options)


@pytest.mark.parametrize("reader", ["mmsa", "multibench", "iemocap", "ravdess"])
def test_a_file_of_another_kind_is_called_what_it_is(load, tmp_path, mmsa_aligned, reader):
    np.savez(tmp_path / "data.npz", **mmsa_aligned["train"])
    with pytest.raises(DataError, match=r"data\.npz: a pickle is expected, and this is a zip archive \(npz"):
        load(reader, tmp_path / "data.npz")
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(DataError, match=r"data\.json: not a readable pickle"):
        load(reader, tmp_path / "data.json")


@pytest.mark.parametrize("reader", ["mmsa", "multibench", "iemocap"])
def test_a_folder_in_place_of_the_file(load, tmp_path, reader):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder: this is a folder; an? .* pickle is expected there"):
        load(reader, tmp_path / "folder")


@pytest.mark.parametrize(("field", "options"), [("raw_text", {"text": "raw"}), ("id", {})])
def test_half_of_a_surrogate_pair_is_no_text(load, write_pickle, mmsa_aligned, field, options):
    mmsa_aligned["valid"][field][3] = "half \ud800"
    with pytest.raises(
        DataError, match=rf"data\.pkl, row 3, field 'valid\.{field}': half of a surrogate pair at index 5"
    ):
        load("mmsa", write_pickle(mmsa_aligned), **options)


@pytest.mark.parametrize("absent", ["text", "audio", "vision"])
def test_two_modalities_are_enough(load, write_pickle, mmsa_unaligned, absent):
    whole = load("mmsa", write_pickle(mmsa_unaligned))
    for split in mmsa_unaligned.values():
        del split[absent]
    rows = load("mmsa", write_pickle(mmsa_unaligned))
    assert modalities_of(rows) == {name: width for name, width in modalities_of(whole).items() if name != absent}
    for row, expected in zip(rows["test"], whole["test"], strict=True):
        for name in modalities_of(rows):
            np.testing.assert_array_equal(row[name], expected[name])
    other = "audio" if absent == "text" else "text"
    for split in mmsa_unaligned.values():
        del split[other]
    with pytest.raises(DataError, match="at least two of"):
        load("mmsa", write_pickle(mmsa_unaligned))
