"""Rows to batches, with anything missing."""

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ViltImageProcessor

from hf_mmalign.data.collator import MultimodalCollator
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.processor import MultimodalProcessor, train_tokenizer
from hf_mmalign.data.schema import modalities_of, num_labels_of, problem_type_of

MODALITIES = {"text": "text", "image": "image", "audio": 2}


@pytest.fixture(scope="module")
def processor():
    return MultimodalProcessor(train_tokenizer(["a red seven", "a blue one"], 100), ViltImageProcessor(do_resize=False))


@pytest.fixture
def collator(processor):
    return MultimodalCollator(processor, MODALITIES, "single_label_classification", 3)


def row(**fields):
    whole = {
        "id": "x",
        "text": "a red seven",
        "image": PIL.Image.new("RGB", (32, 32), (9, 9, 9)),
        "audio": np.ones((3, 2)),
        "label": 1,
    }
    return whole | {"target": 0.5} | fields


def test_keys_and_shapes(collator):
    batch = collator([row(), row(audio=np.ones((5, 2)), label=2)])
    assert type(batch) is dict  # a BatchFeature's nested dicts would not be moved to the device
    shapes = {name: tuple(value.shape) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    assert shapes == {
        "input_ids": (2, 5),
        "attention_mask": (2, 5),
        "token_type_ids": (2, 5),
        "pixel_values": (2, 3, 32, 32),
        "pixel_mask": (2, 32, 32),
        "labels": (2,),
    }
    assert batch["features"]["audio"].shape == (2, 5, 2)
    assert batch["feature_mask"]["audio"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=4))
def test_any_pattern_of_missing_modalities(processor, present):
    collator = MultimodalCollator(processor, MODALITIES, "single_label_classification", 3)
    rows = [row(**{name: None for name, here in zip(MODALITIES, flags, strict=True) if not here}) for flags in present]
    batch = collator(rows)
    masks = [batch["attention_mask"], batch["pixel_mask"].flatten(1), batch["feature_mask"]["audio"]]
    assert [tuple(bool(mask[index].any()) for mask in masks) for index in range(len(rows))] == present
    assert all(mask.shape[1] >= 1 for mask in masks)
    assert batch["features"]["audio"].shape[2] == 2
    gone = batch["features"]["audio"][batch["feature_mask"]["audio"] == 0]
    assert not gone.any()
    for value in (batch["pixel_values"], batch["features"]["audio"]):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("missing", list(MODALITIES))
def test_an_absent_column_is_a_missing_modality(collator, missing):
    rows = [row(), row(), row()]
    for index in (0, 2):
        del rows[index][missing]
    batch = collator(rows)
    none = collator([row(**{missing: None}), row(), row(**{missing: None})])
    masks = {"text": "attention_mask", "image": "pixel_mask"}
    mask = batch[masks[missing]] if missing in masks else batch["feature_mask"][missing]
    assert mask.flatten(1).any(1).tolist() == [False, True, False]
    for name in ("input_ids", "pixel_values"):
        torch.testing.assert_close(batch[name], none[name])
    torch.testing.assert_close(batch["features"]["audio"], none["features"]["audio"])
    assert collator([rows[0]])["labels"].tolist() == [1]  # the whole batch may lack it


def test_rows_without_any_modality_column_are_refused(collator):
    """The stock Trainer removes all columns that the model's forward does not name, unless it is told not to."""
    with pytest.raises(
        DataError, match=r"row 1: none of the columns text, image, audio, only label; .*remove_unused_col"
    ):
        collator([row(), {"label": 0}])


def test_a_path_is_a_picture(collator, tmp_path):
    image = PIL.Image.fromarray(np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    batch = collator([row(image=image), row(image=str(tmp_path / "a.png")), row(image=tmp_path / "a.png")])
    for other in (1, 2):
        torch.testing.assert_close(batch["pixel_values"][other], batch["pixel_values"][0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "\ud800"}, "row 1, field 'text': half of a surrogate pair"),
        ({"text": 3.5}, "row 1, field 'text': a string, or None, is expected, not float"),
        ({"image": "no.png"}, "row 1, field 'image': the image file no.png does not exist"),
        ({"audio": np.full((2, 2), np.nan)}, "row 1, field 'audio': 4 NaN or Inf values"),
    ],
)
def test_a_faulty_row_is_named_with_its_id(collator, fields, message):
    with pytest.raises(DataError, match=rf"{message}.*\(the row's id is 'm7'\)"):
        collator([row(), row(id="m7", **fields)])


def test_the_processor_learns_the_widths_of_missing_sequences(processor, tmp_path):
    ours = MultimodalProcessor(processor.tokenizer)
    MultimodalCollator(ours, MODALITIES, "single_label_classification", 3)
    ours.save_pretrained(tmp_path)
    loaded = MultimodalProcessor.from_pretrained(tmp_path)
    assert loaded(text="a", features={"audio": None})["features"]["audio"].shape == (1, 1, 2)


def test_labels_by_problem_type(processor):
    def labels(problem_type, *values):
        collator = MultimodalCollator(processor, {"audio": 2}, problem_type, 3)
        return collator([row(label=value) for value in values])["labels"]

    single = labels("single_label_classification", 2, np.int64(0))
    assert (single.dtype, single.tolist()) == (torch.int64, [2, 0])
    multi = labels("multi_label_classification", [0, 2], np.array([], dtype=np.int64), np.array([1]))
    assert (multi.dtype, multi.tolist()) == (torch.float32, [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    regression = labels("regression", 0.5, np.float32(-2))
    assert (regression.dtype, regression.tolist()) == (torch.float32, [0.5, -2.0])


def test_rows_without_labels(collator):
    assert "labels" not in collator([row(label=None), row(label=None)])
    unlabelled = row()
    del unlabelled["label"]
    assert "labels" not in collator([unlabelled])
    with pytest.raises(DataError, match="1 of the batch's 2 rows have no label"):
        collator([row(), row(label=None)])


def test_modalities_must_say_their_kind(processor):
    with pytest.raises(TypeError, match="modalities_of"):
        MultimodalCollator(processor, ["text", "image"], "regression", 1)
    with pytest.raises(ValueError, match="problem_type"):
        MultimodalCollator(processor, MODALITIES, "classification", 1)


@pytest.mark.parametrize("name", ["digits-captions", "digits-views"])
def test_embedded_rows_go_through_a_data_loader(load, processor, name):
    data = load(name)
    collator = MultimodalCollator(processor, modalities_of(data), problem_type_of(data), num_labels_of(data))
    loader = torch.utils.data.DataLoader(data["test"], batch_size=64, collate_fn=collator)
    labels = torch.cat([batch["labels"] for batch in loader])
    assert labels.tolist() == list(data["test"]["label"][:])


def test_multibench_rows_with_missing_sequences(load, processor, write_pickle, mosei):
    mosei["train"]["audio"][:3] = 0
    data = load("multibench", write_pickle(mosei))
    collator = MultimodalCollator(processor, modalities_of(data), "regression", 1)
    batch = collator([data["train"][index] for index in range(5)])
    assert batch["feature_mask"]["audio"].any(1).tolist() == [False] * 3 + [True] * 2
    alone = collator(data["train"].__getitems__([0, 1, 2]))
    assert alone["features"]["audio"].shape == (3, 1, 4)
    for index in range(5):
        steps = batch["features"]["text"][index][batch["feature_mask"]["text"][index].bool()]
        np.testing.assert_array_equal(steps, data["train"][index]["text"])


def test_movies_with_several_genres(load, processor, mmimdb_folder):
    data = load("mmimdb", mmimdb_folder, num_genres=3)
    collator = MultimodalCollator(processor, modalities_of(data), problem_type_of(data), num_labels_of(data))
    assert collator(list(data["validation"]))["labels"].tolist() == [[1, 0, 0], [0, 0, 0]]
