"""MVSA-Single: two labels a sample, and tweets in whatever encoding."""

import PIL.Image
import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.readers.mvsa_single import SENTIMENTS, merged_label
from hf_mmalign.data.schema import label_names_of, modalities_of
from tests.data.conftest import save_picture

PAIRS = [(text, image) for text in SENTIMENTS for image in SENTIMENTS]


@pytest.fixture
def mvsa(tmp_path):
    """Ten samples of each pair of labels."""
    folder = tmp_path / "MVSA_Single"
    (folder / "data").mkdir(parents=True)
    lines = ["ID\ttext,image"]
    for index in range(10 * len(PAIRS)):
        text, image = PAIRS[index % len(PAIRS)]
        lines.append(f"{index + 1}\t{text},{image}")
        (folder / "data" / f"{index + 1}.txt").write_text(f"tweet number {index + 1} #mood\n")
        save_picture(folder / "data" / f"{index + 1}.jpg")
    (folder / "labelResultAll.txt").write_text("\n".join(lines) + "\n")
    return folder


def all_rows(data):
    return {row["id"]: row for rows in data.values() for row in rows}


def test_conflicting_labels(load, mvsa):
    assert merged_label("positive", "neutral") == merged_label("neutral", "positive") == "positive"
    data = load("mvsa-single", mvsa)
    assert modalities_of(data) == {"text": "text", "image": "image"}
    assert label_names_of(data) == list(SENTIMENTS)
    rows = all_rows(data)
    assert len(rows) == 70  # seven of nine pairs
    for number, row in rows.items():
        text, image = PAIRS[(int(number) - 1) % 9]
        assert {text, image} != {"positive", "negative"}
        expected = text if image == "neutral" else image
        assert SENTIMENTS[row["label"]] == expected
        assert row["text"] == f"tweet number {number} #mood"
        assert row["image"].filename.endswith(f"data/{number}.jpg")
    assert len(all_rows(load("mvsa-single", mvsa, conflicts="drop"))) == 30


def test_splits_are_drawn_by_class_with_a_seed(load, mvsa):
    data = load("mvsa-single", mvsa, validation_fraction=0.2, test_fraction=0.2)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 42, "validation": 14, "test": 14}
    for rows in (data["validation"], data["test"]):
        assert [rows["label"].count(label) for label in range(3)] == [6, 2, 6]
    again = load("mvsa-single", mvsa, validation_fraction=0.2, test_fraction=0.2, seed=1)
    assert set(again["test"]["id"]) != set(data["test"]["id"])


def test_retweets_stay_in_one_split(load, mvsa):
    for number in range(1, 91):
        tweet = f"RT @user{number}: the same Joke {number % 30} http://t.co/{number}"
        (mvsa / "data" / f"{number}.txt").write_text(tweet)
    data = load("mvsa-single", mvsa, test_fraction=0.3)
    jokes = [{text.split()[5] for text in rows["text"]} for rows in data.values()]
    assert sum(map(len, jokes)) == len(set.union(*jokes))


@pytest.mark.parametrize(("content", "text"), [
    ("Café … “good” 😀".encode(), "Café … “good” 😀"),
    ("Café".encode("utf-8-sig"), "Café"),
    ("Café 😀".encode("utf-16"), "Café 😀"),
    ("Café… “good”".encode("cp1252"), "Café… “good”"),
    (b"Caf\xe9 \x81", "Café \x81"),
    (b"nul\0 byte", "nul byte"),
    (b"  \n", None),
])  # fmt: skip
def test_encodings(load, mvsa, content, text):
    (mvsa / "data" / "1.txt").write_bytes(content)
    assert all_rows(load("mvsa-single", mvsa))["1"]["text"] == text


def test_an_encoding_that_is_known(load, mvsa):
    (mvsa / "data" / "1.txt").write_bytes("心情很好".encode("gb18030"))
    assert all_rows(load("mvsa-single", mvsa, encoding="gb18030"))["1"]["text"] == "心情很好"
    (mvsa / "data" / "5.txt").write_bytes(b"\x81")
    with pytest.raises(DataError, match=r"5.txt cannot be decoded") as error:
        load("mvsa-single", mvsa, encoding="gb18030")
    assert error.value.row == 6
    with pytest.raises(DataError, match="'klingon' is no encoding that Python knows"):
        load("mvsa-single", mvsa, encoding="klingon")


@pytest.mark.parametrize(("line", "message"), [
    ("1 neutral,positive", "ID, a tab, and the labels of text and image"),
    ("1\tneutral", "ID, a tab, and the labels"),
    ("1\tneutral,happy", "ID, a tab, and the labels.*happy"),
    ("1\tneutral,positive\tneutral,positive\tneutral,positive", "ID, a tab, and the labels"),
    ("2\tneutral,positive", "'2' is labelled twice"),
    ("../../secret\tneutral,neutral", "leads out of the data set's folder"),
    ("400\tneutral,neutral", "the tweet 400.txt is missing"),
])  # fmt: skip
def test_bad_lines(load, mvsa, line, message):
    file = mvsa / "labelResultAll.txt"
    lines = file.read_text().splitlines()
    lines[1 if not line.startswith("2\t") else 3] = line
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message) as error:
        load("mvsa-single", mvsa)
    assert error.value.file == str(file)
    assert error.value.row == (2 if not line.startswith("2\t") else 4)


def test_bad_files(load, mvsa):
    (mvsa / "data" / "5.txt").write_bytes(b"a" * 200_000)
    with pytest.raises(DataError, match=r"5.txt is no tweet: it has more than 100000 bytes") as error:
        load("mvsa-single", mvsa)
    assert error.value.row == 6
    (mvsa / "data" / "5.txt").write_text("fine")
    (mvsa / "data" / "5.jpg").write_bytes(b"GIF")
    with pytest.raises(DataError, match=r"5.jpg cannot be read") as error:
        load("mvsa-single", mvsa)
    assert error.value.row == 6
    (mvsa / "data" / "5.jpg").unlink()
    with pytest.raises(DataError, match=r"5.jpg does not exist"):
        load("mvsa-single", mvsa)


@pytest.mark.parametrize(("options", "message"), [
    ({"conflicts": "vote"}, "one of merge, drop"),
    ({"validation_fraction": 0.0}, "shares lie between 0 and 1"),
    ({"test_fraction": 0.95}, "shares lie between 0 and 1"),
])  # fmt: skip
def test_bad_options(load, mvsa, options, message):
    with pytest.raises(DataError, match=message):
        load("mvsa-single", mvsa, **options)


def test_a_folder_of_something_else(load, tmp_path):
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"labelResultAll.txt"):
        load("mvsa-single", tmp_path)
