"""Scenes in colour and depth, in the three layouts that go round."""

import numpy as np
import PIL.Image
import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.schema import label_names_of, modalities_of

CLASSES = ("bathroom", "bedroom", "kitchen")
SIZE = (16, 12)


def colour(index: int) -> PIL.Image.Image:
    return PIL.Image.new("RGB", SIZE, (10 * index, 100, 200))


def depth(index: int, bits: int = 8) -> PIL.Image.Image:
    values = np.full((SIZE[1], SIZE[0]), index * (1 if bits == 8 else 500), np.uint8 if bits == 8 else np.uint16)
    values[0, 0] = 255 if bits == 8 else 60_000
    return PIL.Image.fromarray(values)


def save(picture: PIL.Image.Image, path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def write(folder, layout: str, splits=(("train", 6), ("val", 3), ("test", 3)), bits: int = 8):
    for split, count in splits:
        for index in range(count):
            name = f"{CLASSES[index % 3]}/scene{index}.png"
            if layout == "halves":
                whole = PIL.Image.new("RGB", (2 * SIZE[0], SIZE[1]))
                whole.paste(colour(index), (0, 0))
                whole.paste(depth(index).convert("RGB"), (SIZE[0], 0))
                save(whole, folder / split / name)
                continue
            for kind, picture in (("rgb", colour(index)), ("depth", depth(index, bits))):
                parts = (split, kind) if layout == "split/rgb" else (kind, split)
                save(picture, folder.joinpath(*parts) / name)
    return folder


@pytest.mark.parametrize("layout", ["split/rgb", "rgb/split", "halves"])
def test_layouts(load, tmp_path, layout):
    data = load("nyu-depth", write(tmp_path / "nyud2", layout))
    assert modalities_of(data) == {"image": "image", "depth": "image"}
    assert label_names_of(data) == list(CLASSES)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 6, "validation": 3, "test": 3}
    for row in data["train"]:
        index = int(row["id"].rpartition("scene")[2])
        assert row["id"] == f"train/{CLASSES[index % 3]}/scene{index}"
        assert CLASSES[row["label"]] == CLASSES[index % 3]
        assert row["image"].size == row["depth"].size == SIZE
        assert row["image"].convert("RGB").getpixel((3, 3)) == (10 * index, 100, 200)
        assert row["depth"].convert("L").getpixel((3, 3)) == index


def test_depth_in_16_bits_is_brought_to_8(load, tmp_path):
    folder = write(tmp_path / "nyud2", "split/rgb", bits=16)
    rows = {row["id"]: np.asarray(row["depth"]) for row in load("nyu-depth", folder)["train"]}
    far = rows["train/kitchen/scene5"]
    assert far.dtype == np.uint8
    assert far[3, 3] == int(2500 * 255 / 10_000)
    assert far[0, 0] == 255  # beyond the range
    near = load("nyu-depth", folder, depth_range=5000)["train"]
    assert max(np.asarray(row["depth"])[3, 3] for row in near) == int(2500 * 255 / 5000)


def test_validation_is_drawn_from_train_where_there_is_none(load, tmp_path):
    folder = write(tmp_path / "nyud2", "split/rgb", splits=(("train", 30), ("test", 3)))
    data = load("nyu-depth", folder, validation_fraction=0.2)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 24, "validation": 6, "test": 3}
    assert [data["validation"]["label"].count(label) for label in range(3)] == [2, 2, 2]
    assert not set(data["validation"]["id"]) & set(data["train"]["id"])


def test_classes_in_another_order(load, tmp_path):
    data = load("nyu-depth", write(tmp_path / "nyud2", "halves"), label_names=list(reversed(CLASSES)))
    assert label_names_of(data) == list(reversed(CLASSES))
    assert all(row["id"].split("/")[1] == reversed_name(row["label"]) for row in data["test"])


def reversed_name(label: int) -> str:
    return CLASSES[2 - label]


def test_what_is_missing_or_damaged(load, tmp_path):
    folder = write(tmp_path / "nyud2", "split/rgb")
    path = folder / "train" / "depth" / "bedroom" / "scene1.png"
    content = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=r"its depth is missing: there is no scene1.png") as error:
        load("nyu-depth", folder)
    assert error.value.file.endswith("rgb/bedroom/scene1.png")
    path.write_bytes(content[:50])
    with pytest.raises(DataError, match=r"scene1.png cannot be read"):
        load("nyu-depth", folder)
    path.write_bytes(content)
    save(colour(0), folder / "test" / "rgb" / "attic" / "x.png")
    save(depth(0), folder / "test" / "depth" / "attic" / "x.png")
    with pytest.raises(DataError, match="'attic' is none of the classes"):
        load("nyu-depth", folder)


def test_other_folders(load, tmp_path):
    folder = write(tmp_path / "nyud2", "halves", splits=(("train", 6),))
    with pytest.raises(DataError, match=r"the test split is missing: there is neither test/CLASS/NAME.png"):
        load("nyu-depth", folder)
    write(folder, "halves", splits=(("val", 3),))
    save(PIL.Image.new("RGB", (33, 12)), folder / "test" / "kitchen" / "odd.png")
    with pytest.raises(DataError, match="33 pixels are odd"):
        load("nyu-depth", folder)
    rgb = write(tmp_path / "colour", "split/rgb")
    for split in ("train", "val", "test"):
        (rgb / split / "depth").rename(rgb / split / "hidden")
    with pytest.raises(DataError, match=r"the depth of the pictures in rgb/ is expected there"):
        load("nyu-depth", rgb)


@pytest.mark.parametrize(("options", "message"), [
    ({"depth_range": 0}, "a number above 0"),
    ({"seed": -1}, "an integer from 0"),
])  # fmt: skip
def test_bad_options(load, tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        load("nyu-depth", write(tmp_path / "nyud2", "halves"), **options)
