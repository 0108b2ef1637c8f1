import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import AutoModelForSequenceClassification

from hf_mmalign import FusionConfig, FusionForSequenceClassification, evaluate_robustness
from tests.tiny import feature_batch, rows_of

WIDTHS = {"text": 6, "vision": 4, "audio": 3}
LENGTHS = {"text": [5, 4, 0, 3], "vision": [7, 3, 2, 6], "audio": [4, 0, 3, 1]}
LABELS = torch.tensor([0, 2, 1, 0])
LINEAR = {"encoder": "none", "num_head_layers": 0, "dropout": 0.0}


def build(**fields) -> FusionForSequenceClassification:
    torch.manual_seed(0)
    return FusionForSequenceClassification(
        FusionConfig(**{"feature_sizes": WIDTHS, "hidden_size": 16, "num_labels": 3} | fields)
    )


def make_batch(**lengths) -> dict:
    return feature_batch(LENGTHS | lengths, WIDTHS, torch.Generator().manual_seed(1))


def means(batch: dict, encode=lambda name, steps: steps) -> np.ndarray:
    """Sample by sample, the concatenated means of each modality's valid steps."""
    rows = []
    for row in range(len(LABELS)):
        vectors = []
        for name in WIDTHS:
            steps = encode(name, batch["features"][name][row, : int(batch["feature_mask"][name][row].sum())])
            vectors.append(steps.mean(dim=0) if len(steps) else torch.zeros(steps.shape[1]))
        rows.append(torch.cat(vectors))
    return torch.stack(rows)


def test_equals_plain_torch():
    model, batch = build(num_head_layers=2, head_hidden_size=10).eval(), make_batch()
    encoders = {name: nn.Sequential(nn.Linear(width, 16), nn.ReLU()) for name, width in WIDTHS.items()}
    head = nn.Sequential(nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 10), nn.ReLU(), nn.Linear(10, 3))
    with torch.no_grad():
        reference = [p for name in WIDTHS for p in encoders[name].parameters()] + list(head.parameters())
        for mine, theirs in zip(model.parameters(), reference, strict=True):
            theirs.copy_(mine)
    logits = head(means(batch, lambda name, steps: encoders[name](steps)))
    output = model(**batch, labels=LABELS)
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.loss, nn.functional.cross_entropy(logits, LABELS))
    assert output.losses.keys() == {"task"}


def test_the_linear_case_is_logistic_regression():
    model, batch = build(**LINEAR).double().eval(), make_batch()
    inputs = means(batch).double().numpy()
    reference = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(inputs, LABELS.numpy())
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(reference.coef_))
        model.classifier.bias.copy_(torch.from_numpy(reference.intercept_))
    output = model(**batch, labels=LABELS)
    np.testing.assert_allclose(output.logits.detach(), reference.decision_function(inputs), atol=1e-6)
    # scikit-learn's optimum is one of our loss with its L2 penalty, 1/(2 C N) of the squared weights.
    objective = output.loss + model.classifier.weight.square().sum() / (2 * 0.5 * len(LABELS))
    gradients = torch.autograd.grad(objective, model.classifier.parameters())
    assert max(gradient.abs().max() for gradient in gradients) < 1e-5


def test_a_whole_batch_without_a_modality_is_a_modality_of_zeros():
    model, batch = build().eval(), make_batch(audio=[0] * 4)
    without = {key: {name: value for name, value in batch[key].items() if name != "audio"} for key in batch}
    output = model(**without, output_modality_features=True)
    torch.testing.assert_close(model(**batch).logits, output.logits)
    assert output.modality_features.keys() == {"text", "vision"}
    assert not output.modality_features["text"][2].any()


def test_padding_and_the_other_samples_do_not_matter():
    model, batch = build().eval(), make_batch()
    expected = model(**batch).logits
    for row in range(len(LABELS)):
        alone = {"features": {}, "feature_mask": {}}
        for name, lengths in LENGTHS.items():
            if lengths[row]:
                alone["features"][name] = batch["features"][name][row : row + 1, : lengths[row]]
        torch.testing.assert_close(model(**alone).logits[0], expected[row])
    for name, mask in batch["feature_mask"].items():
        batch["features"][name][mask == 0] = 100.0
    torch.testing.assert_close(model(**batch).logits, expected)


@pytest.mark.parametrize("fields", [{}, {"num_head_layers": 0}, LINEAR, {"feature_sizes": {"vision": 4}}])
def test_every_parameter_changes_in_one_step(fields):
    model = build(**fields)
    batch = {key: {n: v for n, v in part.items() if n in model.config.modalities} for key, part in make_batch().items()}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    model(**batch, labels=LABELS).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [
        (1, torch.tensor([0.5, -1.0, 2.0, 0.0]), "regression"),
        (3, torch.eye(4)[:, :3], "multi_label_classification"),
    ],
)
def test_other_problem_types(num_labels, labels, problem_type):
    model = build(num_labels=num_labels)
    assert torch.isfinite(model(**make_batch(), labels=labels).loss)
    assert model.config.problem_type == problem_type


@pytest.mark.parametrize("fields", [{}, LINEAR])
def test_auto_class_reloads_the_same_model(tmp_path, fields):
    model, batch = build(**fields).eval(), make_batch()
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert isinstance(again, FusionForSequenceClassification)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)


def test_modality_parameters():
    model = build()
    assert list(model.modality_parameters("vision")) == list(model.encoders["vision"].parameters())
    assert list(build(**LINEAR).modality_parameters("vision")) == []
    with pytest.raises(ValueError, match="not 'smell'"):
        model.modality_parameters("smell")


def test_lora_on_the_encoders_trains_the_head_whole():
    model = build()
    lora = LoraConfig(r=2, target_modules=list(WIDTHS), modules_to_save=model.modules_outside_backbone)
    adapted = get_peft_model(model, lora)
    trainable = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert sum("lora_" in name for name in trainable) == 6
    assert sum("modules_to_save" in name for name in trainable) == len(trainable) - 6 == 4
    adapted(**make_batch(), labels=LABELS).loss.backward()
    merged = adapted.merge_and_unload()
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in build().named_parameters()}


@pytest.mark.parametrize("fields", [{}, LINEAR])
def test_robustness_evaluation_removes_what_it_says(fields):
    model, batch = build(**fields, problem_type="single_label_classification").eval(), make_batch()
    report = evaluate_robustness(
        model,
        range(4),
        data_collator=lambda rows: rows_of(batch, list(rows)) | {"labels": LABELS[list(rows)]},
        compute_metrics=lambda p: {f"logit{i}": float(p.predictions[i, 0]) for i in range(4)},
        missing_ratio=1.0,
        seeds=(0,),
        progress=False,
    )
    scores = {condition.label(with_level=False): scores for condition, scores in report.scores.items()}
    for name in WIDTHS:
        masks = batch["feature_mask"]
        without = {"features": batch["features"], "feature_mask": masks | {name: torch.zeros_like(masks[name])}}
        expected = model(**without).logits[:, 0].tolist()
        missing = [scores[f"{name} missing"][f"logit{row}"].mean for row in range(4)]
        assert missing == pytest.approx(expected, abs=1e-5)
        assert scores[f"{name} noise"]["logit0"].mean != scores["clean"]["logit0"].mean


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modalities": ["text", "smell"]}, "modalities has 'smell'.*feature sequences only"),
        ({"num_head_layers": -1}, "num_head_layers is -1"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"feature_sizes": {}}, "feature_sizes is empty"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        build(**fields)


def test_bad_inputs_are_refused():
    with pytest.raises(ValueError, match="features has 'smell'"):
        build()(features={"smell": torch.zeros(2, 3, 4)})
    with pytest.raises(ValueError, match=r"asks for \(B, T, 4\)"):
        build()(features={"vision": torch.zeros(2, 3, 5)})
    with pytest.raises(ValueError, match="holds none of the modalities"):
        build()()
