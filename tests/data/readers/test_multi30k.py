"""Multi30k, the real one, and folders of its layout with something amiss."""

import gzip
import shutil

import numpy as np
import PIL.Image
import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.loading import load_multimodal_dataset
from hf_mmalign.data.schema import label_names_of, modalities_of, problem_type_of

SIZES = {"train": 6, "val": 3, "test_2016_flickr": 3}


@pytest.fixture
def folder(tmp_path):
    return write_multi30k(tmp_path / "multi30k")


def write_multi30k(root, languages=("en", "de")):
    """A small folder of the layout; every second picture is there."""
    for name in ("raw", "image_splits", "images"):
        (root / name).mkdir(parents=True)
    for split, size in SIZES.items():
        names = [f"{split}{index}.jpg" for index in range(size)]
        (root / "image_splits" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for language in languages:
            text = "".join(f"{language} sentence {index}\x85of {split}.\n" for index in range(size))
            (root / "raw" / f"{split}.{language}.gz").write_bytes(gzip.compress(text.encode()))
        for name in names[::2]:
            PIL.Image.new("RGB", (8, 8)).save(root / "images" / name)
    return root


def load(root, tmp_path, **options):
    return load_multimodal_dataset("multi30k", root, cache_dir=tmp_path / "cache", **options)


def test_the_real_one_has_every_pair_of_languages(shared_data, tmp_path):
    data = load(shared_data / "multi30k", tmp_path, source="de", target="fr", images=False)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 29000, "validation": 1014, "test": 1000}
    assert problem_type_of(data) == "translation"
    assert modalities_of(data) == {"text": "text"}
    assert label_names_of(data) is None
    row = data["train"][0]
    assert row["text"] == "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche."
    assert row["target"] == "Deux jeunes hommes blancs sont dehors près de buissons."
    assert row["id"] == "1000092795"


def test_pictures_are_those_of_the_lines_and_may_be_missing(folder, tmp_path):
    data = load(folder, tmp_path)
    assert modalities_of(data) == {"text": "text", "image": "image"}
    assert [cell is not None for cell in data["train"].data.column("image").to_pylist()] == [True, False] * 3
    assert data["train"][2]["image"].filename.endswith("train2.jpg")
    # A line ends in a newline, and at nothing else that Unicode takes for a line's end.
    assert data["train"][2]["text"] == "en sentence 2\x85of train."
    assert [len(rows) for rows in load(folder, tmp_path, pictured=True).values()] == [3, 2, 2]


def test_features_of_a_split_or_of_a_picture(folder, tmp_path):
    rng = np.random.default_rng(0)
    for split, size in SIZES.items():
        np.save(folder / f"{split}-resnet.npy", rng.normal(size=(size, 4)).astype(np.float32))
    data = load(folder, tmp_path, features="{split}-resnet.npy")
    assert modalities_of(data) == {"text": "text", "image": 4}
    np.testing.assert_array_equal(data["validation"][1]["image"], np.load(folder / "val-resnet.npy")[1:2])

    (folder / "steps").mkdir()
    np.save(folder / "steps" / "train1.npy", np.ones((2, 3), np.float32))
    data = load(folder, tmp_path, features="steps/{image}.npy")
    assert modalities_of(data)["image"] == 3
    assert [len(row["image"]) for row in data["train"]] == [0, 2, 0, 0, 0, 0]


def test_plain_files_and_text_alone(folder, tmp_path):
    for file in (folder / "raw").iterdir():
        (folder / "raw" / file.name.removesuffix(".gz")).write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "image_splits")
    data = load(folder, tmp_path, images=False)
    assert data["test"][0] == {
        "id": "test_2016_flickr-0",
        "text": "en sentence 0\x85of test_2016_flickr.",
        "target": "de sentence 0\x85of test_2016_flickr.",
    }


def shorten(root):
    (root / "raw" / "val.de.gz").write_bytes(gzip.compress(b"one\ntwo\n"))


def empty_translation(root):
    (root / "raw" / "train.de.gz").write_bytes(gzip.compress(b"one\n\nthree\nfour\nfive\nsix\n"))


def no_text(root):
    (root / "raw" / "train.de.gz").write_bytes(gzip.compress(b"\xff\xfe\n" * 6))


def cut(root):
    (root / "raw" / "train.de.gz").write_bytes((root / "raw" / "train.de.gz").read_bytes()[:-12])


def leads_out(root):
    (root / "image_splits" / "train.txt").write_text("../../secret.jpg\n" * 6)


def no_pictures(root):
    shutil.rmtree(root / "images")


def objects(root):
    for split, size in SIZES.items():
        np.save(root / f"{split}.npy", np.array([{}] * size), allow_pickle=True)


def fewer_features(root):
    for split in SIZES:
        np.save(root / f"{split}.npy", np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (shorten, {}, "val.de.gz: 2 lines, but val.en.gz has more"),
        (empty_translation, {}, "train.de.gz, row 2.*needs a translation"),
        (no_text, {}, "train.de.gz.*cannot be read as UTF-8"),
        (cut, {}, "train.de.gz.*cannot be read"),
        (leads_out, {}, "leads out of the data set's folder"),
        (no_pictures, {}, "images: false"),
        (None, {"target": "fr"}, "there is train.de, train.en"),
        (None, {"features": "resnet.npy"}, "features.*is expected in the file's name"),
        (None, {"features": "{split}.npy"}, "no array of numbers"),
        (objects, {"features": "{split}.npy"}, "no array of numbers"),
        (fewer_features, {"features": "{split}.npy"}, "2 rows, but the split has"),
        (None, {"images": False, "pictured": True}, "images is false"),
        (None, {"langauge": "fr"}, "no option 'langauge'"),
    ],
)
def test_what_is_amiss_is_named(folder, tmp_path, spoil, options, message):
    if spoil is not None:
        spoil(folder)
    with pytest.raises(DataError, match=message):
        load(folder, tmp_path, **options)


def test_the_embedded_set_asks_for_the_picture(tmp_path):
    """Each sentence is as often about the one colour as about the other: text alone is right about half of them."""
    data = load_multimodal_dataset("digits-translation", cache_dir=tmp_path)
    for rows in data.values():
        colours: dict[str, list[str]] = {}
        for text, target in zip(rows["text"], rows["target"], strict=True):
            colours.setdefault(text, []).append(target)
        for targets in colours.values():
            counts = sorted(targets.count(target) for target in set(targets))
            assert len(set(targets)) == 2 or len(targets) == 1
            assert len(targets) == 1 or counts[1] - counts[0] <= 1
        best = sum(max(targets.count(target) for target in set(targets)) for targets in colours.values())
        assert best / len(rows) < 0.7
