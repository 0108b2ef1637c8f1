"""The door to all data: names, options, the cache."""

import os
import shutil

import numpy as np
import pytest

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.readers import image_text, multibench

from .conftest import save_picture


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (("digit-captions",), {}, "did you mean 'digits-captions'"),
        (("mosei",), {}, "there is ave, crema-d, digits-av, digits-captions"),
        (("digits-captions", "some/path"), {}, "takes no path, but got 'some/path'"),
        (("easy-vqa",), {}, "needs the path"),
        (("easy-vqa", "no/such/folder"), {}, "no/such/folder: no such file or folder"),
        (("digits-captions",), {"caption_per_picture": 2}, "did you mean 'captions_per_picture'"),
        (("digits-views",), {"nonfinite": "replace"}, "no option 'nonfinite'; there is none"),
        (("digits-views",), {"label_column": "targt"}, "did you mean 'target'"),
    ],
)
def test_wrong_names_and_options_are_refused(load, args, options, message):
    with pytest.raises(DataError) as caught:
        load(*args, **options)
    assert message in str(caught.value)


def test_the_second_call_reads_nothing(load, write_pickle, mosei, monkeypatch):
    path = write_pickle(mosei)
    first = load("multibench", path)
    monkeypatch.setattr(multibench, "load_splits", None)
    second = load("multibench", path)
    assert second["train"].features == first["train"].features
    np.testing.assert_array_equal(second["train"][0]["vision"], first["train"][0]["vision"])


def test_options_are_part_of_the_cache_key(load, write_pickle, mosei):
    mosei["train"]["text"][0] = 0
    path = write_pickle(mosei)
    assert len(load("multibench", path)["train"]) == 10
    assert len(load("multibench", path, drop_missing=["text"])["train"]) == 9


def test_a_changed_file_is_read_anew(load, hateful_memes):
    assert load("image-text", hateful_memes)["train"][0]["text"] == "meme number 0"
    file = hateful_memes / "train.jsonl"
    status = file.stat()
    file.write_text(file.read_text().replace("meme number 0", "meme number 9"))  # the size stays
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load("image-text", hateful_memes)["train"][0]["text"] == "meme number 9"


def test_a_picture_that_disappears_is_noticed(load, hateful_memes):
    load("image-text", hateful_memes)
    (hateful_memes / "img/00010.png").unlink()
    with pytest.raises(DataError, match="does not exist"):
        load("image-text", hateful_memes)


def test_a_failure_leaves_nothing_behind_in_the_cache(load, hateful_memes):
    picture = hateful_memes / "img/00016.png"  # of the last split
    content = picture.read_bytes()
    picture.write_bytes(content[:20])
    with pytest.raises(DataError, match=r"test_seen\.jsonl, row 1"):
        load("image-text", hateful_memes)
    picture.write_bytes(content)
    assert len(load("image-text", hateful_memes)["test"]) == 2


def test_a_deleted_arrow_file_is_made_again(load, hateful_memes, tmp_path):
    load("image-text", hateful_memes)
    shutil.rmtree(tmp_path / "cache" / "generator")
    assert len(load("image-text", hateful_memes)["train"]) == 4


def test_pictures_behind_a_link_are_followed_and_a_circle_of_links_ends(load, hateful_memes, tmp_path):
    (hateful_memes / "img").rename(tmp_path / "pictures")
    (hateful_memes / "img").symlink_to(tmp_path / "pictures")
    (tmp_path / "pictures" / "back").symlink_to(hateful_memes)
    load("image-text", hateful_memes)
    save_picture(tmp_path / "pictures" / "00010.png", size=(7, 7))
    assert load("image-text", hateful_memes)["train"][0]["image"].size == (7, 7)


def test_rows_are_read_from_arrow_files_and_not_from_memory(load, hateful_memes, tmp_path):
    for split in load("image-text", hateful_memes).values():
        assert split.cache_files
        assert all(str(tmp_path / "cache") in file["filename"] for file in split.cache_files)


def test_no_picture_is_decoded_to_be_stored(load, hateful_memes, monkeypatch):
    """The reader checks pictures by its own door only; storing them as paths needs no second decoding."""
    checked = []
    original = image_text.ImageChecker.cell

    def cell(self, path, **place):
        checked.append(path)
        return original(self, path, **place)

    monkeypatch.setattr(image_text.ImageChecker, "cell", cell)
    load("image-text", hateful_memes)
    assert len(checked) == 8
