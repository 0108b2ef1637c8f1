"""A `datasets.Dataset` that somebody made by hand goes all the way: collator, training, robustness."""

import numpy as np
import pytest
import torch
from datasets import Array2D, ClassLabel, Dataset, Features, List, Value

from hf_mmalign import (
    FusionConfig,
    FusionForSequenceClassification,
    MultimodalCollator,
    MultimodalProcessor,
    MultimodalTrainer,
    MultimodalTrainingArguments,
    evaluate_robustness,
)
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.schema import modalities_of, num_labels_of

COUNT = 12


def columns() -> dict:
    """A sequence, a vector and a label; rows miss either."""
    rng = np.random.default_rng(0)
    voice = [None if row % 4 == 1 else rng.normal(size=(1 + row % 3, 2)).tolist() for row in range(COUNT)]
    face = [None if row % 4 == 2 else rng.normal(size=3).tolist() for row in range(COUNT)]
    return {"voice": voice, "face": face, "label": [row % 3 for row in range(COUNT)]}


def declared() -> Features:
    labels = ClassLabel(names=["a", "b", "c"])
    return Features({"voice": Array2D((None, 2), "float32"), "face": Array2D((None, 3), "float32"), "label": labels})


def made(form: str) -> Dataset:
    content = columns()
    if form == "lists":  # whose NumPy format fails, in `datasets`, on a batch that begins with a null
        return Dataset.from_dict(content)
    content["face"] = [None if face is None else [face] for face in content["face"]]
    data = Dataset.from_dict(content, features=declared())  # nulls, which `datasets` hands back as NaN
    return data.with_format("numpy") if form == "Array2D as numpy" else data


@pytest.mark.parametrize("form", ["lists", "Array2D", "Array2D as numpy"])
def test_all_the_way(tmp_path, form):
    data = made(form)
    assert modalities_of(data) == {"voice": 2, "face": 3}
    assert num_labels_of(data) == 3
    processor = MultimodalProcessor().fit_features(data)
    collator = MultimodalCollator.from_dataset(processor, data)
    batch = collator([data[row] for row in range(COUNT)])
    source = columns()
    lengths = {name: [0 if cell is None else len(cell) for cell in source[name]] for name in ("voice", "face")}
    assert batch["feature_mask"]["voice"].sum(dim=1).tolist() == lengths["voice"]
    assert batch["feature_mask"]["face"].sum(dim=1).tolist() == [min(length, 1) for length in lengths["face"]]
    faces = np.array([face for face in source["face"] if face is not None])
    expected = (faces[0] - faces.mean(axis=0)) / faces.std(axis=0)
    np.testing.assert_allclose(batch["features"]["face"][0, 0], expected, rtol=1e-4, atol=1e-5)
    torch.manual_seed(0)
    config = FusionConfig(feature_sizes={"voice": 2, "face": 3}, num_labels=3, hidden_size=8)
    arguments = MultimodalTrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=4, report_to="none", use_cpu=True, save_strategy="no"
    )
    model = FusionForSequenceClassification(config)
    assert np.isfinite(
        MultimodalTrainer(model, arguments, train_dataset=data, data_collator=collator).train().training_loss
    )
    report = evaluate_robustness(model, data, data_collator=collator, seeds=[0], missing_ratios=[1], progress=False)
    assert "face missing" in report.to_markdown()


def test_what_fits_no_model_is_said():
    ragged = Dataset.from_dict(columns() | {"voice": [[[1.0, 2.0]], [[1.0]]] * (COUNT // 2)})
    with pytest.raises(DataError, match="a step has width 1, the column 2"):
        MultimodalProcessor().fit_features(ragged)
    named = Dataset.from_dict(columns() | {"label": ["x"] * COUNT})
    with pytest.raises(DataError, match="class_encode_column"):
        MultimodalCollator.from_dataset(MultimodalProcessor(), named)
    empty = Dataset.from_dict(columns() | {"voice": [[]] * COUNT}).cast_column("voice", List(List(Value("float32"))))
    with pytest.raises(DataError, match="missing in every row"):
        MultimodalCollator.from_dataset(MultimodalProcessor(), empty)


def test_only_texts_and_labels():
    data = Dataset.from_dict(
        {"text": ["a", None], "label": [0.5, 1.0]},
        features=Features({"text": Value("string"), "label": Value("float32")}),
    )
    assert modalities_of(data) == {"text": "text"}
    with pytest.raises(DataError, match="none of the columns is a modality"):
        MultimodalCollator.from_dataset(MultimodalProcessor(), data.remove_columns("text"))
