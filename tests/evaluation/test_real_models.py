"""The perturbations and the evaluation on the models users have: ViLT and BERT one-towers."""

import pytest
import torch

from hf_mmalign import (
    BertWmaConfig,
    BertWmaForSequenceClassification,
    ViltWmaConfig,
    ViltWmaForSequenceClassification,
    evaluate_robustness,
)
from hf_mmalign import evaluate_robustness as public_evaluate_robustness
from hf_mmalign.perturbation.modalities import MissingModality, ModalityNoise, perturbed

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
COUNT = 6


def vilt():
    torch.manual_seed(0)
    config = ViltWmaConfig(
        **SIZES,
        num_labels=2,
        image_size=16,
        patch_size=8,
        vocab_size=200,
        feature_sizes={"audio": 3},
        problem_type="single_label_classification",
        initializer_range=0.3,
    )
    return ViltWmaForSequenceClassification(config).eval()


def bert():
    torch.manual_seed(0)
    config = BertWmaConfig(
        **SIZES,
        num_labels=2,
        vocab_size=200,
        feature_sizes={"audio": 3, "image": 4},
        problem_type="single_label_classification",
        initializer_range=0.3,
    )
    return BertWmaForSequenceClassification(config).eval()


def rows(model):
    """Samples as dicts of tensors, texts and audio of different lengths."""
    generator = torch.Generator().manual_seed(1)
    samples = []
    for index in range(COUNT):
        words = torch.randint(110, 200, (3 + index % 3,), generator=generator)
        sample = {"text": torch.cat([torch.tensor([101]), words, torch.tensor([102])]), "label": index % 2}
        sample["audio"] = torch.randn(2 + index % 4, 3, generator=generator)
        if "image" in model.config.feature_sizes:
            sample["image"] = torch.randn(4, 4, generator=generator)
        else:
            sample["image"] = torch.randn(3, 16, 16, generator=generator)
        samples.append(sample)
    return samples


def collate(samples):
    def pad(name):
        return torch.nn.utils.rnn.pad_sequence([sample[name] for sample in samples], batch_first=True)

    def mask(name):
        ones = [torch.ones(len(sample[name]), dtype=torch.long) for sample in samples]
        return torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)

    batch = {"input_ids": pad("text"), "attention_mask": mask("text")}
    batch["features"], batch["feature_mask"] = {"audio": pad("audio")}, {"audio": mask("audio")}
    if samples[0]["image"].dim() == 3:
        batch["pixel_values"] = torch.stack([sample["image"] for sample in samples])
        batch["pixel_mask"] = torch.ones(len(samples), 16, 16, dtype=torch.long)
    else:
        batch["features"]["image"], batch["feature_mask"]["image"] = pad("image"), mask("image")
    batch["labels"] = torch.tensor([sample["label"] for sample in samples])
    return batch


def without(batch, modality):
    """The batch as it would be had no sample this modality."""
    batch = {key: dict(value) if isinstance(value, dict) else value for key, value in batch.items()}
    if modality in batch["features"]:
        batch["feature_mask"][modality] = torch.zeros_like(batch["feature_mask"][modality])
    else:
        key = {"text": "attention_mask", "image": "pixel_mask"}[modality]
        batch[key] = torch.zeros_like(batch[key])
    return batch


@pytest.mark.parametrize("make", [vilt, bert])
@pytest.mark.parametrize("modality", ["text", "image", "audio"])
def test_a_masked_modality_is_one_the_samples_never_had(make, modality):
    model = make()
    batch = collate(rows(model))
    with torch.no_grad():
        expected = model(**without(batch, modality)).logits
        with perturbed(model, MissingModality(modality, mode="mask")):
            masked = model(**batch).logits
    torch.testing.assert_close(masked, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("make", [vilt, bert])
@pytest.mark.parametrize("modality", ["text", "image", "audio"])
def test_noise_and_zeros_reach_the_prediction(make, modality):
    model = make()
    batch = collate(rows(model))
    with torch.no_grad():
        clean = model(**batch).logits
        for hook in (ModalityNoise(modality, range(COUNT)), MissingModality(modality)):
            with perturbed(model, hook):
                assert (model(**batch).logits - clean).abs().max() > 1e-3


@pytest.mark.parametrize("make", [vilt, bert])
def test_robustness_does_not_depend_on_batch_size(make):
    model = make()
    samples = rows(model)

    def logits_kept(prediction):
        return {f"logit_{i}": float(value) for i, value in enumerate(prediction.predictions[:, 0])}

    one, many = (
        evaluate_robustness(
            model,
            samples,
            data_collator=collate,
            compute_metrics=logits_kept,
            missing_ratios=(0.5,),
            seeds=(0, 1),
            batch_size=batch_size,
            progress=False,
        )
        for batch_size in (1, COUNT)
    )
    assert set(one.scores) == set(many.scores)
    for condition, scores in one.scores.items():
        for name, score in scores.items():
            assert many.scores[condition][name].values == pytest.approx(score.values, abs=1e-4), (condition, name)


def test_the_public_name_is_the_function():
    assert public_evaluate_robustness is evaluate_robustness
