"""The embedded data: balanced as promised, true to the pictures, the same everywhere."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from hf_mmalign.data.errors import DataError

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
INKS = {
    "red": (True, False, False),
    "green": (False, True, False),
    "blue": (False, False, True),
    "yellow": (True, True, False),
}


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    from hf_mmalign.data.loading import load_multimodal_dataset

    data = load_multimodal_dataset("digits-captions", cache_dir=tmp_path_factory.mktemp("cache"))
    return {split: list(rows) for split, rows in data.items()}


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    from hf_mmalign.data.loading import load_multimodal_dataset

    data = load_multimodal_dataset("digits-views", cache_dir=tmp_path_factory.mktemp("cache"))
    return {split: list(rows) for split, rows in data.items()}


def picture_number(row):
    return int(row["id"].partition("-")[0])


def is_true(sentence, digit, pixels):
    """Read the sentence and look at the picture, independently of the code that wrote them."""
    words = sentence.split()
    border = np.concatenate([pixels[0], pixels[-1]]).astype(int)
    white = np.median(border) > 127
    # Where the ink is thickest, its colour shows: the pixel farthest from the paper.
    distance = np.abs(pixels.astype(int) - (255 if white else 0)).sum(axis=2)
    ink = tuple(bool(value) for value in pixels[np.unravel_index(distance.argmax(), distance.shape)] > 127)
    statements = []
    for colour, channels in INKS.items():
        if colour in words:
            statements.append(ink == channels)
    if "paper" in words:
        statements.append(white == ("white" in words))
    if "even" in words or "odd" in words:
        statements.append((digit % 2 == 0) == ("even" in words))
    numbers = [WORDS.index(word) if word in WORDS else int(word) for word in words if word in WORDS or word.isdigit()]
    if numbers:
        [number] = numbers
        if "below" in words or "less" in words:
            statements.append(digit < number)
        elif "above" in words or "greater" in words:
            statements.append(digit > number)
        else:
            statements.append((digit == number) != ("not" in words))
    assert statements, sentence
    return all(statements)


def test_every_caption_is_labelled_with_its_truth(captions):
    digits = load_digits().target
    for rows in captions.values():
        for row in rows:
            truth = is_true(row["text"], digits[picture_number(row)], np.asarray(row["image"]))
            assert truth == row["label"], (row["id"], row["text"])


def test_every_sentence_and_every_picture_is_as_often_true_as_false(captions):
    for rows in captions.values():
        for key in (lambda row: row["text"], picture_number, lambda row: np.asarray(row["image"]).tobytes()):
            balance = Counter()
            for row in rows:
                balance[key(row)] += 2 * row["label"] - 1
            assert not any(balance.values())


def test_there_are_several_hundred_sentences_of_few_words(captions):
    sentences = {row["text"] for rows in captions.values() for row in rows}
    assert len(sentences) > 300
    assert len({word for sentence in sentences for word in sentence.split()}) < 60


def test_splits_share_no_picture(captions, views):
    for data in (captions, views):
        numbers = [{picture_number(row) for row in rows} for rows in data.values()]
        assert [len(part) for part in numbers] == [1258, 270, 269]
        assert len(set.union(*numbers)) == 1797


def test_neither_modality_alone_predicts_the_caption_label(captions):
    train, test = captions["train"], captions["test"]
    labels = [[row["label"] for row in rows] for rows in (train, test)]
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+").fit([row["text"] for row in train])
    text = [words.transform([row["text"] for row in rows]) for rows in (train, test)]
    image = [np.array([np.asarray(row["image"])[::4, ::4].ravel() / 255 for row in rows]) for rows in (train, test)]
    for one, other in (text, image):
        score = LogisticRegression(max_iter=200).fit(one, labels[0]).score(other, labels[1])
        assert score == pytest.approx(0.5, abs=0.03)


def test_the_number_of_captions_is_an_option(load):
    data = load("digits-captions", captions_per_picture=2)
    assert len(data["test"]) == 2 * 269
    with pytest.raises(DataError, match=r"captions_per_picture.*even number"):
        load("digits-captions", captions_per_picture=3)


def test_the_captions_are_the_same_on_every_machine(captions):
    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        for row in captions[split]:
            digest.update(f"{row['id']}|{row['text']}|{row['label']}\n".encode())
    assert digest.hexdigest()[:16] == "0f576c15008fe13b"
    assert np.asarray(captions["train"][0]["image"]).sum() == 76745


def view_matrix(rows, names):
    return np.array([np.concatenate([row[name].ravel() for name in names]) for row in rows])


def test_view_shapes(views):
    row = views["train"][0]
    assert {name: row[name].shape for name in ("top", "bottom", "zones")} == {
        "top": (4, 8),
        "bottom": (8, 4),
        "zones": (4, 4),
    }
    assert load_digits().target[int(row["id"])] == row["label"]


def test_the_views_are_noisy_cuts_of_the_picture(views):
    images = load_digits().images / 16
    numbers = [int(row["id"]) for row in views["train"]]
    top = np.array([row["top"] for row in views["train"]]) - images[numbers][:, :4]
    bottom = np.array([row["bottom"] for row in views["train"]]) - images[numbers][:, 4:].transpose(0, 2, 1)
    for noise in (top, bottom):
        assert noise.mean() == pytest.approx(0, abs=0.01)
        assert noise.std() == pytest.approx(0.3, abs=0.01)
    assert abs(np.corrcoef(top.ravel(), bottom.ravel())[0, 1]) < 0.02


def test_each_view_alone_is_clearly_weaker_than_all(views):
    train, test = views["train"], views["test"]

    def accuracy(names):
        model = LogisticRegression(max_iter=300, C=0.3).fit(view_matrix(train, names), [row["label"] for row in train])
        return model.score(view_matrix(test, names), [row["label"] for row in test])

    def error(names):
        model = Ridge().fit(view_matrix(train, names), [row["target"] for row in train])
        return np.abs(model.predict(view_matrix(test, names)) - [row["target"] for row in test]).mean()

    names = ["top", "bottom", "zones"]
    alone = [accuracy([name]) for name in names]
    assert min(alone) > 0.5
    assert max(alone) < accuracy(names) - 0.2
    assert accuracy(names) < 0.95, "there is room for a better model"
    assert error(names) < min(error([name]) for name in names) - 0.1


def test_the_regression_target_is_the_ink(load, views):
    data = load("digits-views", label_column="target")
    assert data["train"].features["label"].dtype == "float32"
    ink = load_digits().images.sum(axis=(1, 2))
    expected = (ink - ink.mean()) / ink.std()
    np.testing.assert_allclose(data["test"]["label"][:], [expected[int(row["id"])] for row in views["test"]], rtol=1e-5)


def test_the_views_are_the_same_on_every_machine(views):
    numbers = np.concatenate([view_matrix(views[split], ["top", "bottom", "zones"]).ravel() for split in views])
    np.testing.assert_allclose(
        [numbers.mean(), numbers.std(), numbers[12345]], [0.305867, 0.458171, 0.0933303], rtol=1e-5
    )


def test_sentences_have_no_odd_characters(captions):
    assert all(re.fullmatch(r"[a-z0-9 ]+", row["text"]) for row in captions["train"])
