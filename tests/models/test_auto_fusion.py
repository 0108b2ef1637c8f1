"""Auto-Fusion as a fusion of the classification model: its shapes, its loss, and what a saved folder keeps."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hf_mmalign import FusionConfig, FusionForSequenceClassification
from hf_mmalign.models.fusion.fusions import AutoFusion
from tests.families import WIDTHS, build


def auto(**fields):
    model, batch, labels = build("fusion", **{"fusion": "auto", "latent_size": 5} | fields)
    return model.eval(), batch, labels


def test_layers_have_the_shapes_of_the_paper():
    """T: k → k/2 → latent, and back (methods of the paper, Eq. 1)."""
    model, _, _ = auto(encoder="none")
    whole = sum(WIDTHS.values())
    shapes = {name: tuple(weight.shape) for name, weight in model.fuser.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "compress.0.weight": (whole // 2, whole),
        "compress.1.weight": (5, whole // 2),
        "reconstruct.0.weight": (whole // 2, 5),
        "reconstruct.1.weight": (whole, whole // 2),
    }


def test_the_loss_is_the_mean_squared_error_of_the_reconstruction():
    model, batch, labels = auto(encoder="none", fusion_weight=3.0)
    output = model(**batch, labels=labels, output_modality_features=True)
    whole = torch.cat([output.modality_features[name] for name in WIDTHS], dim=1)
    compress, reconstruct = model.fuser.compress, model.fuser.reconstruct
    latent = F.relu(compress[1](torch.tanh(compress[0](whole))))
    assert_close(model(**batch, output_hidden_states=True).hidden_states[0], latent)
    expected = ((reconstruct[1](F.relu(reconstruct[0](latent))) - whole) ** 2).mean()
    assert_close(output.losses["reconstruction"], expected)
    assert_close(output.loss, output.losses["task"] + 3.0 * expected)


def test_the_reconstruction_does_not_move_its_target():
    """Else encoders lower it by saying nothing."""
    fusion = AutoFusion({"one": 3, "other": 2}, 4)
    vectors = {"one": torch.randn(6, 3, requires_grad=True), "other": torch.randn(6, 2, requires_grad=True)}
    found = torch.autograd.grad(fusion(vectors).losses["reconstruction"], list(vectors.values()))
    target = torch.cat(list(vectors.values()), dim=1).detach()
    latent = fusion(vectors).vector
    rebuilt = fusion.reconstruct[1](F.relu(fusion.reconstruct[0](latent)))
    expected = torch.autograd.grad(F.mse_loss(rebuilt, target), list(vectors.values()))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def test_every_layer_is_trained_and_a_missing_modality_counts_as_zeros():
    model, batch, labels = auto()
    model(**batch, labels=labels).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    alone = {"features": {"vision": batch["features"]["vision"]}}
    masked = batch["features"] | {"audio": torch.zeros(4, 1, WIDTHS["audio"])}
    blank = {"vision": torch.ones(4, 6), "audio": torch.zeros(4, 1)}
    assert_close(model(**alone).logits, model(features=masked, feature_mask=blank).logits)


def test_a_saved_model_comes_back_with_its_fusion(tmp_path):
    model, batch, _ = auto()
    model.save_pretrained(tmp_path)
    again = FusionForSequenceClassification.from_pretrained(tmp_path).eval()
    assert (again.config.fusion, again.config.latent_size) == ("auto", 5)
    assert_close(again(**batch).logits, model(**batch).logits)
    assert "fuser" in again.modules_outside_backbone


@pytest.mark.parametrize("fields", [{"latent_size": 0}, {"fusion_weight": -1.0}])
def test_values_that_cannot_be_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        FusionConfig(feature_sizes=WIDTHS, fusion="auto", **fields)
