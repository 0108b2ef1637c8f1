import pytest
import torch

from hf_mmalign import DecAlignConfig, DecAlignForSequenceClassification
from hf_mmalign.models.decalign.configuration_decalign import LOSS_TERMS
from tests.tiny import feature_batch

WIDTHS = {"text": 6, "vision": 4, "audio": 3, "motion": 2}
WEIGHTS = {"decouple": 0.7, "hete": 0.3, "homo": 0.2, "contrastive": 0.5, "polarity": 0.4}
PARTS = [part for parts in LOSS_TERMS.values() if len(parts) > 1 for part in parts]


def build(modalities: int = 3, **fields) -> DecAlignForSequenceClassification:
    torch.manual_seed(0)
    defaults = {
        "feature_sizes": dict(list(WIDTHS.items())[:modalities]),
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "num_labels": 1,
        "num_prototypes": 3,
        "decoupling_weight": WEIGHTS["decouple"],
        "decalign_alpha": WEIGHTS["hete"],
        "decalign_beta": WEIGHTS["homo"],
        "contrastive_weight": WEIGHTS["contrastive"],
        "polarity_weight": WEIGHTS["polarity"],
    }
    return DecAlignForSequenceClassification(DecAlignConfig(**defaults | fields))


def make_batch(modalities: int = 3) -> dict:
    torch.manual_seed(1)
    rows = [[5, 4, 0, 3, 5, 2, 1, 4], [7, 3, 2, 6, 1, 7, 4, 5], [4, 1, 3, 1, 2, 2, 0, 3], [1, 1, 2, 1, 3, 0, 1, 1]]
    widths = dict(list(WIDTHS.items())[:modalities])
    return feature_batch(dict(zip(widths, rows, strict=False)), widths)


LABELS = torch.tensor([-2.0, -1.9, 0.0, 0.1, 1.0, 1.2, 2.6, 2.5])


def weight_of(group: str) -> str:
    return {"decouple": "decoupling_weight", "hete": "decalign_alpha", "homo": "decalign_beta"}.get(
        group, f"{group}_weight"
    )


def gradients(model, modalities=3) -> dict[str, torch.Tensor]:
    """Of the total loss, without dropout; those of parameters that the model lacks or does not reach are zero."""
    model.zero_grad()
    model.eval()(**make_batch(modalities), labels=LABELS).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def ablated(full, **fields) -> DecAlignForSequenceClassification:
    """The same weights under another config."""
    model = build(**fields)
    missing, _ = model.load_state_dict(full.state_dict(), strict=False)
    assert missing == []
    return model


def assert_sum(total: dict, *parts: tuple[float, dict]) -> None:
    for name, value in total.items():
        expected = sum(sign * part[name] for sign, part in parts if name in part)
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_total_is_equation_13(modalities):
    output = build(modalities)(**make_batch(modalities), labels=LABELS)
    losses = output.losses
    assert losses.keys() == {"task", *WEIGHTS, *PARTS}
    torch.testing.assert_close(losses["hete"], losses["hete_transport"] + losses["hete_prototype"])
    torch.testing.assert_close(losses["homo"], losses["homo_semantic"] + losses["homo_mmd"])
    expected = losses["task"] + sum(weight * losses[name] for name, weight in WEIGHTS.items())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("group", LOSS_TERMS)
@pytest.mark.parametrize("how", ["disabled", "weight 0"])
def test_a_term_that_is_off_leaves_losses_and_gradient(group, how):
    full = build().eval()
    off = {"disabled_losses": [group]} if how == "disabled" else {weight_of(group): 0.0}
    without = ablated(full, **off)
    parts = {group, *LOSS_TERMS[group]}
    expected = full(**make_batch(), labels=LABELS)
    output = without.eval()(**make_batch(), labels=LABELS)
    assert output.losses.keys() == expected.losses.keys() - parts
    term = expected.losses[group]
    torch.testing.assert_close(output.loss, expected.loss - WEIGHTS[group] * term)
    named = dict(full.named_parameters())
    slopes = torch.autograd.grad(WEIGHTS[group] * term, list(named.values()), allow_unused=True)
    of_term = {name: slope for name, slope in zip(named, slopes, strict=True) if slope is not None}
    assert any(slope.abs().sum() > 0 for slope in of_term.values())
    assert_sum(gradients(full), (1, gradients(without)), (1, of_term))


@pytest.mark.parametrize("group", ["hete", "homo"])
def test_a_part_that_is_off_leaves_losses_and_gradient(group):
    full = build().eval()
    first, second = LOSS_TERMS[group]
    expected = full(**make_batch(), labels=LABELS).losses
    models = {}
    for part, other in ((first, second), (second, first)):
        models[part] = ablated(full, disabled_losses=[part])
        losses = models[part].eval()(**make_batch(), labels=LABELS).losses
        assert losses.keys() == expected.keys() - {part}
        torch.testing.assert_close(losses[group], expected[other])
    neither = ablated(full, disabled_losses=[first, second])
    assert group not in neither.eval()(**make_batch(), labels=LABELS).losses
    parts = [(1, gradients(models[first])), (1, gradients(models[second])), (-1, gradients(neither))]
    assert_sum(gradients(full), *parts)


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("problem", ["regression", "single_label_classification", "multi_label_classification"])
def test_one_step_changes_every_parameter(modalities, problem):
    labels = {
        "regression": LABELS,
        "single_label_classification": torch.arange(8) % 3,
        "multi_label_classification": (torch.arange(24).reshape(8, 3) % 2).float(),
    }[problem]
    model = build(modalities, num_labels=1 if problem == "regression" else 3, problem_type=problem).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(**make_batch(modalities), labels=labels).loss.backward()
    optimizer.step()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []


@pytest.mark.parametrize("fields", [{}, {"mixture_momentum": 0.9}, {"mixture_gradient": "all_steps"}])
def test_bf16_autocast_trains(fields):
    model = build(**fields).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    values = []
    for _ in range(15):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**make_batch(), labels=LABELS)
        assert all(value.dtype == torch.float32 for value in output.losses.values())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
        values.append(output.loss.item())
    assert values[-1] < values[0]


@pytest.mark.parametrize("modalities", [2, 3])
def test_all_samples_lack_one_modality(modalities):
    """In training and test, whether it is masked out or left out; what lies behind a mask does not matter."""
    batch = make_batch(modalities)
    batch["feature_mask"]["vision"].zero_()
    without = {key: {name: value for name, value in batch[key].items() if name != "vision"} for key in batch}
    batch["features"]["vision"].fill_(1e4)
    model = build(modalities).eval()
    masked, absent = (model(**inputs, labels=LABELS) for inputs in (batch, without))
    torch.testing.assert_close(masked.logits, absent.logits)
    for name, value in absent.losses.items():
        torch.testing.assert_close(masked.losses[name], value, msg=lambda text, name=name: f"{name}: {text}")
    if modalities == 2:
        assert masked.losses["hete"] == masked.losses["homo"] == 0
    model.train()(**batch, labels=LABELS).loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_what_is_padded_does_not_matter():
    batch, model = make_batch(), build().eval()
    expected = model(**batch, labels=LABELS)
    for name, mask in batch["feature_mask"].items():
        batch["features"][name][~mask.bool()] = 1e4
    output = model(**batch, labels=LABELS)
    torch.testing.assert_close(output.logits, expected.logits)
    for name, value in expected.losses.items():
        torch.testing.assert_close(output.losses[name], value, msg=lambda text, name=name: f"{name}: {text}")
