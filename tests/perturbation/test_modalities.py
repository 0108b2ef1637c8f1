import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_mmalign.models.modeling_base import ModalityEmbedding
from hf_mmalign.perturbation.modalities import MissingModality, ModalityNoise, choose_missing, perturbed

from ..evaluation.tiny_model import TinyData, TinyModel


def embed(lengths, width=4, padding=0, left=False, dtype=torch.float32):
    """Content tokens behind a class token (or, with `left`, before one), padded to a common length."""
    longest = max(lengths) + 1 + padding
    mask, content = torch.zeros(2, len(lengths), longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        span = slice(longest - length - 1, longest) if left else slice(0, length + 1)
        mask[row, span] = True
        content[row, span] = True
        content[row, longest - 1 if left else 0] = False
    tokens = torch.arange(len(lengths) * longest * width, dtype=dtype).reshape(len(lengths), longest, width) / 7
    other = ModalityEmbedding(
        torch.ones(len(lengths), 2, width), torch.ones(len(lengths), 2, dtype=torch.bool), mask[:, :2]
    )
    return {"text": ModalityEmbedding(tokens, mask, content), "other": other}


def noise_of(embeddings, **arguments):
    """What the hook added, and the embeddings it returned."""
    count = len(embeddings["text"].tokens)
    arguments = {"sample_indices": range(count)} | arguments
    result = ModalityNoise("text", **arguments)(embeddings)
    return result["text"].tokens - embeddings["text"].tokens, result


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_only_content_tokens_get_noise(distribution):
    embeddings = embed([3, 0, 5])
    before = embeddings["text"].tokens.clone()
    noise, result = noise_of(embeddings, distribution=distribution)
    content = embeddings["text"].content_mask
    assert (noise[content] != 0).all()
    assert (noise[~content] == 0).all()
    assert result["other"] is embeddings["other"]
    assert torch.equal(embeddings["text"].tokens, before), "the hook must not change its input"
    assert torch.equal(result["text"].mask, embeddings["text"].mask)
    assert torch.equal(result["text"].content_mask, embeddings["text"].content_mask)


def test_uniform_noise_fills_its_range_evenly():
    noise, _ = noise_of({"text": embed([400] * 4, width=50)["text"]}, amplitude=3.0)
    values = noise[:, 1:].flatten().numpy()
    assert np.abs(values).max() <= 3.0 + 1e-4
    histogram, _ = np.histogram(values, bins=12, range=(-3, 3))
    assert np.abs(histogram / len(values) - 1 / 12).max() < 0.005
    assert abs(values.mean()) < 0.03


def test_the_amplitude_of_gaussian_noise_is_its_standard_deviation():
    noise, _ = noise_of({"text": embed([400] * 4, width=50)["text"]}, amplitude=2.0, distribution="gaussian")
    values = noise[:, 1:]
    assert values.std().item() == pytest.approx(2.0, rel=0.02)
    assert values.mean().item() == pytest.approx(0.0, abs=0.03)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=8),
    st.integers(1, 8),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from(["uniform", "gaussian"]),
)
@settings(max_examples=50, deadline=None)
def test_noise_depends_on_seed_and_sample_only(lengths, batch_size, padding, left, distribution):
    whole = embed(lengths)
    noise, _ = noise_of(whole, seed=3, distribution=distribution)
    expected = [noise[row][whole["text"].content_mask[row]] for row in range(len(lengths))]
    for start in range(0, len(lengths), batch_size):
        indices = range(start, min(start + batch_size, len(lengths)))
        part = embed([lengths[index] for index in indices], padding=padding, left=left)
        noise, _ = noise_of(part, seed=3, sample_indices=indices, distribution=distribution)
        for row, index in enumerate(indices):
            torch.testing.assert_close(noise[row][part["text"].content_mask[row]], expected[index], atol=1e-4, rtol=0)


@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
def test_noise_is_the_same_where_the_host_cannot_count_tokens(distribution, monkeypatch):
    """As on an accelerator."""
    embeddings = embed([3, 0, 5], left=True)
    expected, _ = noise_of(embeddings, distribution=distribution)
    monkeypatch.setattr("hf_mmalign.perturbation.modalities.values_at_hand", lambda *tensors: False)
    assert torch.equal(noise_of(embeddings, distribution=distribution)[0], expected)


def test_noise_differs_between_samples_seeds_and_modalities():
    embeddings = embed([5, 5])
    embeddings["audio"] = embeddings["text"]
    first, _ = noise_of(embeddings, seed=0)
    other_seed, _ = noise_of(embeddings, seed=1)
    audio = ModalityNoise("audio", range(2), seed=0)(embeddings)["audio"].tokens - embeddings["audio"].tokens
    content = embeddings["text"].content_mask
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first[content], other_seed[content])
    assert not torch.allclose(first[content], audio[content])


def test_amplitudes_scale_one_draw():
    one, _ = noise_of(embed([5, 2]), amplitude=1.0)
    three, _ = noise_of(embed([5, 2]), amplitude=3.0)
    torch.testing.assert_close(three, 3 * one, atol=1e-4, rtol=0)
    none, _ = noise_of(embed([5, 2]), amplitude=0.0)
    assert (none == 0).all()


def test_noise_keeps_half_precision():
    _, result = noise_of(embed([5, 2], dtype=torch.bfloat16))
    assert result["text"].tokens.dtype == torch.bfloat16


def test_zero_mode_blanks_content_and_leaves_it_attended_to():
    embeddings = embed([3, 5, 2])
    missing = torch.tensor([True, False, True])
    text = MissingModality("text", missing)(embeddings)["text"]
    gone = embeddings["text"].content_mask & missing.unsqueeze(1)
    assert (text.tokens[gone] == 0).all()
    assert torch.equal(text.tokens[~gone], embeddings["text"].tokens[~gone])
    assert torch.equal(text.mask, embeddings["text"].mask)
    assert torch.equal(text.content_mask, embeddings["text"].content_mask)


def test_mask_mode_takes_the_modality_out_of_attention():
    embeddings = embed([3, 5, 2])
    missing = torch.tensor([True, False, True])
    text = MissingModality("text", missing, mode="mask")(embeddings)["text"]
    assert not text.mask[missing].any()
    assert not text.content_mask[missing].any()
    assert text.present.tolist() == [False, True, False]
    assert torch.equal(text.mask[1], embeddings["text"].mask[1])
    assert torch.equal(text.tokens, embeddings["text"].tokens)


@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_all_samples_miss_the_modality_by_default(mode):
    embeddings = embed([3, 5])
    everyone = MissingModality("text", torch.ones(2, dtype=torch.bool), mode)(embeddings)["text"]
    default = MissingModality("text", mode=mode)(embeddings)["text"]
    assert torch.equal(default.tokens, everyone.tokens)
    assert torch.equal(default.mask, everyone.mask)


def test_a_batch_without_the_modality_passes():
    embeddings = {"other": embed([3])["other"]}
    assert ModalityNoise("text", range(1))(embeddings) is embeddings
    assert MissingModality("text")(embeddings) is embeddings


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="'uniform' or 'gaussian'"):
        ModalityNoise("text", range(2), distribution="laplace")
    with pytest.raises(ValueError, match="amplitude"):
        ModalityNoise("text", range(2), amplitude=-1.0)
    with pytest.raises(ValueError, match="seed"):
        ModalityNoise("text", range(2), seed=-1)
    with pytest.raises(ValueError, match="'zero' or 'mask'"):
        MissingModality("text", mode="drop")
    with pytest.raises(ValueError, match="sample_indices describes 3 samples, but the batch holds 2"):
        ModalityNoise("text", range(3))(embed([1, 1]))
    with pytest.raises(ValueError, match="missing describes 3 samples"):
        MissingModality("text", torch.ones(3, dtype=torch.bool))(embed([1, 1]))


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_missing_choices_have_exact_counts_and_are_nested(count, ratio, other, seed):
    low, high = sorted((ratio, other))
    few, many = (choose_missing(count, r, seed, "text") for r in (low, high))
    assert few.sum() == round(low * count)
    assert many.sum() == round(high * count)
    assert not (few & ~many).any()


def test_missing_choices_differ_between_seeds_and_modalities():
    choice = choose_missing(200, 0.5, 0, "text")
    assert (choice != choose_missing(200, 0.5, 1, "text")).any()
    assert (choice != choose_missing(200, 0.5, 0, "image")).any()
    assert (choice == choose_missing(200, 0.5, 0, "text")).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        choose_missing(10, 1.5, 0, "text")


def test_perturbed_registers_and_removes_even_after_an_exception():
    model, data = TinyModel().eval(), TinyData(count=4)
    batch = data.collate(data.rows)
    batch.pop("labels")
    clean = model(**batch).logits
    with perturbed(model, MissingModality("vision"), ModalityNoise("audio", range(4))):
        assert not torch.allclose(model(**batch).logits, clean)
    torch.testing.assert_close(model(**batch).logits, clean)
    with pytest.raises(ValueError, match="sample_indices"), perturbed(model, ModalityNoise("audio", range(3))):
        model(**batch)
    torch.testing.assert_close(model(**batch).logits, clean)
