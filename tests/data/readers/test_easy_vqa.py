"""easy-VQA, the real one."""

import json
import shutil

import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.schema import label_names_of, modalities_of


@pytest.fixture(scope="module")
def easy_vqa(shared_data, tmp_path_factory):
    from hf_mmalign.data.loading import load_multimodal_dataset

    return load_multimodal_dataset("easy-vqa", shared_data / "easy-vqa", cache_dir=tmp_path_factory.mktemp("cache"))


def pictures(rows):
    return {cell["path"] for cell in rows.data.column("image").to_pylist()}


def test_splits_and_answers(easy_vqa, shared_data):
    sizes = {split: len(rows) for split, rows in easy_vqa.items()}
    assert sizes["train"] + sizes["validation"] == 38575
    assert sizes["test"] == 9673
    assert modalities_of(easy_vqa) == {"text": "text", "image": "image"}
    assert label_names_of(easy_vqa) == (shared_data / "easy-vqa" / "answers.txt").read_text().split()


def test_validation_is_taken_by_picture(easy_vqa):
    train, validation = pictures(easy_vqa["train"]), pictures(easy_vqa["validation"])
    assert not train & validation
    assert (len(train), len(validation)) == (3600, 400)
    assert len(pictures(easy_vqa["test"])) == 1000


def test_rows_are_those_of_the_file(easy_vqa, shared_data):
    questions = json.loads((shared_data / "easy-vqa" / "train" / "questions.json").read_text())
    for row in easy_vqa["validation"].select(range(0, 3000, 300)):
        question, answer, picture = questions[int(row["id"].partition("/")[2])]
        assert row["text"] == question  # kept as it is, its case and punctuation too
        assert label_names_of(easy_vqa)[row["label"]] == answer
        assert row["image"].filename.endswith(f"/train/images/{picture}.png")


@pytest.fixture
def small(shared_data, tmp_path):
    """The first 20 pictures of each folder."""
    source, folder = shared_data / "easy-vqa", tmp_path / "easy-vqa"
    for part in ("train", "test"):
        (folder / part / "images").mkdir(parents=True)
        questions = json.loads((source / part / "questions.json").read_text())
        (folder / part / "questions.json").write_text(json.dumps([row for row in questions if row[2] < 20]))
        for picture in range(20):
            shutil.copy(source / part / "images" / f"{picture}.png", folder / part / "images")
    shutil.copy(source / "answers.txt", folder)
    return folder


def test_fraction_and_seed_choose_the_validation_pictures(load, small):
    chosen = {
        seed: pictures(load("easy-vqa", small, validation_fraction=0.25, seed=seed)["validation"]) for seed in (0, 1)
    }
    assert [len(paths) for paths in chosen.values()] == [5, 5]
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("answers.txt", "", r"answers\.txt: one distinct answer a line"),
        ("answers.txt", "yes\nno\nyes", r"answers\.txt: one distinct answer a line"),
        ("test/questions.json", '[["what?", "purple", 0]]', r"questions\.json, row 0, field 'answer': 'purple'"),
        ("test/questions.json", '[["what?", "yes", "0"]]', r"questions\.json, row 0: \[question, answer, picture id\]"),
        ("test/questions.json", '[["what?", "yes", 77]]', r"questions\.json, row 0, field 'picture id'.*77\.png"),
        (
            "test/questions.json",
            r'[["\ud800?", "yes", 0]]',
            r"questions\.json, row 0, field 'question': half of a surrogate",
        ),
        ("test/questions.json", "{}", r"questions\.json: a JSON array is expected, not object"),
        ("test/questions.json", "[]", "test split is empty"),
    ],
)
def test_faults_are_named(load, small, file, content, message):
    (small / file).write_text(content)
    with pytest.raises(DataError, match=message):
        load("easy-vqa", small)


def test_answers_in_another_encoding_are_refused(load, small):
    (small / "answers.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match=r"answers\.txt: not valid UTF-8"):
        load("easy-vqa", small)


@pytest.mark.parametrize("fraction", [0, 1, -0.5])
def test_an_impossible_fraction_is_refused(load, small, fraction):
    with pytest.raises(DataError, match="validation_fraction"):
        load("easy-vqa", small, validation_fraction=fraction)
