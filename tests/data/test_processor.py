"""Text, pictures and feature sequences to tensors; saved folders that stock classes load."""

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BertTokenizer,
    ViltImageProcessor,
    ViltProcessor,
    ViTImageProcessor,
)

from hf_mmalign.data.errors import DataError
from hf_mmalign.data.feature_statistics import FeatureStatistics
from hf_mmalign.data.processor import MultimodalProcessor, train_tokenizer

TEXTS = ["What is the blue shape?", "Is there a triangle in the image?", "Is a café présent?"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=200)


@pytest.fixture(scope="module")
def image_processor():
    return ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)


@pytest.fixture
def processor(tokenizer, image_processor):
    return MultimodalProcessor(tokenizer, image_processor)


def picture(height, width, seed=0):
    return PIL.Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_trained_tokenizer_encodes_as_bert_does(tokenizer):
    single, pair = tokenizer("What is the blue shape?"), tokenizer("what is", "the shape?")
    tokens = tokenizer.convert_ids_to_tokens(single["input_ids"])
    assert tokens == ["[CLS]", "what", "is", "the", "blue", "shape", "?", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"]).count("[SEP]") == 2
    assert pair["token_type_ids"] == [0] * 4 + [1] * 4
    assert single["token_type_ids"] == [0] * 8
    assert tokenizer.decode(single["input_ids"], skip_special_tokens=True) == "what is the blue shape?"
    assert tokenizer.tokenize("xyz") == ["[UNK]"]


def test_special_tokens_come_first_and_in_berts_roles(tokenizer):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.convert_tokens_to_ids(special) == [0, 1, 2, 3, 4]
    roles = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token)
    assert list(roles) == special


def test_case_and_vocabulary_size(tokenizer):
    assert tokenizer.tokenize("CAFÉ") == tokenizer.tokenize("cafe")
    cased = train_tokenizer(TEXTS, vocab_size=200, lowercase=False)
    assert cased.tokenize("What") != cased.tokenize("what")
    assert "what" in tokenizer.get_vocab()
    assert len(train_tokenizer(TEXTS, vocab_size=25)) == 25


def test_a_rare_or_new_word_is_spelt_out():
    small = train_tokenizer(["blue blue blue", "bell"], vocab_size=5 + 4 + 1)
    assert small.tokenize("blue bell lub") == ["blue", "b", "##e", "##l", "##l", "[UNK]"]


def test_training_is_deterministic(tokenizer):
    assert train_tokenizer(reversed(TEXTS), vocab_size=200).get_vocab() == tokenizer.get_vocab()


def test_text(processor):
    batch = processor(text=[TEXTS[0], None, ""])
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert batch["attention_mask"].tolist() == [[1] * 8, [0] * 8, [1, 1] + [0] * 6]
    assert (batch["input_ids"][1] == 0).all()
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_one_text_is_a_batch_of_one(processor):
    assert processor(text=TEXTS[0])["input_ids"].shape == (1, 8)


def test_long_text_is_cut_or_left_alone(tokenizer):
    assert MultimodalProcessor(tokenizer, max_text_length=5)(text=TEXTS)["input_ids"].shape == (3, 5)
    whole = MultimodalProcessor(tokenizer, max_text_length=5, truncation=False)(text=TEXTS[:1])
    assert whole["input_ids"].shape == (1, 8)


def test_images_equal_the_stock_processors(processor, image_processor):
    pictures = [picture(32, 48, 1), picture(40, 40, 2), picture(64, 32, 3)]
    ours, stock = processor(images=pictures), image_processor(pictures, return_tensors="pt")
    torch.testing.assert_close(ours["pixel_values"], stock["pixel_values"])
    torch.testing.assert_close(ours["pixel_mask"], stock["pixel_mask"])


def test_pictures_in_every_form(processor):
    image = picture(32, 40)
    pixels = np.asarray(image)
    forms = [
        image,
        pixels,
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        image.convert("RGBA"),
        np.asarray(image.convert("RGBA")),
    ]
    values = processor(images=forms)["pixel_values"]
    for other in values[1:]:
        torch.testing.assert_close(other, values[0])
    grey = processor(images=[image.convert("L"), np.asarray(image.convert("L"))])["pixel_values"]
    torch.testing.assert_close(grey[0], grey[1])


def test_a_missing_picture_is_zero_and_masked(processor):
    batch = processor(images=[None, picture(32, 48), None])
    assert batch["pixel_values"].shape == (3, 3, 32, 48)
    assert batch["pixel_mask"].flatten(1).float().mean(1).tolist() == [0, 1, 0]
    assert not batch["pixel_values"][[0, 2]].any()


def test_a_batch_without_any_picture_has_valid_shapes(processor):
    batch = processor(images=[None, None])
    assert batch["pixel_values"].shape == (2, 3, 32, 32)
    assert not batch["pixel_mask"].any()


def test_an_image_processor_without_mask():
    batch = MultimodalProcessor(image_processor=ViTImageProcessor(size={"height": 24, "width": 24}))(
        images=[picture(30, 40), None]
    )
    assert batch["pixel_mask"].shape == (2, 24, 24)
    assert batch["pixel_mask"].flatten(1).float().mean(1).tolist() == [1, 0]


def test_feature_sequences_are_padded_at_the_end(processor):
    sequences = [np.ones((3, 2)), None, np.full((1, 2), 5, dtype=np.float32), np.zeros((0, 2))]
    batch = processor(features={"audio": sequences})
    assert batch["features"]["audio"].dtype == torch.float32
    assert batch["features"]["audio"].tolist() == [[[1, 1]] * 3, [[0, 0]] * 3, [[5, 5], [0, 0], [0, 0]], [[0, 0]] * 3]
    assert batch["feature_mask"]["audio"].tolist() == [[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_a_batch_that_lacks_a_sequence_throughout_has_one_masked_step(processor):
    batch = processor(features={"audio": [np.zeros((0, 2)), None]})
    assert batch["features"]["audio"].shape == (2, 1, 2)
    assert batch["feature_mask"]["audio"].tolist() == [[0], [0]]


def test_padded_tensors_pass_with_their_mask(processor):
    values, mask = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 0, 0]])
    batch = processor(features={"vision": values, "audio": values}, feature_mask={"vision": mask})
    assert batch["feature_mask"]["vision"].tolist() == mask.tolist()
    assert batch["feature_mask"]["audio"].all()
    torch.testing.assert_close(batch["features"]["audio"], values)
    torch.testing.assert_close(batch["features"]["vision"], values * mask.unsqueeze(-1))
    assert values[1, 1:].all()  # the caller's tensor is left alone


@pytest.mark.parametrize("left_over", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("normalised", [False, True])
def test_what_lies_in_the_padding_of_a_padded_tensor_comes_out_as_0(left_over, normalised):
    statistics = {"audio": FeatureStatistics(torch.full((2,), 5.0), torch.full((2,), 2.0))} if normalised else None
    values = torch.full((2, 3, 2), 7.0)
    values[0, 1] = left_over
    values[1] = left_over
    mask = torch.tensor([[True, False, True], [False, False, False]])
    batch = MultimodalProcessor(feature_statistics=statistics)(features={"audio": values}, feature_mask={"audio": mask})
    valid = 1.0 if normalised else 7.0
    assert batch["features"]["audio"].tolist() == [[[valid] * 2, [0, 0], [valid] * 2], [[0, 0]] * 3]
    assert batch["feature_mask"]["audio"].tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"features": {"a": [np.zeros((2, 3)), np.zeros((2, 4))]}}, "of one width"),
        ({"features": {"a": [np.zeros(3)]}}, "of one width"),
        ({"features": {"a": [None, None]}}, "width is unknown"),
        ({"features": {"a": torch.zeros(1, 2, 2, 3)}}, r"\(B, T, D\)"),
        ({"features": {"a": torch.zeros(2, 3, 4)}, "feature_mask": {"a": torch.ones(2, 2)}}, r"mask \(2, 2\)"),
        ({"features": {"a": [np.zeros((2, 3))]}, "feature_mask": {"a": torch.ones(1, 2)}}, "a mask is for"),
        ({"features": {"a": torch.zeros(1, 2, 3)}, "feature_mask": {"a": [[0.5, 1]]}}, "zeros and ones"),
        ({"features": {"a": torch.zeros(1, 2, 3)}, "feature_mask": {"b": [[1, 1]]}}, "no features of 'b'"),
        ({"features": {"a": [[["x"]]]}}, r"row 0, field 'a': a sequence of numbers"),
        ({"features": {"a": [np.zeros((2, 3))], "b": [np.zeros((2, 3))] * 2}}, r"not \{'a': 1, 'b': 2\}"),
        ({"text": ["a", "b"], "images": [None]}, r"not \{'text': 2, 'images': 1\}"),
        ({"features": [np.zeros((2, 3))]}, "a dict by modality"),
        ({"features": {"a": 3}}, "one a sample, are expected, not int"),
        ({}, "nothing to process"),
        ({"text": []}, "there is no sample"),
        ({"text": ["a", 3]}, "row 1, field 'text': a string, or None, is expected, not int"),
        ({"text": ["a", "\ud800"]}, "row 1, field 'text': half of a surrogate pair at index 0"),
        ({"images": [None, {"path": "x"}]}, "row 1, field 'image': a picture must be"),
        ({"images": [np.zeros((8, 8, 3))]}, "uint8"),
        ({"images": [torch.zeros(8, 8, 3, dtype=torch.uint8)]}, r"\(3, H, W\)"),
    ],
)
def test_wrong_input_is_refused(processor, call, message):
    with pytest.raises(DataError, match=message):
        processor(**call)


def test_a_processor_without_the_part_says_so():
    with pytest.raises(DataError, match="no tokenizer"):
        MultimodalProcessor()(text="a")
    with pytest.raises(DataError, match="no image processor"):
        MultimodalProcessor()(images=[picture(8, 8)])


def test_the_batch_moves_with_its_features(processor):
    batch = processor(text=TEXTS[:1], features={"audio": [np.zeros((2, 3))]}).to(torch.float64)
    assert batch["features"]["audio"].dtype == torch.float64
    assert batch["feature_mask"]["audio"].dtype == torch.int64
    assert processor(features={"audio": [np.ones((2, 3))]}).to("meta")["feature_mask"]["audio"].is_meta


def assert_same_results(one, other):
    call = {"text": TEXTS, "images": [picture(32, 40, seed) for seed in range(3)]}
    first, second = one(**call), other(**call)
    assert set(first) == set(second)
    for name in first:
        torch.testing.assert_close(first[name], second[name])


def test_a_saved_processor_comes_back(tokenizer, image_processor, tmp_path):
    saved = MultimodalProcessor(tokenizer, image_processor, max_text_length=6, truncation=True)
    saved.save_pretrained(tmp_path)
    loaded = MultimodalProcessor.from_pretrained(tmp_path)
    assert (loaded.max_text_length, loaded.truncation) == (6, True)
    assert_same_results(saved, loaded)
    assert MultimodalProcessor.from_pretrained(tmp_path, max_text_length=9).max_text_length == 9


def test_stock_classes_load_the_saved_folder(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    expected = processor(text=TEXTS, images=[picture(32, 40)] * 3)
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True)["input_ids"] == expected["input_ids"].tolist()
    stock = AutoImageProcessor.from_pretrained(tmp_path)([picture(32, 40)] * 3, return_tensors="pt")
    torch.testing.assert_close(stock["pixel_values"], expected["pixel_values"])
    vilt = ViltProcessor.from_pretrained(tmp_path)
    both = vilt(text=TEXTS, images=[picture(32, 40)] * 3, padding=True, return_tensors="pt")
    torch.testing.assert_close(both["pixel_values"], expected["pixel_values"])
    assert both["input_ids"].tolist() == expected["input_ids"].tolist()


def test_a_stock_folder_loads(tokenizer, image_processor, tmp_path):
    ViltProcessor(image_processor, tokenizer).save_pretrained(tmp_path / "vilt")
    assert_same_results(
        MultimodalProcessor.from_pretrained(tmp_path / "vilt"), MultimodalProcessor(tokenizer, image_processor)
    )
    BertTokenizer(vocab=tokenizer.get_vocab()).save_pretrained(tmp_path / "bert")
    loaded = MultimodalProcessor.from_pretrained(tmp_path / "bert")
    assert loaded.image_processor is None
    assert loaded(text=TEXTS)["input_ids"].tolist() == MultimodalProcessor(tokenizer)(text=TEXTS)["input_ids"].tolist()


@pytest.mark.parametrize("parts", [(), ("tokenizer",), ("image_processor",)])
def test_a_processor_of_fewer_parts_comes_back(tokenizer, image_processor, tmp_path, parts):
    available = {"tokenizer": tokenizer, "image_processor": image_processor}
    MultimodalProcessor(**{part: available[part] for part in parts}).save_pretrained(tmp_path)
    loaded = MultimodalProcessor.from_pretrained(tmp_path)
    assert (loaded.tokenizer is not None) == ("tokenizer" in parts)
    assert (loaded.image_processor is not None) == ("image_processor" in parts)


def test_a_folder_without_processor_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OSError, match="neither a tokenizer nor"):
        MultimodalProcessor.from_pretrained(tmp_path)
