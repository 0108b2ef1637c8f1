"""transformers' own pipelines and our models."""

import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    TextClassificationPipeline,
    ViltImageProcessor,
    pipeline,
)

from hf_mmalign import (
    BertWmaConfig,
    BertWmaForSequenceClassification,
    MultimodalProcessor,
    ViltWmaConfig,
    ViltWmaForSequenceClassification,
)
from hf_mmalign.data.processor import train_tokenizer
from tests.tiny import BACKBONE, TOKENS, VILT

TOKENIZER = train_tokenizer(["a sentence with words", "and another sentence"], vocab_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("vilt")
    ViltWmaForSequenceClassification(ViltWmaConfig(**VILT, **TOKENS, num_labels=2)).save_pretrained(folder)
    image_processor = ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    MultimodalProcessor(TOKENIZER, image_processor).save_pretrained(folder)
    return str(folder)


REFUSAL = r"this ViltWmaForSequenceClassification one .* takes text, image\..*MultimodalProcessor.*text=\[…\], images"


@pytest.mark.parametrize("task", ["text-classification", "sentiment-analysis", "image-classification"])
def test_a_pipeline_that_would_drop_a_modality_refuses_the_folder(folder, task):
    with pytest.raises(ValueError, match=REFUSAL):
        pipeline(task, folder, device="cpu")


def test_it_refuses_the_model_itself_too(folder):
    model = ViltWmaForSequenceClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match=REFUSAL):
        pipeline("text-classification", model=model, tokenizer=TOKENIZER, device="cpu")
    processor = MultimodalProcessor.from_pretrained(folder)
    with pytest.raises(ValueError, match=REFUSAL):
        pipeline("image-classification", model=model, image_processor=processor.image_processor, device="cpu")


def test_what_the_refusal_says_to_do_works(folder):
    picture = Image.new("RGB", (32, 32))
    inputs = MultimodalProcessor.from_pretrained(folder)(text=["a sentence"], images=[picture])
    assert ViltWmaForSequenceClassification.from_pretrained(folder)(**inputs).logits.shape == (1, 2)


def test_feature_sequences_are_modalities_as_well():
    model = BertWmaForSequenceClassification(BertWmaConfig(**BACKBONE, **TOKENS, feature_sizes={"audio": 3}))
    with pytest.raises(ValueError, match=r"takes text, audio\..*features=\{'audio': \[…\]\}"):
        pipeline("text-classification", model=model, tokenizer=TOKENIZER, device="cpu")


def test_a_model_of_text_alone_is_served(tmp_path):
    model = BertWmaForSequenceClassification(BertWmaConfig(**BACKBONE, **TOKENS, num_labels=3)).eval()
    model.save_pretrained(tmp_path)
    MultimodalProcessor(TOKENIZER).save_pretrained(tmp_path)
    (found,) = pipeline("text-classification", str(tmp_path), device="cpu")(["a sentence"], top_k=None)
    with torch.no_grad():
        logits = model(**MultimodalProcessor(TOKENIZER)(text=["a sentence"])).logits[0]
    expected = {model.config.id2label[index]: score for index, score in enumerate(logits.softmax(dim=-1).tolist())}
    assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(expected, abs=1e-5)


class OwnPipeline(TextClassificationPipeline):
    """Somebody's pipeline, which may hand over the rest of the sample in its own way."""


def test_pipelines_and_models_of_others_are_left_alone(folder):
    model = ViltWmaForSequenceClassification.from_pretrained(folder)
    assert OwnPipeline(model=model, tokenizer=TOKENIZER, device="cpu").model is model
    stock = BertForSequenceClassification(BertConfig(**BACKBONE))
    answer = pipeline("text-classification", model=stock, tokenizer=TOKENIZER, device="cpu")("a sentence")
    assert answer[0]["label"] in ("LABEL_0", "LABEL_1")
