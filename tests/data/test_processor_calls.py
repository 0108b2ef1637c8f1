"""The processor called as transformers' processors are called."""

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import BatchFeature, ViltImageProcessor, ViltProcessor

from hf_mmalign import DecAlignConfig
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.feature_statistics import FeatureStatistics
from hf_mmalign.data.processor import MultimodalProcessor, train_tokenizer

TEXTS = ["what is the blue shape", "is it blue"]


@pytest.fixture(scope="module")
def vilt():
    image_processor = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    return ViltProcessor(image_processor, train_tokenizer(TEXTS, vocab_size=100))


@pytest.fixture
def processor(vilt):
    return MultimodalProcessor(vilt.tokenizer, vilt.image_processor)


def picture(width=40, height=32):
    return PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": True},
        {"padding": "longest"},
        {"padding": "max_length", "max_length": 9},
        {"padding": "max_length", "max_length": 4, "truncation": True},
        {"padding": True, "truncation": "longest_first", "max_length": 5},
        {"padding": True, "truncation": False, "max_length": 5},
    ],
)
def test_text_and_pictures_as_transformers_own_processor(processor, vilt, arguments):
    call = arguments | {"text": TEXTS, "images": [picture(), picture(32, 48)], "return_tensors": "pt"}
    ours, stock = processor(**call), vilt(**call)
    assert set(ours) == set(stock)
    for name in stock:
        torch.testing.assert_close(ours[name], stock[name])


def test_one_sample_is_a_batch_of_one(processor, vilt):
    call = {"text": TEXTS[0], "images": picture(), "return_tensors": "pt"}
    ours, stock = processor(**call, features={"audio": np.ones((3, 2))}), vilt(**call)
    for name in stock:
        torch.testing.assert_close(ours[name], stock[name])
    assert ours["features"]["audio"].shape == (1, 3, 2)
    for single in (np.ones((3, 2)), torch.ones(3, 2)):
        masked = processor(features={"audio": single}, feature_mask={"audio": torch.tensor([1, 1, 0])})
        assert masked["features"]["audio"].tolist() == [[[1, 1], [1, 1], [0, 0]]]


def test_without_padding_texts_must_be_of_one_length(processor):
    assert processor(text=TEXTS[1], padding=False)["input_ids"].shape == (1, 5)
    assert processor(text=TEXTS, padding="do_not_pad", truncation=True, max_length=4)["input_ids"].shape == (2, 4)
    with pytest.raises(DataError, match="the texts have 5 to 7 tokens and make no tensor; padding=True"):
        processor(text=TEXTS, padding=False)


def test_the_call_overrides_what_the_processor_was_made_with(vilt):
    processor = MultimodalProcessor(vilt.tokenizer, max_text_length=4, truncation=False)
    assert processor(text=TEXTS)["input_ids"].shape == (2, 7)
    assert processor(text=TEXTS, truncation=True)["input_ids"].shape == (2, 4)
    assert processor(text=TEXTS, truncation=True, max_length=6)["input_ids"].shape == (2, 6)
    assert processor(text=TEXTS[1], padding="max_length", max_length=8)["input_ids"].shape == (1, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"return_tensors": "tf"}, "'return_tensors': 'pt' or 'np' is expected, not 'tf'"),
        ({"return_tensors": None}, "'pt' or 'np' is expected, not None"),
        ({"padding": "longst"}, "longst is not a valid PaddingStrategy.*'longest'"),
        ({"truncation": "yes"}, "yes is not a valid TruncationStrategy"),
        ({"max_length": 0}, "'max_length': a number of tokens from 1 is expected, not 0"),
        ({"padding": "max_length"}, "needs the argument max_length"),
    ],
)
def test_arguments_of_other_values_are_refused(processor, arguments, message):
    with pytest.raises(DataError, match=message):
        processor(text=TEXTS, **arguments)


def test_an_unknown_argument_is_an_error(processor):
    with pytest.raises(TypeError, match="max_lenght"):
        processor(text=TEXTS, max_lenght=3)


def test_numpy_arrays(processor):
    call = {"text": TEXTS, "images": [picture()] * 2, "features": {"audio": [np.ones((3, 2)), None]}}
    arrays, tensors = processor(**call, return_tensors="np"), processor(**call, return_tensors="pt")
    assert isinstance(arrays["features"]["audio"], np.ndarray)
    for name in ("input_ids", "pixel_values"):
        np.testing.assert_array_equal(arrays[name], tensors[name].numpy())
    np.testing.assert_array_equal(arrays["feature_mask"]["audio"], [[1, 1, 1], [0, 0, 0]])


def test_the_result_moves_and_unpacks_like_transformers_own(processor):
    batch = processor(text=TEXTS, images=[picture()] * 2, features={"audio": [np.ones((3, 2)), None]})
    assert isinstance(batch, BatchFeature)
    assert batch.input_ids is batch["input_ids"]
    moved = batch.to("meta", torch.bfloat16)
    assert {name: value.dtype for name, value in (moved["features"] | moved["feature_mask"]).items()}
    assert (moved["features"]["audio"].dtype, moved["features"]["audio"].device.type) == (torch.bfloat16, "meta")
    assert (moved["feature_mask"]["audio"].dtype, moved["feature_mask"]["audio"].device.type) == (torch.int64, "meta")
    assert (moved["pixel_values"].dtype, moved["input_ids"].dtype) == (torch.bfloat16, torch.int64)

    def model(input_ids, features, **rest):
        return features["audio"].shape[0]

    assert model(**moved) == 2


def test_a_path_is_a_picture(processor, tmp_path):
    image = picture()
    image.save(tmp_path / "a.png")
    # as from a camera held upright: the file says "turn by 90 degrees"
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    expected = processor(images=[image, image.transpose(PIL.Image.Transpose.ROTATE_270)])
    batch = processor(images=[str(tmp_path / "a.png"), tmp_path / "turned.png"])
    torch.testing.assert_close(batch["pixel_values"], expected["pixel_values"])
    assert processor(images=tmp_path / "a.png")["pixel_values"].shape == (1, 3, 32, 40)


def test_an_array_of_pictures_is_a_batch(processor):
    pixels = np.zeros((2, 32, 40, 3), np.uint8)
    for several in (pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2)):
        assert processor(images=several)["pixel_values"].shape == (2, 3, 32, 40)


@pytest.mark.parametrize("missing", [None, [None, None], [None, np.zeros((0, 0))]])
def test_a_missing_sequence_whose_width_the_processor_knows(processor, missing, tmp_path):
    for told in (
        MultimodalProcessor(processor.tokenizer, feature_sizes={"audio": 5}),
        MultimodalProcessor(
            processor.tokenizer, feature_statistics={"audio": FeatureStatistics(torch.ones(5), torch.ones(5))}
        ),
    ):
        told.save_pretrained(tmp_path)
        for known in (told, MultimodalProcessor.from_pretrained(tmp_path)):
            batch = known(text=TEXTS, features={"audio": missing})
            assert batch["features"]["audio"].shape == (2, 1, 5)
            assert not batch["features"]["audio"].any()
            assert batch["feature_mask"]["audio"].tolist() == [[0], [0]]
    with pytest.raises(DataError, match=r"field 'audio': missing in every sample.*feature_sizes=\{'audio': D\}"):
        processor(text=TEXTS, features={"audio": missing})


def test_the_width_may_come_from_the_models_config(processor, tmp_path):
    config = DecAlignConfig(feature_sizes={"audio": 5, "vision": 3}, num_labels=2)
    processor.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    batch = MultimodalProcessor.from_pretrained(tmp_path)(features={"audio": [None], "vision": None})
    assert {name: tuple(values.shape) for name, values in batch["features"].items()} == {
        "audio": (1, 1, 5),
        "vision": (1, 1, 3),
    }
    replaced = MultimodalProcessor.from_pretrained(tmp_path, feature_sizes={"audio": 7})
    assert replaced(features={"audio": [None]})["features"]["audio"].shape == (1, 1, 7)


def test_widths_that_contradict_the_statistics_are_refused():
    statistics = {"audio": FeatureStatistics(torch.ones(5), torch.ones(5))}
    with pytest.raises(DataError, match="field 'audio': the processor's statistics are of width 5, not 4"):
        MultimodalProcessor(feature_statistics=statistics, feature_sizes={"audio": 4})
    with pytest.raises(DataError, match="a feature width from 1 is expected, not 0"):
        MultimodalProcessor(feature_sizes={"audio": 0})
