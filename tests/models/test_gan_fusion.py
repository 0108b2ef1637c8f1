"""GAN-Fusion as a fusion of the classification model; its training against critics is in
tests/trainer/test_adversary.py."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from hf_mmalign import FusionConfig, FusionForSequenceClassification, FusionSeq2SeqConfig
from tests.families import WIDTHS, build
from tests.models.translation import TEXT_CONFIGS
from tests.tiny import feature_batch

THREE = {"text": 5} | WIDTHS


def gan(**fields):
    return build("fusion with gan", **fields)


def three():
    model, _, labels = gan(feature_sizes=THREE)
    return model, feature_batch({"text": [3, 4, 2, 0], "vision": [6, 3, 4, 5], "audio": [2, 0, 3, 0]}, THREE), labels


def test_networks_have_the_shapes_of_the_paper():
    model, _, _ = three()
    linear = lambda module: [tuple(w.shape) for w in module.parameters() if w.dim() == 2]  # noqa: E731
    assert linear(model.fuser.generators["text"]) == [(16, 8), (16, 16), (8, 16)]
    assert linear(model.fuser.complements["text"].compress) == [(8, 16), (8, 8)]
    assert linear(model.build_critics()["audio"]) == [(8, 8), (8, 8), (1, 8)]
    assert list(model.build_critics()) == list(model.fuser.generators) == ["text", "vision", "audio"]


@pytest.mark.parametrize("build_one", [gan, three])
def test_the_fused_vector_is_made_of_what_is_generated(build_one):
    model, batch, _ = build_one()
    model.eval()
    output = model(**batch, output_modality_features=True, output_hidden_states=True)
    fuser, made = model.fuser, []
    for name, vector in output.modality_features.items():
        missing = (vector == 0).all(dim=1, keepdim=True)
        made.append(fuser.generators[name](fuser.project[name](vector)).masked_fill(missing, 0))
    assert_close(output.hidden_states[0], F.leaky_relu(fuser.combine[0](torch.cat(made, dim=1)), 0.2))


def test_the_generator_s_loss_is_asked_of_the_critics_in_training_only():
    model, batch, labels = three()
    critics = model.build_critics()
    assert set(model.train()(**batch, labels=labels).losses) == {"task", "reconstruction"}  # nobody has attached any
    model.attach_critics(critics.requires_grad_(False))
    output = model(**batch, labels=labels)
    assert set(output.losses) == {"task", "reconstruction", "generator_text", "generator_vision", "generator_audio"}
    counts = {"text": 3, "vision": 3, "audio": 2}  # the fourth sample has nothing beside its vision
    for name, count in counts.items():
        critic, real, fake, counted = output.critic_inputs[f"generator_{name}"]
        assert critic == name
        assert real.shape == fake.shape == (4, 8)
        assert counted.sum() == count
        assert not real.requires_grad
        assert not fake.requires_grad
        assert_close(
            output.losses[f"generator_{name}"],
            critics[name].generator_losses(real, fake, counted)[counted].mean(),
            rtol=1e-4,
            atol=1e-5,
        )
    expected = sum(output.losses.values())
    assert_close(output.loss, expected)
    (gradient,) = torch.autograd.grad(
        output.losses["generator_text"], [model.fuser.generators["text"][0].weight], retain_graph=True
    )
    assert gradient.abs().sum() > 0
    others = torch.autograd.grad(
        output.losses["generator_text"], list(model.fuser.generators["audio"].parameters()), allow_unused=True
    )
    assert all(gradient is None for gradient in others)
    assert all(parameter.grad is None for parameter in critics.parameters())
    output = model.eval()(**batch, labels=labels)
    assert output.critic_inputs is None
    assert set(output.losses) == {"task", "reconstruction"}


def test_critics_are_no_part_of_the_model(tmp_path):
    model, batch, labels = gan()
    model.attach_critics(model.build_critics().requires_grad_(False))
    names = {name for name, _ in model.named_parameters()}
    assert not any("critic" in name for name in names)
    model.train()(**batch, labels=labels).loss.backward()
    model.eval().save_pretrained(tmp_path)
    again = FusionForSequenceClassification.from_pretrained(tmp_path).eval()
    assert_close(again(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("rows", [1, 2])
def test_batches_of_next_to_nothing_train(rows):
    """One sample, or one of two with a modality: there is nothing to normalise over."""
    model, batch, labels = gan()
    model.attach_critics(model.build_critics().requires_grad_(False))
    few = {key: {name: value[:rows] for name, value in values.items()} for key, values in batch.items()}
    output = model.train()(**few, labels=labels[:rows])
    assert output.loss.isfinite()
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_modality_that_the_batch_misses_keeps_its_terms():
    model, batch, labels = three()
    model.attach_critics(model.build_critics().requires_grad_(False))
    alone = {"features": {"vision": batch["features"]["vision"]}, "feature_mask": {}}
    output = model.train()(**alone, labels=labels)
    assert set(output.losses) == {"task", "reconstruction", "generator_text", "generator_vision", "generator_audio"}
    assert output.losses["generator_vision"] == 0  # there is nothing it could be like
    output.loss.backward()


def test_one_modality_is_refused():
    with pytest.raises(ValueError, match="fusion is 'gan', which needs two modalities"):
        FusionConfig(feature_sizes={"audio": 3}, fusion="gan")
    with pytest.raises(ValueError, match="fusion is 'gan', which needs two modalities"):
        FusionSeq2SeqConfig(text_config=TEXT_CONFIGS["marian"], fusion="gan")


@pytest.mark.parametrize("fusion", ["gan", "def_aaf"])
def test_on_another_fusion_s_checkpoint_it_begins_afresh(tmp_path, fusion):
    """Also what is no linear layer: statistics of norms, embeddings, parameters of a module's own."""
    plain, batch, _ = build("fusion")
    plain.save_pretrained(tmp_path)
    model, info = FusionForSequenceClassification.from_pretrained(
        tmp_path, fusion=fusion, latent_size=8, ignore_mismatched_sizes=True, output_loading_info=True
    )
    for name, tensor in model.state_dict().items():
        if name in info["missing_keys"] and name.endswith("running_var"):
            assert_close(tensor, torch.ones_like(tensor), atol=0, rtol=0)
        elif name in info["missing_keys"] and name.endswith(("running_mean", "num_batches_tracked", "unknown")):
            assert_close(tensor, torch.zeros_like(tensor), atol=0, rtol=0)
        elif name.startswith("fuser") and name.endswith("weight"):
            assert 0.05 < tensor.square().mean().sqrt() < 2, name
    assert model.eval()(**batch).logits.isfinite().all()


def test_against_critics_it_compiles_to_one_graph():
    model, batch, labels = gan(dropout=0.0)
    model.attach_critics(model.build_critics().requires_grad_(False))
    model.problem_type_of(labels)
    compiled = torch.compile(model.train(), backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = model(**batch, labels=labels)
    torch.manual_seed(0)
    found = compiled(**batch, labels=labels)
    assert_close(found.losses, expected.losses, rtol=1e-3, atol=1e-4)  # running statistics have moved on
    found.loss.backward()


def test_what_the_bottleneck_asks_of_it_changes_nothing():
    """CAL's bottleneck predicts from the fusion a few more times within a step."""
    (plain, batch, labels), states = gan(), []
    for model in (gan()[0], gan(aib_weight=0.1, bottleneck_size=2)[0]):
        model.load_state_dict(plain.state_dict(), strict=False)
        torch.manual_seed(3)
        model.train()(**batch, labels=labels).loss.backward()
        states.append({name: value for name, value in model.state_dict().items() if "running" in name})
        states[-1]["next number drawn"] = torch.rand(1)
    assert_close(states[1], states[0], atol=0, rtol=0)
