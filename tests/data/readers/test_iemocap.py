"""DecAlign's pickle of IEMOCAP."""

import numpy as np
import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.schema import label_names_of, modalities_of, problem_type_of


def test_vectors_are_sequences_of_one_step(load, write_pickle, iemocap):
    data = load("iemocap", write_pickle(iemocap))
    assert modalities_of(data) == {"text": 8, "audio": 5, "vision": 4}
    assert problem_type_of(data) == "single_label_classification"
    assert label_names_of(data) == ["happy", "sad", "neutral", "angry", "excited", "frustrated"]
    row = data["test"][6]
    assert (row["id"], row["label"]) == ("Ses01F_impro01_F006", 0)
    np.testing.assert_array_equal(row["audio"], iemocap["test"]["audio"][6].astype(np.float32))


def test_plain_vectors_and_sequences_are_read_too(load, write_pickle, iemocap):
    for split in iemocap.values():
        split["audio"] = split["audio"][:, 0]
        split["vision"] = np.concatenate([split["vision"]] * 3 + [np.zeros_like(split["vision"])], axis=1)
    row = load("iemocap", write_pickle(iemocap))["train"][0]
    assert (row["audio"].shape, row["vision"].shape) == ((1, 5), (3, 4))


def test_raw_text_missing_modalities_and_infinities(load, write_pickle, iemocap):
    iemocap["train"]["vision"][1] = 0
    iemocap["train"]["audio"][2, 0, 0] = -np.inf
    train = load("iemocap", write_pickle(iemocap), text="raw")["train"]
    assert train[0]["text"] == "utterance 0"
    assert train[1]["vision"].shape == (0, 4)
    assert train[2]["audio"][0, 0] == 0


def test_other_classes_can_be_named(load, write_pickle, iemocap):
    for split in iemocap.values():
        split["classification_labels"] = (split["classification_labels"] % 4).astype("float32").tolist()
    data = load("iemocap", write_pickle(iemocap), label_names=["happy", "sad", "angry", "neutral"])
    assert label_names_of(data)[3] == "neutral"


@pytest.mark.parametrize("names", ["happy", ["happy"], ["happy", "happy"]])
def test_wrong_class_names_are_refused(load, write_pickle, iemocap, names):
    with pytest.raises(DataError, match="label_names"):
        load("iemocap", write_pickle(iemocap), label_names=names)


def test_a_class_outside_the_range_is_named(load, write_pickle, iemocap):
    iemocap["valid"]["classification_labels"][3] = 6
    with pytest.raises(DataError, match=r"row 3, field 'valid\.classification_labels': an integer from 0 to 5"):
        load("iemocap", write_pickle(iemocap))
