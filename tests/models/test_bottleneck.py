"""CAL's information bottleneck in a late-fusion model."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close

from hf_mmalign import FusionConfig, FusionForSequenceClassification
from hf_mmalign.losses.contribution import log_likelihood
from hf_mmalign.losses.information_bottleneck import VARIANTS, asymmetric_bottleneck_loss, contribution_ratios
from hf_mmalign.models.fusion.bottleneck import linear_reading
from tests.families import WIDTHS, build
from tests.tiny import feature_batch
from tests.trainer.training import build_fusion, build_trainer, weights

SIZES = {"vision": [3] * 12, "audio": [2, 0, 3, 1] * 3}
LABELS = {
    "single_label_classification": torch.arange(12) % 3,
    "multi_label_classification": (torch.arange(36).view(12, 3) % 2).float(),
    "regression": torch.linspace(-1, 1, 12),
}


def model_and_batch(**fields):
    torch.manual_seed(0)
    defaults = {"feature_sizes": WIDTHS, "hidden_size": 8, "num_labels": 3, "dropout": 0.0, "aib_weight": 0.1}
    model = FusionForSequenceClassification(FusionConfig(**defaults | {"bottleneck_size": 2} | fields))
    return model, feature_batch(SIZES, WIDTHS)


def test_the_loss_is_that_of_the_vectors_their_compression_and_the_fused_one():
    model, batch = model_and_batch(num_head_layers=0, compression_lambda=3.0)
    model.set_contributions({"vision": 0.8, "audio": 0.2})
    labels = LABELS["single_label_classification"]
    output = model.eval()(**batch, labels=labels, output_modality_features=True, output_hidden_states=True)
    vectors = output.modality_features
    compressed = {name: model.bottleneck.compressors[name](vector) for name, vector in vectors.items()}
    present = {name: batch["feature_mask"][name].any(dim=1) for name in vectors}

    def mean(vectors):
        return log_likelihood(model.logits_from(vectors), labels, "single_label_classification").mean()

    phi, phi_compressed = [], []
    for name, vector in vectors.items():
        design = torch.cat([compressed[name], torch.ones(12, 1)], dim=1)[present[name]]
        read = torch.zeros_like(vector)
        read[present[name]] = design @ torch.linalg.lstsq(design, vector[present[name]]).solution
        without = mean(vectors | {name: torch.zeros_like(vector)})
        phi.append(mean(vectors) - without)
        phi_compressed.append(mean(vectors | {name: read}) - without)
    ratios = contribution_ratios(torch.stack(phi), torch.stack(phi_compressed))
    betas = torch.tensor([-2.4, -0.6]).exp()
    expected = asymmetric_bottleneck_loss(
        list(compressed.values()), list(vectors.values()), output.hidden_states[-1], betas, ratios,
        torch.stack(list(present.values())),
    )  # fmt: skip
    assert_close(output.losses["aib"], expected, rtol=1e-2, atol=1e-4)  # the ridge
    assert_close(output.loss, output.losses["task"] + 0.1 * output.losses["aib"])


def test_the_best_affine_reading():
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(50, 4, generator=generator), torch.randn(50, 6, generator=generator)
    x = z @ torch.randn(4, 6, generator=generator) + 3 + noise
    present = torch.arange(50) % 5 != 0
    design = torch.cat([z, torch.ones(50, 1)], dim=1)[present]
    expected = torch.zeros_like(x)
    expected[present] = design @ torch.linalg.lstsq(design, x[present]).solution
    assert_close(linear_reading(z, x, present).float(), expected, atol=1e-3, rtol=1e-3)
    assert torch.isfinite(linear_reading(z, x, torch.zeros(50, dtype=torch.bool))).all()
    assert torch.isfinite(linear_reading(z * torch.nan, x, present)).all()


@pytest.mark.parametrize("problem_type", LABELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_and_task_trains_encoders_and_bottleneck(problem_type, variant):
    labels = 1 if problem_type == "regression" else 3
    model, batch = model_and_batch(problem_type=problem_type, num_labels=labels, aib_variant=variant)
    model.train()(**batch, labels=LABELS[problem_type]).losses["aib"].backward()
    for part in (model.encoders, model.bottleneck.compressors):
        for name in ("vision", "audio"):
            gradients = [parameter.grad for parameter in part[name].parameters()]
            assert all(torch.isfinite(gradient).all() for gradient in gradients)
            # In "mx" the features are no part of what is measured but through Z.
            assert any(gradient.abs().max() > 0 for gradient in gradients)
    # The fused vector is the target, which does not move.
    assert all(parameter.grad is None for parameter in model.head_layers.parameters())


def test_a_small_batch_or_a_missing_modality_gives_a_finite_loss():
    model, batch = model_and_batch(bottleneck_size=16)
    labels = LABELS["single_label_classification"]
    for rows in (1, 2, 3):
        part = {key: {name: value[:rows] for name, value in values.items()} for key, values in batch.items()}
        output = model(**part, labels=labels[:rows])
        output.loss.backward()
        assert torch.isfinite(output.losses["aib"])
    only = {"features": {"vision": batch["features"]["vision"]}}
    assert torch.isfinite(model(**only, labels=labels).losses["aib"])
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_predictions_need_no_bottleneck(tmp_path):
    model, batch = model_and_batch()
    plain, _ = model_and_batch(aib_weight=0.0)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("bottleneck.")})
    assert_close(plain.eval()(**batch).logits, model.eval()(**batch).logits)
    assert "aib" not in plain(**batch, labels=LABELS["single_label_classification"]).losses
    # A checkpoint without one gets one that begins with equal coefficients.
    plain.save_pretrained(tmp_path)
    loaded = FusionForSequenceClassification.from_pretrained(tmp_path, aib_weight=0.1, bottleneck_size=2)
    assert loaded.bottleneck.coefficients.tolist() == [0.5, 0.5]


def test_coefficients_are_saved():
    model, _ = model_and_batch()
    betas = model.set_contributions({"audio": 0.75, "vision": 0.25})
    assert betas == pytest.approx({"beta_audio": 0.2231302, "beta_vision": 0.6065307})
    assert model.state_dict()["bottleneck.coefficients"].tolist() == [0.25, 0.75]
    plain, _ = model_and_batch(aib_weight=0.0)
    assert plain.set_contributions({"audio": 0.75, "vision": 0.25}) == {}


def test_in_training_it_follows_the_modulation(tmp_path):
    model = build_fusion(aib_weight=0.1, bottleneck_size=2)
    before = weights(model)
    settings = {"gradient_modulation": "cal", "modulation_update_steps": 1, "optim": "sgd", "max_steps": 4}
    settings |= {"contribution_variant": "phi_plus_potential", "save_strategy": "steps", "save_steps": 2, "bf16": True}
    trainer = build_trainer(tmp_path, model, **settings)
    trainer.train()
    entry = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    coefficients = torch.tensor([entry[f"coefficient_{name}"] for name in model.config.modalities])
    assert_close(model.bottleneck.coefficients, coefficients)
    betas = torch.tensor([entry[f"beta_{name}"] for name in model.config.modalities])
    assert_close(betas, (-2 * coefficients).exp())
    assert coefficients[0] != 0.5
    assert entry["loss"] == pytest.approx(entry["loss_task"] + 0.1 * entry["loss_aib"], rel=1e-3)
    assert all((value != before[name]).any() for name, value in weights(model).items())
    resumed = build_trainer(tmp_path / "b", build_fusion(aib_weight=0.1, bottleneck_size=2), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_close(weights(resumed.model), weights(model), atol=1e-6, rtol=1e-5)


def test_an_adapter_saves_it():
    model = build("fusion with encoders", aib_weight=0.1)[0]
    adapted = get_peft_model(
        model, LoraConfig(r=2, target_modules=model.lora_targets, modules_to_save=model.modules_outside_backbone)
    )
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any("bottleneck" in name and "compressors.text" in name for name in trained)
    _, batch, labels = build("fusion with encoders")
    adapted(**batch, labels=labels).loss.backward()
    assert adapted.get_base_model().set_contributions(dict.fromkeys(model.config.modalities, 0.25)).keys() == {
        f"beta_{name}" for name in model.config.modalities
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"aib_weight": -0.1}, "aib_weight is -0.1"),
        ({"bottleneck_size": 0}, "bottleneck_size is 0"),
        ({"compression_lambda": 0.0}, "compression_lambda is 0.0"),
        ({"aib_weight": float("nan")}, "aib_weight is nan"),
    ],
)
def test_fields_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        FusionConfig(feature_sizes=WIDTHS, **fields)
