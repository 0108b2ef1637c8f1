"""A table whose texts are to be translated."""

import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.loading import load_multimodal_dataset
from hf_mmalign.data.schema import modalities_of, problem_type_of

SPLITS = {"validation": 0.2, "test": 0.2}


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    lines = [f'word {index},mot {index},"[{index}.0, 1.0]"' for index in range(10)]
    path.write_text("\n".join(["english,french,voice", *lines]) + "\n")
    return path


def load(path, tmp_path, **options):
    columns = {"text": "english", "voice": "voice"}
    defaults = {"columns": columns, "target": "french", "splits": SPLITS}
    return load_multimodal_dataset("table", path, cache_dir=tmp_path / "cache", **defaults | options)


def test_the_target_is_a_column_of_texts(pairs, tmp_path):
    data = load(pairs, tmp_path)
    assert problem_type_of(data) == "translation"
    assert modalities_of(data) == {"text": "text", "voice": 2}
    assert "label" not in data["train"].features
    for row in data["train"]:
        assert row["target"] == row["text"].replace("word", "mot")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "german"}, "there is no such column; the table has"),
        ({"target": "french", "task": "classification"}, "no other task"),
        ({"target": "number"}, "no text to translate into"),
        ({"target": "empty"}, "row 3.*a training row needs a translation"),
    ],
)
def test_targets_that_cannot_be_are_refused(tmp_path, options, message):
    path = tmp_path / "pairs.csv"
    lines = [f'word {index},mot {index},{index},{"" if index == 3 else "x"},"[1.0, 2.0]"' for index in range(10)]
    path.write_text("\n".join(["english,french,number,empty,voice", *lines]) + "\n")
    whole = (
        {"splits": {"train": "pairs.csv", "validation": "pairs.csv", "test": "pairs.csv"}}
        if "empty" in str(options)
        else {}
    )
    with pytest.raises(DataError, match=message):
        load(tmp_path if whole else path, tmp_path, **options | whole)
