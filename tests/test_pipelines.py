"""`pipeline("multimodal-classification", folder)` on saved models, against processor and model called by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViltImageProcessor, Wav2Vec2FeatureExtractor, pipeline

from hf_mmalign import (
    FusionConfig,
    FusionForSequenceClassification,
    MultimodalClassificationPipeline,
    MultimodalProcessor,
    ViltWmaConfig,
    ViltWmaForSequenceClassification,
)
from hf_mmalign.data.errors import DataError
from hf_mmalign.data.image_processors import timm_image_processor
from hf_mmalign.data.processor import train_tokenizer
from hf_mmalign.reporting.model_card import usage_snippet
from tests.encoders import WAVES
from tests.tiny import VILT

TEXTS = ["a red square", "the blue circle is small", "nothing"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A ViLT with text, image and a feature sequence, saved with its processor."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 60)
    names = {name: getattr(tokenizer, name) for name in ("cls_token_id", "sep_token_id")}
    fields = (
        VILT | names | {"feature_sizes": {"audio": 3}, "num_labels": 3, "problem_type": "single_label_classification"}
    )
    model = ViltWmaForSequenceClassification(ViltWmaConfig(**fields, id2label={0: "a", 1: "b", 2: "c"}))
    path = tmp_path_factory.mktemp("vilt")
    model.save_pretrained(path)
    processor = MultimodalProcessor(tokenizer, ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8))
    processor.save_pretrained(path)
    return path


def samples() -> list[dict]:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (32, 40, 3), dtype=np.uint8))
    return [
        {"text": TEXTS[0], "image": picture, "audio": rng.normal(size=(4, 3))},
        {"text": TEXTS[1], "audio": rng.normal(size=3)},  # a vector is one step
        {"image": picture, "text": None},
    ]


def by_hand(folder, sample: dict) -> np.ndarray:
    model = ViltWmaForSequenceClassification.from_pretrained(folder).eval()
    inputs = {}
    if sample.get("text"):
        inputs["text"] = [sample["text"]]
    if sample.get("image"):
        inputs["images"] = [sample["image"]]
    if sample.get("audio") is not None:
        inputs["features"] = {"audio": [np.atleast_2d(sample["audio"])]}
    with torch.no_grad():
        return model(**MultimodalProcessor.from_pretrained(folder)(**inputs)).logits.softmax(-1)[0].numpy()


def test_scores_are_those_of_processor_and_model(folder):
    classify = pipeline("multimodal-classification", str(folder), device="cpu")
    assert isinstance(classify, MultimodalClassificationPipeline)
    for sample in samples():
        found = classify(sample, top_k=None)
        assert [entry["score"] for entry in found] == sorted((entry["score"] for entry in found), reverse=True)
        scores = {entry["label"]: entry["score"] for entry in found}
        np.testing.assert_allclose([scores[name] for name in "abc"], by_hand(folder, sample), atol=1e-5)
        assert classify(sample) == found[:1]


def test_lists_generators_and_batches_agree_with_single_samples(folder):
    classify = pipeline("multimodal-classification", str(folder), device="cpu")
    single = [classify(sample)[0] for sample in samples()]
    for batch_size in (1, 2, 3):
        for found in (
            classify(samples(), batch_size=batch_size),
            list(classify(iter_of(samples()), batch_size=batch_size)),
        ):
            assert [entry["label"] for (entry,) in found] == [entry["label"] for entry in single]
            np.testing.assert_allclose(
                [entry["score"] for (entry,) in found], [entry["score"] for entry in single], atol=1e-5
            )


def iter_of(values):
    yield from values


def test_a_picture_by_its_path(folder, tmp_path):
    sample = samples()[0]
    sample["image"].save(tmp_path / "photo.png")
    classify = pipeline("multimodal-classification", str(folder), device="cpu")
    by_path = classify(sample | {"image": str(tmp_path / "photo.png")})
    assert by_path[0]["score"] == pytest.approx(classify(sample)[0]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("sample", "options", "message"),
    [
        ({}, {}, "none of the modalities"),
        ({"txt": "x"}, {}, "the sample has 'txt'"),
        ("a text", {}, "a sample is a dict"),
        ({"text": "x"}, {"top_k": 0}, "top_k is at least 1"),
        ({"audio": np.zeros((2, 4))}, {}, "feature_sizes asks for"),
    ],
)
def test_what_is_no_sample_is_refused(folder, sample, options, message):
    classify = pipeline("multimodal-classification", str(folder), device="cpu")
    with pytest.raises((DataError, ValueError), match=message):
        classify(sample, **options)


def test_regression_and_several_labels(tmp_path):
    for problem_type, num_labels in (("regression", 2), ("multi_label_classification", 3)):
        config = FusionConfig(feature_sizes={"a": 3, "b": 2}, num_labels=num_labels, problem_type=problem_type)
        model = FusionForSequenceClassification(config)
        classify = MultimodalClassificationPipeline(model, processor=MultimodalProcessor(), device="cpu")
        sample = {"a": np.ones((2, 3)), "b": np.ones(2)}
        found = classify(sample, top_k=None)
        with torch.no_grad():
            logits = model.eval()(
                **MultimodalProcessor()(features={"a": [np.ones((2, 3))], "b": [np.ones((1, 2))]})
            ).logits[0]
        expected = logits if problem_type == "regression" else logits.sigmoid().sort(descending=True).values
        np.testing.assert_allclose([entry["score"] for entry in found], expected.numpy(), atol=1e-5)


def test_the_card_s_snippet_runs_as_printed(folder, capsys):
    config = ViltWmaConfig.from_pretrained(folder)
    exec(usage_snippet(config, str(folder)), {})
    assert "'score'" in capsys.readouterr().out


def test_pictures_and_sounds_of_any_name(tmp_path, capsys):
    """By the card's snippet, and by paths."""
    encoders = {"image": {"architecture": "test_resnet"}, "depth": {"architecture": "test_resnet", "in_chans": 1}}
    config = FusionConfig(encoders=encoders | {"audio": WAVES}, id2label={0: "a", 1: "b"})
    FusionForSequenceClassification(config).save_pretrained(tmp_path)
    small = {"size": {"height": 32, "width": 32}, "do_center_crop": False}
    parts = {"depth": timm_image_processor("test_resnet", **small), "audio": Wav2Vec2FeatureExtractor()}
    MultimodalProcessor(None, timm_image_processor("test_resnet", **small), modality_processors=parts).save_pretrained(
        tmp_path
    )
    snippet = usage_snippet(config, str(tmp_path))
    assert '"depth": Image.new' in snippet
    exec(snippet, {})
    assert "'score'" in capsys.readouterr().out
    Image.new("RGB", (40, 30), (9, 99, 200)).save(tmp_path / "depth.png")
    classify = pipeline("multimodal-classification", str(tmp_path))
    (by_path,) = classify({"depth": str(tmp_path / "depth.png")})
    (by_picture,) = classify({"depth": Image.open(tmp_path / "depth.png"), "audio": None})
    assert by_path["label"] == by_picture["label"]
    assert by_path["score"] == pytest.approx(by_picture["score"], abs=1e-6)
    with pytest.raises(DataError, match=r"field 'depth': the image file nothing\.png does not exist"):
        classify._collator([{"depth": "nothing.png"}])
