"""Pictures too long, too large or no pictures at all: refused with their row, before any pixel is decoded."""

import json
import os
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from transformers import ViltImageProcessor, ViTImageProcessor

from hf_mmalign.cli.main import main
from hf_mmalign.data.collator import MultimodalCollator
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.inspection import inspect_dataset
from hf_mmalign.data.pictures import MAX_ASPECT_RATIO, MAX_PIXELS
from hf_mmalign.data.processor import MultimodalProcessor
from hf_mmalign.data.validation import validate_dataset

TOO_LONG = "one side may be at most 20 times as long as the other; crop it"
TOO_LARGE = "at most 64 million in all are taken; make it smaller"
ODD_SIZES = [((1, 5000), TOO_LONG), ((5000, 1), TOO_LONG), ((65500, 1200), TOO_LARGE), ((13000, 13000), TOO_LARGE)]


def png(width, height):
    """A PNG's header, and one byte of pixels: whoever decodes it fails in another way."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


def table(*images):
    """A data set of its own, as a user makes it."""
    cells = [{"bytes": image, "path": None} for image in images]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    return DatasetDict(train=Dataset.from_dict({"image": cells, "label": [0] * len(cells)}, features=features))


def small_png(width=40, height=32):
    import io

    buffer = io.BytesIO()
    PIL.Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def check(data, **arguments):
    validate_dataset(data, {"image": "image"}, "single_label_classification", 2, **arguments)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("size", "message"), ODD_SIZES, ids=str)
def test_reading_and_validation_go_by_the_header(load, hateful_memes, size, message):
    (hateful_memes / "img/00011.png").write_bytes(png(*size))
    with pytest.raises(DataError) as caught:
        load("image-text", hateful_memes)
    assert "train.jsonl, row 2, field 'img': the image file " in str(caught.value)
    assert f"00011.png has {size[0]} × {size[1]} pixels; {message}" in str(caught.value)
    with pytest.raises(DataError) as caught:
        check(table(small_png(), png(*size)))
    assert f"row 1, field 'train.image': the image has {size[0]} × {size[1]} pixels; {message}" in str(caught.value)


def test_the_limits_are_what_vilts_image_processor_takes():
    processor = ViltImageProcessor()
    for width, height in ((2000, 2000 // MAX_ASPECT_RATIO), (1, MAX_ASPECT_RATIO), (MAX_ASPECT_RATIO * 7, 7)):
        pixels = processor([torch.zeros(3, height, width, dtype=torch.uint8)], return_tensors="pt")["pixel_values"]
        assert min(pixels.shape[2:]) == 32
    with pytest.raises(ValueError, match="height=0"):
        processor([torch.zeros(3, 7, (MAX_ASPECT_RATIO + 1) * 7, dtype=torch.uint8)], return_tensors="pt")
    assert MAX_PIXELS < PIL.Image.MAX_IMAGE_PIXELS  # beyond which Pillow warns of a bomb


def test_a_picture_that_only_this_image_processor_cannot_take():
    small = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)  # a ratio of 7 is the most it takes
    data = table(small_png(40, 32), small_png(70, 10), small_png(10, 80))
    check(data)
    check(data, image_processors={"image": ViltImageProcessor()})
    assert small([torch.zeros(3, 10, 70, dtype=torch.uint8)], return_tensors="pt")["pixel_values"].shape[2] == 8
    with pytest.raises(DataError, match=r"row 2, field 'train\.image': the picture has 10 × 80 pixels, which Vilt"):
        check(data, image_processors={"image": small})


def test_training_names_it_before_it_starts(tmp_path, capsys):
    data = tmp_path / "memes"
    (data / "img").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        rows = [{"id": index, "img": f"img/{index}.png", "text": "a caption", "label": index % 2} for index in range(4)]
        (data / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for index in range(4):
        (data / f"img/{index}.png").write_bytes(small_png(80, 10) if index == 3 else small_png())
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "dataset: image-text\nmodel_type: vilt_wma\nhidden_size: 32\nnum_hidden_layers: 1\nnum_attention_heads: 2\n"
        "intermediate_size: 32\nimage_size: 32\npatch_size: 8\ntokenizer_vocab_size: 50\n"
        "image_processor: {size: {shortest_edge: 32}, size_divisor: 8}\n"
    )
    arguments = ["--dataset_path", str(data), "--output_dir", str(tmp_path / "out")]
    assert main(["train", str(recipe), *arguments]) != 0
    assert (
        "row 3, field 'train.image': the picture has 80 × 10 pixels, which ViltImageProcessor"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)], ids=str)
@pytest.mark.parametrize("form", ["picture", "array", "tensor", "path"])
def test_the_collator_names_the_row(tmp_path, size, form):
    processor = MultimodalProcessor(image_processor=ViltImageProcessor())
    collator = MultimodalCollator(processor, {"image": "image"}, "single_label_classification", 2)
    image = PIL.Image.new("RGB", size)
    image.save(tmp_path / "a.png")
    forms = {
        "picture": image,
        "array": np.asarray(image),
        "tensor": torch.from_numpy(np.array(image)).permute(2, 0, 1),
        "path": tmp_path / "a.png",
    }
    rows = [{"id": f"m{index}", "image": PIL.Image.new("RGB", (40, 32)), "label": 0} for index in range(3)]
    rows[1]["image"] = forms[form]
    with pytest.raises(DataError) as caught:
        collator(rows)
    assert (caught.value.row, caught.value.field) == (1, "image")
    assert "(the row's id is 'm1')" in str(caught.value)
    assert f"{size[0]} × {size[1]} pixels" in str(caught.value)


def test_the_collator_names_the_row_that_only_this_image_processor_refuses():
    small = MultimodalProcessor(image_processor=ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8))
    collator = MultimodalCollator(small, {"image": "image"}, "single_label_classification", 2)
    rows = [{"id": index, "image": PIL.Image.new("RGB", size)} for index, size in enumerate([(40, 32), (80, 10)])]
    with pytest.raises(
        DataError, match=r"row 1, field 'image': the picture has 80 × 10 pixels, which ViltImage.* id is 1"
    ):
        collator(rows)
    unequal = MultimodalProcessor(image_processor=ViTImageProcessor(do_resize=False))
    with pytest.raises(DataError, match="field 'image': ViTImageProcessor cannot make a batch of the pictures"):
        unequal(images=[row["image"] for row in rows])


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_large_picture_is_not_decoded_to_be_refused(tmp_path):
    (tmp_path / "large.png").write_bytes(png(13000, 13000))
    processor = MultimodalProcessor(image_processor=ViltImageProcessor())
    for image in (tmp_path / "large.png", PIL.Image.open(tmp_path / "large.png")):
        with pytest.raises(DataError, match=f"large.png.*{TOO_LARGE}"):
            processor(images=image)


@pytest.mark.parametrize(("content", "message"), [(None, "does not exist"), (small_png()[:60], "cannot be read")])
def test_a_path_without_a_picture_is_named(tmp_path, content, message):
    path = tmp_path / "a.png"
    if content:
        path.write_bytes(content)
    processor = MultimodalProcessor(image_processor=ViltImageProcessor())
    with pytest.raises(DataError, match=rf"row 1, field 'image': the image file .*a\.png {message}"):
        processor(images=[None, str(path)])


def test_a_pipe_is_not_waited_for(load, hateful_memes):
    (hateful_memes / "img/00011.png").unlink()
    os.mkfifo(hateful_memes / "img/00011.png")
    with pytest.raises(DataError, match=r"train\.jsonl, row 2, field 'img': .*00011\.png is no regular file"):
        load("image-text", hateful_memes)
    (hateful_memes / "dev_seen.jsonl").unlink()
    os.mkfifo(hateful_memes / "dev_seen.jsonl")
    with pytest.raises(DataError, match="validation is missing"):
        load("image-text", hateful_memes)


def test_inspection_names_the_row_of_what_is_no_picture():
    with pytest.raises(DataError, match="row 1, field 'image': the image cannot be read"):
        inspect_dataset(table(small_png(), b"no picture"))
    described = inspect_dataset(table(small_png()))["splits"]["train"]["modalities"]["image"]
    assert (described["width"]["max"], described["height"]["max"]) == (40, 32)
