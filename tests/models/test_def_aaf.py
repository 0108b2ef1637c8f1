"""DEF + AAF as a fusion: class condition, codes, gate, and what reaches a prediction."""

import pytest
import torch
from torch.testing import assert_close

from hf_mmalign import FusionConfig, FusionForSequenceClassification
from tests.families import build

ALL = {"gate_entropy_weight": 0.1}


def test_every_parameter_learns_and_every_term_is_weighed():
    model, batch, labels = build("fusion with def_aaf", class_dropout=0.5, **ALL)
    torch.manual_seed(1)
    output = model.train()(**batch, labels=labels)
    assert set(output.losses) == {
        "task", "homologous", "intra_reconstruction", "cross_reconstruction", "contrastive", "class_posterior",
        "gate_entropy",
    }  # fmt: skip
    terms = {name: value.item() for name, value in output.losses.items()}
    expected = terms["task"] + terms["homologous"] + 0.5 * terms["intra_reconstruction"] + terms["class_posterior"]
    expected += 0.5 * terms["cross_reconstruction"] + 0.6 * terms["contrastive"] + 0.1 * terms["gate_entropy"]
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    output.loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == ["fuser.condition.unknown"]  # the posterior stands for it


def test_no_label_reaches_a_prediction():
    """Changed or removed at evaluation, labels change no logit; in training they do."""
    model, batch, labels = build("fusion with def_aaf")
    model.eval()
    logits = model(**batch).logits
    for given in (labels, (labels + 1) % 3):
        assert_close(model(**batch, labels=given).logits, logits, atol=0, rtol=0)
    model.train()
    assert not torch.allclose(model(**batch, labels=labels).logits, model(**batch, labels=(labels + 1) % 3).logits)
    # Withheld from every sample, training sees what evaluation sees.
    model, _, _ = build("fusion with def_aaf", class_dropout=1.0)
    assert_close(model.train()(**batch, labels=labels).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize("posterior", [True, False])
def test_the_class_condition(posterior):
    model, batch, labels = build("fusion with def_aaf", class_posterior=posterior)
    condition = model.fuser.condition
    with torch.no_grad():
        condition.unknown.fill_(0.5)
    pooled = torch.randn(4, 8)
    classes = torch.tensor([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0, 0], [0, 0, 1]])
    told, logits = condition.train()(pooled, classes)
    table = condition.embedding.weight
    if posterior:
        unknown = logits.softmax(dim=1) @ table
        assert_close(logits, condition.posterior(pooled))
    else:
        unknown = torch.full((4, 8), 0.5)
        assert logits is None
    assert_close(told, torch.stack([table[0], (table[1] + table[2]) / 2, unknown[2], table[2]]))
    assert_close(condition.eval()(pooled, classes)[0], unknown)
    assert ("class_posterior" in model(**batch, labels=labels).losses) == posterior


def test_regression_has_one_embedding_for_all():
    model, batch, _ = build("fusion with def_aaf", num_labels=1)
    assert model.fuser.condition.embedding is None
    output = model.train()(**batch, labels=torch.randn(4))
    assert "class_posterior" not in output.losses
    output.loss.backward()
    assert model.fuser.condition.unknown.grad.abs().sum() > 0


def test_fused_is_the_weighted_sum_of_the_codes():
    model, batch, _ = build("fusion with def_aaf")
    model.eval()
    output = model(**batch, output_modality_features=True, output_hidden_states=True)
    fuser, vectors = model.fuser, output.modality_features
    projected = {name: fuser.autoencoder.project[name](vector) for name, vector in vectors.items()}
    codes, scores = {}, {}
    alone = torch.tensor([False, True, False, False])  # the second sample has no audio
    pooled = torch.where(alone.unsqueeze(1), projected["vision"], (projected["vision"] + projected["audio"]) / 2)
    condition = fuser.condition.posterior(pooled).softmax(dim=1) @ fuser.condition.embedding.weight
    for name, one in projected.items():
        codes[name] = fuser.autoencoder.encoders["shared"](torch.cat([one, condition], dim=1))
        scores[name] = fuser.gate.score(codes[name]).squeeze(1).exp()
    scores["audio"] = scores["audio"].masked_fill(alone, 0)
    weight = scores["vision"] / (scores["vision"] + scores["audio"])
    assert_close(output.gate_weights["vision"], weight)
    assert_close(output.gate_weights["audio"], 1 - weight)
    assert output.gate_weights["audio"][1] == 0
    expected = weight.unsqueeze(1) * codes["vision"] + (1 - weight).unsqueeze(1) * codes["audio"]
    assert_close(output.hidden_states[0], expected)


def test_floor_and_uniform_gate():
    model, batch, _ = build("fusion with def_aaf", gate_floor=0.4)
    with torch.no_grad():
        model.fuser.gate.score[2].weight.mul_(1e3)
    weights = model.eval()(**batch).gate_weights
    assert_close(weights["vision"] + weights["audio"], torch.ones(4))
    assert weights["audio"][[0, 2, 3]].min() >= 0.4 - 1e-6
    assert_close(weights["vision"][1], torch.tensor(1.0))
    model, batch, _ = build("fusion with def_aaf", gate="uniform")
    weights = model.eval()(**batch).gate_weights
    assert weights["audio"].tolist() == [0.5, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("fields", [{"shared_autoencoder": False}, {"early_fusion": True}, {"gate": "uniform"}])
def test_ablations_save_and_learn(fields, tmp_path):
    model, batch, labels = build("fusion with def_aaf", **fields)
    output = model.train()(**batch, labels=labels)
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if "early_fusion" in fields:
        assert output.gate_weights is None
        assert output.losses["homologous"] == output.losses["cross_reconstruction"] == output.losses["contrastive"] == 0
    model.eval().save_pretrained(tmp_path)
    again = FusionForSequenceClassification.from_pretrained(tmp_path).eval()
    assert_close(again(**batch).logits, model(**batch).logits)


def test_reconstruction_does_not_pull_at_its_target():
    """Else encoders would shrink what has to be reconstructed."""
    model, batch, labels = build("fusion with def_aaf", encoder="mlp", homologous_weight=0.0, contrastive_weight=0.0)
    with torch.no_grad():
        for parameter in model.fuser.autoencoder.project.parameters():
            parameter.zero_()
    loss = model.train()(**batch, labels=labels).losses["intra_reconstruction"]
    gradients = torch.autograd.grad(loss, list(model.encoders.parameters()), allow_unused=True)
    assert all(gradient is None or gradient.abs().max() == 0 for gradient in gradients)


def test_one_modality_has_no_critic():
    model, _, _ = build("fusion with def_aaf", feature_sizes={"vision": 4})
    assert len(model.build_critics()) == 0
    model, _, _ = build("fusion with def_aaf")
    assert len(model.build_critics()) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gate_floor": 0.6}, r"gate_floor is 0.6; of 2 modalities it lies in \[0, 0.5\]"),
        ({"class_dropout": 1.5}, "class_dropout is 1.5"),
        ({"homologous_weight": -1}, "homologous_weight is -1"),
        ({"contrastive_temperature": 0}, "contrastive_temperature is 0"),
    ],
)
def test_values_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        FusionConfig(feature_sizes={"audio": 3, "vision": 2}, fusion="def_aaf", **fields)
