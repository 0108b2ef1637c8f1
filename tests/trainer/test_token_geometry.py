"""The instrument that says how the modalities' tokens lie to each other."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from hf_mmalign import MultimodalTrainingArguments
from hf_mmalign.models.modeling_base import ModalityEmbedding
from hf_mmalign.trainer.token_geometry import token_cosines
from tests.families import FAMILIES, build
from tests.trainer.test_trainer import assert_same_weights, train_log
from tests.trainer.training import build_fusion, build_model, build_trainer, weights


def embedding(size: int, length: int, width: int, mask: np.ndarray, seed: int) -> ModalityEmbedding:
    tokens = torch.randn(size, length, width, generator=torch.Generator().manual_seed(seed))
    content = torch.from_numpy(mask)
    return ModalityEmbedding(tokens, torch.ones_like(content), content)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return torch.cosine_similarity(one.double(), other.double(), dim=0).item()


@settings(max_examples=40, deadline=None)
@given(arrays(bool, (3, 4)), arrays(bool, (3, 2)))
def test_means_over_pairs_one_by_one(text_mask, image_mask):
    tokens = {"text": embedding(3, 4, 5, text_mask, 0), "image": embedding(3, 2, 5, image_mask, 1)}
    content = {
        name: [(row, one.tokens[row, step]) for row, step in one.content_mask.nonzero().tolist()]
        for name, one in tokens.items()
    }
    expected: dict[str, list[float]] = {}
    for name, own in content.items():
        for i, j in product(range(len(own)), repeat=2):
            if i != j:
                expected.setdefault(f"cosine_within_{name}", []).append(cosine(own[i][1], own[j][1]))
    for row in range(3):
        together = [cosine(a, b) for (i, a), (j, b) in product(content["text"], content["image"]) if i == j == row]
        if together:
            expected.setdefault("cosine_between_text_image", []).append(float(np.mean(together)))
    apart = [cosine(a, b) for (i, a), (j, b) in product(content["text"], content["image"]) if i != j]
    if apart:
        expected["cosine_mismatched_text_image"] = apart
    found = token_cosines(tokens)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].item() == pytest.approx(float(np.mean(values)), abs=1e-5)


def test_one_token_over_and_over_has_collapsed():
    token, mask = torch.randn(1, 1, 6), torch.ones(4, 3, dtype=torch.bool)
    found = token_cosines({name: ModalityEmbedding(token.expand(4, 3, 6), mask, mask) for name in ("a", "b")})
    assert {name: value.item() for name, value in found.items()} == pytest.approx(
        {"cosine_within_a": 1, "cosine_within_b": 1, "cosine_between_a_b": 1, "cosine_mismatched_a_b": 1}
    )


def test_modalities_of_other_widths_are_not_compared():
    masks = np.ones((2, 3), bool)
    found = token_cosines({"text": embedding(2, 3, 5, masks, 0), "audio": embedding(2, 3, 4, masks, 1)})
    assert list(found) == ["cosine_within_text", "cosine_within_audio"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_model_says(family):
    model, inputs, _ = build(family)
    embeddings = model.eval().embed_modalities(**inputs)
    tokens = model.comparable_tokens(embeddings)
    assert list(tokens) == list(embeddings)
    for name, one in tokens.items():
        assert one.tokens.shape[:2] == one.content_mask.shape == embeddings[name].content_mask.shape
    found = token_cosines(tokens)
    assert {f"cosine_within_{name}" for name in tokens} <= found.keys()
    assert all(-1.0001 <= value <= 1.0001 for value in found.values())


def test_training_is_what_it_is_without(tmp_path):
    for number, fields in enumerate(({"dropout": 0.3}, {"fusion": "gan", "latent_size": 4})):
        runs = []
        for told in ({}, {"log_token_geometry": 2}):
            model = build_fusion(**fields)
            folder = tmp_path / f"{number}{bool(told)}"
            trainer = build_trainer(folder, model, gradient_accumulation_steps=2, modality_dropout=0.3, **told)
            trainer.train()
            runs.append(trainer)
        plain, measured = runs
        assert_same_weights(weights(plain.model), weights(measured.model))
        keys = ["cosine_within_vision" in entry for entry in train_log(measured)]
        assert keys == [step % 2 == 0 for step in range(len(keys))]
        assert not any("cosine_within_vision" in entry for entry in train_log(plain))


def test_of_the_embeddings_before_modality_dropout_and_in_eval_mode(tmp_path):
    model = build_model(hidden_dropout_prob=0.5)
    trainer = build_trainer(tmp_path, model, log_token_geometry=1, max_steps=1, modality_dropout=0.9, learning_rate=0.0)
    seen = {}

    def remember(module, args, kwargs, output):
        seen.setdefault("batch", kwargs)

    handle = model.register_forward_hook(remember, with_kwargs=True)
    trainer.train()
    handle.remove()
    (entry,) = train_log(trainer)
    inputs = {name: value for name, value in seen["batch"].items() if name != "labels"}
    with torch.no_grad():
        encoded = model.eval().encode(model.embed_modalities(**inputs))[1]
    for name, value in token_cosines(encoded).items():
        assert entry[name] == pytest.approx(value.item(), abs=1e-4)


def test_no_step_is_every_0th(tmp_path):
    with pytest.raises(ValueError, match="log_token_geometry is 0; it is at least 1"):
        MultimodalTrainingArguments(str(tmp_path), log_token_geometry=0)
