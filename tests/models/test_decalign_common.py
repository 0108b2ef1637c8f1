"""Alignment that DecAlign's head can use: the mean of the common features, and contrast across modalities."""

import pytest
import torch

from hf_mmalign.losses.contrastive import supervised_contrastive_loss
from hf_mmalign.perturbation.modalities import MissingModality, perturbed
from tests.models.test_decalign import LABELS, build, make_batch
from tests.tiny import rows_of


def decoupled_of(model, batch):
    return model._fuse(model.embed_modalities(**batch))[0]


def test_the_head_reads_the_mean_of_the_common_features_that_a_sample_has():
    model, batch = build(common_head="mean").eval(), make_batch()
    assert model.classifier.in_features == 4 * 16
    decoupled, fused = model._fuse(model.embed_modalities(**batch))
    for row in range(8):
        present = decoupled.present[:, row]
        torch.testing.assert_close(fused[row, 3 * 16 :], decoupled.pooled_common[present, row].mean(dim=0))
        alone = model(**rows_of(batch, [row])).logits[0]
        torch.testing.assert_close(model(**batch).logits[row], alone, atol=1e-5, rtol=1e-4)


def test_equal_common_features_stand_for_each_other():
    """With a modality missing, a head on their mean reads what it would have read; one on all of them does not."""
    for head, changes in (("mean", False), ("concat", True)):
        model, batch = build(common_head=head).eval(), make_batch(audio=(4, 1, 3, 1, 2, 2, 4, 3))
        rows = [0, 1, 3]  # which have all three
        embed = model.embed_modalities

        def alike(embed=embed, **inputs):
            embeddings = embed(**inputs)
            for one in embeddings.values():
                one.tokens[:] = one.tokens.new_ones(16) * one.mask.unsqueeze(-1)
            return embeddings

        model.embed_modalities = alike
        width = 16 * (1 if head == "mean" else 3)
        read = model._fuse(alike(**batch))[1][rows, -width:]
        without = model._fuse(MissingModality("audio", mode="mask")(alike(**batch)))[1][rows, -width:]
        assert (not torch.allclose(read, without, atol=1e-6)) == changes


def test_contrast_on_the_common_features_of_all_modalities():
    model, batch = build(contrastive_features="common", contrastive_weight=0.1, latent_size=0), make_batch()
    losses = model(**batch, labels=LABELS).losses
    decoupled, bins = decoupled_of(model.eval(), batch), LABELS.round().tolist()
    rows = [(m, row) for m in range(3) for row in range(8) if decoupled.present[m, row]]
    features = torch.stack([decoupled.pooled_common[m, row] for m, row in rows])
    positives = torch.tensor([[bins[i] == bins[j] for _, j in rows] for _, i in rows])
    expected = supervised_contrastive_loss(features, positives, 0.1)
    model.eval()
    torch.testing.assert_close(model(**batch, labels=LABELS).losses["contrastive"], expected)
    losses["contrastive"].backward()
    # Through the common encoder, and into nothing that only the head reads.
    assert model.common_encoder.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in model.unique_encoders.parameters())


@pytest.mark.parametrize("fields", [{"common_head": "mean"}, {"contrastive_features": "common", "common_head": "mean"}])
def test_whatever_is_missing_training_stays_finite(fields, tmp_path):
    model, batch = build(**fields), make_batch(audio=[0] * 8)
    output = model(**batch, labels=LABELS)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with perturbed(model, *(MissingModality(name, mode="mask") for name in ("text", "vision", "audio"))):
        assert torch.isfinite(model(**make_batch(), labels=LABELS).loss)
    model.eval().save_pretrained(tmp_path)
    torch.testing.assert_close(type(model).from_pretrained(tmp_path)(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("fields", [{"common_head": "sum"}, {"contrastive_features": "unique"}])
def test_unknown_choices_are_refused(fields):
    with pytest.raises(Exception, match=next(iter(fields))):
        build(**fields)
