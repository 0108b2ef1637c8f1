"""Image–text folders: what Hateful Memes' files become, and what their faults are called."""

import json

import numpy as np
import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.schema import label_names_of, modalities_of, problem_type_of


def change(file, line, **fields):
    """Replace fields of one line of a JSON-lines file; a value of `...` removes the field."""
    lines = file.read_text().splitlines()
    row = json.loads(lines[line - 1]) | fields
    lines[line - 1] = json.dumps({key: value for key, value in row.items() if value is not ...})
    file.write_text("\n".join(lines) + "\n")


def test_columns_and_rows(load, hateful_memes):
    data = load("image-text", hateful_memes)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 4, "validation": 2, "test": 2}
    assert modalities_of(data) == {"text": "text", "image": "image"}
    assert problem_type_of(data) == "single_label_classification"
    assert label_names_of(data) == ["0", "1"]
    row = data["train"][1]
    assert (row["id"], row["text"], row["label"]) == ("11", "meme number 1", 1)
    assert row["image"].size == (21, 16)
    np.testing.assert_array_equal(
        np.unique(np.asarray(row["image"].convert("RGB")).reshape(-1, 3), axis=0), [[200, 30, 30]]
    )


def test_images_are_kept_as_paths(load, hateful_memes):
    cell = load("image-text", hateful_memes)["train"].data.column("image")[0].as_py()
    assert cell == {"bytes": None, "path": str(hateful_memes / "img" / "00010.png")}


def test_test_rows_may_lack_labels_and_others_may_not(load, hateful_memes):
    assert load("image-text", hateful_memes)["test"]["label"][:] == [None, None]
    change(hateful_memes / "dev_seen.jsonl", 2, label=...)
    with pytest.raises(DataError, match=r"dev_seen\.jsonl, row 2, field 'label'.*only test rows"):
        load("image-text", hateful_memes)


def test_missing_modalities_are_none(load, hateful_memes):
    change(hateful_memes / "train.jsonl", 1, text=None)
    change(hateful_memes / "train.jsonl", 2, img=None)
    train = load("image-text", hateful_memes)["train"]
    assert train[0]["text"] is None
    assert train[1]["image"] is None


def test_class_names_as_labels(load, hateful_memes):
    for file, size in (("train", 4), ("dev_seen", 2)):
        for line in range(1, size + 1):
            change(hateful_memes / f"{file}.jsonl", line, label=["hateful", "kind"][line % 2])
    data = load("image-text", hateful_memes)
    assert label_names_of(data) == ["hateful", "kind"]
    assert data["train"]["label"][:] == [1, 0, 1, 0]


def test_files_of_the_other_release_by_option(load, hateful_memes):
    (hateful_memes / "dev_unseen.jsonl").write_text((hateful_memes / "train.jsonl").read_text())
    data = load("image-text", hateful_memes, validation_file="dev_unseen.jsonl", label_names=["kind", "hateful"])
    assert len(data["validation"]) == 4
    assert label_names_of(data) == ["kind", "hateful"]


@pytest.mark.parametrize(
    ("fields", "place", "message"),
    [
        ({"text": ...}, "field 'text'", "the row has only"),
        ({"id": ...}, "field 'id'", "the row has only"),
        ({"img": ...}, "field 'img'", "the row has only"),
        ({"id": [1]}, "field 'id'", "number or string"),
        ({"text": 7}, "field 'text'", "a string, or null, is expected, not 7"),
        ({"label": 1.5}, "field 'label'", "a class id from 0 or a class name is expected, not 1.5"),
        ({"label": -1}, "field 'label'", "not -1"),
        ({"label": True}, "field 'label'", "not True"),
        ({"label": "hateful"}, "field 'label'", "some labels are class ids and some are class names"),
        ({"label": 10**9}, "field 'label'", "implausible"),
        (
            {"text": "half a \ud800 pair"},
            "field 'text'",
            r"half of a surrogate pair at index 7, which is no text: 'half a \ud800 pair'",
        ),
        ({"id": "\udfff"}, "field 'id'", "half of a surrogate pair at index 0"),
        ({"img": "img/\ud800.png"}, "field 'img'", "half of a surrogate pair at index 4"),
        ({"label": "\ud800"}, "field 'label'", "half of a surrogate pair"),
        ({"img": "img/none.png"}, "field 'img'", "does not exist"),
        ({"img": "../secret.png"}, "field 'img'", "leads out of the data set's folder"),
        ({"img": "/etc/passwd"}, "field 'img'", "leads out of the data set's folder"),
        ({"img": "train.jsonl"}, "field 'img'", "cannot be read"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_faulty_rows_are_named(load, hateful_memes, fields, place, message):
    change(hateful_memes / "train.jsonl", 3, **fields)
    with pytest.raises(DataError) as caught:
        load("image-text", hateful_memes)
    assert "train.jsonl" in str(caught.value)
    assert place in str(caught.value)
    assert message in str(caught.value)
    if "some labels" not in message and "implausible" not in message:
        assert caught.value.row == 3


def test_a_label_outside_the_range_is_named(load, hateful_memes):
    change(hateful_memes / "dev_seen.jsonl", 2, label=5)
    with pytest.raises(DataError, match=r"dev_seen\.jsonl, row 2, field 'label': label 5 .*ids 0 to 1"):
        load("image-text", hateful_memes)


def test_a_whole_surrogate_pair_is_text(load, hateful_memes):
    change(hateful_memes / "train.jsonl", 1, text="\U0001f600")
    assert r"\ud83d\ude00" in (hateful_memes / "train.jsonl").read_text()
    assert load("image-text", hateful_memes)["train"][0]["text"] == "\U0001f600"


def test_surrogates_in_bytes_are_no_text_either(load, hateful_memes):
    """`json` takes them; as UTF-8 they are not valid."""
    file = hateful_memes / "dev_seen.jsonl"
    file.write_bytes(file.read_bytes().replace(b"meme number 5", b"meme \xed\xa0\x80"))
    with pytest.raises(DataError, match=r"dev_seen\.jsonl, row 2, field 'text': half of a surrogate pair at index 5"):
        load("image-text", hateful_memes)


@pytest.mark.parametrize("format", ["image-text", "easy-vqa"])
def test_a_file_in_place_of_the_folder(load, hateful_memes, format):
    with pytest.raises(DataError, match=r"train\.jsonl: this is a file; the .*folder .* is expected there"):
        load(format, hateful_memes / "train.jsonl")


def test_broken_json_is_named(load, hateful_memes):
    with open(hateful_memes / "test_seen.jsonl", "a") as file:
        file.write('\n{"id": 3,\n')
    with pytest.raises(DataError, match=r"test_seen\.jsonl, row 4: not valid JSON"):
        load("image-text", hateful_memes)


@pytest.mark.parametrize("keep", [0.5, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_a_truncated_picture_is_found_before_training(load, hateful_memes, keep, suffix):
    from PIL import Image

    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = hateful_memes / f"img/noise.{suffix}"
    Image.fromarray(noise).save(picture)
    content = picture.read_bytes()
    picture.write_bytes(content[: int(keep * len(content))])
    change(hateful_memes / "train.jsonl", 2, img=f"img/noise.{suffix}")
    with pytest.raises(DataError, match=r"train\.jsonl, row 2, field 'img'.*cannot be read"):
        load("image-text", hateful_memes)


def test_a_postscript_picture_is_not_even_opened(load, hateful_memes):
    (hateful_memes / "img/00011.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(DataError, match=r"row 2, field 'img'.*cannot be read"):
        load("image-text", hateful_memes)


@pytest.mark.parametrize(
    ("file", "message"), [("train.jsonl", "train"), ("dev_seen.jsonl", "validation"), ("test_seen.jsonl", "test")]
)
def test_an_empty_or_absent_split_is_named(load, hateful_memes, file, message):
    (hateful_memes / file).write_text("\n")
    with pytest.raises(DataError, match=f"{message}.* split is empty"):
        load("image-text", hateful_memes)
    (hateful_memes / file).unlink()
    with pytest.raises(DataError, match=file.partition(".")[0]):
        load("image-text", hateful_memes)
