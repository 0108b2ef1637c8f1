"""What every model promises, whatever its family."""

import pytest
import torch
from torch.testing import assert_close

from hf_mmalign.models.modeling_base import MultimodalModelMixin
from hf_mmalign.perturbation.modalities import MissingModality
from tests.families import ALL, FAMILIES, build

VALUES = {"nan": torch.nan, "inf": torch.inf, "1e30": 1e30}


def with_garbage(batch: dict, value: float) -> dict:
    """The batch with `value` wherever a mask is 0, in texts an id that no vocabulary has."""
    batch = dict(batch)
    batch["features"] = {
        name: values.masked_fill(batch["feature_mask"][name].unsqueeze(-1) == 0, value)
        for name, values in batch["features"].items()
    }
    if "input_ids" in batch:
        padded = batch["attention_mask"] == 0
        batch["input_ids"] = batch["input_ids"].masked_fill(padded, -100)
        if "token_type_ids" in batch:
            batch["token_type_ids"] = batch["token_type_ids"].masked_fill(padded, 7)
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"].masked_fill(batch["pixel_mask"].unsqueeze(1) == 0, value)
    return batch


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("value", VALUES)
def test_what_lies_under_a_mask_of_0_is_never_looked_at(family, value):
    def step(batch):
        model, _, labels = build(family)
        output = model.train()(**batch, labels=labels, output_modality_features=True)
        output.loss.backward()
        results = {"logits": output.logits, **output.losses, **output.modality_features}
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        state = {name: tensor for name, tensor in model.state_dict().items() if name not in gradients}
        return results | gradients | state

    _, batch, _ = build(family)
    expected = step(batch)
    found = step(with_garbage(batch, VALUES[value]))
    assert all(torch.isfinite(tensor).all() for tensor in expected.values())
    assert_close(found, expected)


@pytest.mark.parametrize("family", ALL)
def test_what_libraries_pass_as_a_matter_of_course_is_accepted(family):
    model, batch, labels = build(family)
    expected = model.eval()(**batch, labels=labels)
    raw = {name: batch.get(name) for name in ("input_ids", "attention_mask", "token_type_ids", "pixel_values")}
    given = batch | raw | {"pixel_mask": batch.get("pixel_mask"), "inputs_embeds": None}
    output = model(**given, labels=labels, output_attentions=True, output_hidden_states=True, return_dict=True)
    assert_close(output.logits, expected.logits)
    assert_close(output.loss, expected.loss)
    plain = model(**given, labels=labels, output_attentions=False, output_hidden_states=False, return_dict=False)
    assert isinstance(plain, tuple)
    assert_close(plain[:2], (expected.loss, expected.logits))
    with pytest.raises(ValueError, match="takes no inputs_embeds"):
        model(**given | {"inputs_embeds": torch.zeros(4, 3, 32)})


@pytest.mark.parametrize("family", FAMILIES)
def test_going_on_from_embeddings_equals_a_whole_forward_pass(family):
    model, batch, labels = build(family)
    seen = []
    handle = model.eval().register_modality_hook(lambda embeddings: (seen.append(embeddings), embeddings)[1])
    logits = model(**batch).logits
    handle.remove()
    inputs = batch | {"labels": labels}
    assert_close(model.logits_of_embeddings(seen[0], inputs), logits)
    for name in model.config.modalities:
        kept = MissingModality(name, mode="mask")(seen[0])
        expected = MultimodalModelMixin.logits_of_embeddings(model, kept, inputs)  # what a model has without its own
        assert_close(model.logits_of_embeddings(kept, inputs), expected)
        assert (expected - logits).abs().max() > 1e-5
    assert not model._has_modality_hooks


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_lead_to_the_logits(family):
    model, batch, _ = build(family)
    assert model.eval()(**batch).hidden_states is None
    states = model(**batch, output_hidden_states=True).hidden_states
    model.config.output_hidden_states = True
    assert_close(model(**batch).hidden_states, states)
    assert all(torch.isfinite(state).all() for state in states)
    if family.startswith("fusion"):
        width = model.fuser.width
        assert [state.shape for state in states] == [(4, width), (4, 8)]
        assert_close(model.classifier(states[-1]), model(**batch).logits)
        return
    layers = model.config.num_hidden_layers
    lengths = {name: e.tokens.shape[1] for name, e in model.embed_modalities(**batch).items()}
    assert [state.shape for state in states] == [(4, sum(lengths.values()), model.config.hidden_size)] * (layers + 1)
    if family.startswith("decalign"):
        # The classifier reads the means of the last states in front of those of the common features.
        first = next(iter(lengths))
        mask = model.embed_modalities(**batch)[first].mask.unsqueeze(-1)
        mean = (states[-1][:, : lengths[first]] * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        fused = []
        model.classifier.register_forward_pre_hook(lambda module, inputs: fused.append(inputs[0]))
        model(**batch)
        assert_close(fused[0][:, :8], mean)


@pytest.mark.parametrize("family", ["decalign", "fusion"])
def test_raw_inputs_of_a_modality_it_does_not_take_are_refused(family):
    model, batch, _ = build(family)
    with pytest.raises(ValueError, match=r"pixel_values was given, but .* no raw image"):
        model(**batch, pixel_values=torch.zeros(4, 3, 8, 8))
    with pytest.raises(ValueError, match=r"input_ids was given, but .* no raw text"):
        model(**batch, input_ids=torch.ones(4, 3, dtype=torch.long))
