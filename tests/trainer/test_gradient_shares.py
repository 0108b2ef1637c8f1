"""The instrument that says which loss components act."""

import logging

import pytest
import torch

from hf_mmalign import MultimodalTrainingArguments
from tests.families import FAMILIES, build
from tests.trainer.test_trainer import assert_same_weights, train_log
from tests.trainer.training import build_fusion, build_model, build_trainer, weights

HEADS = {"unimodal_heads": True, "unimodal_weight": 0.5, "dropout": 0.0}


def test_shares_are_those_of_each_component_s_gradient(tmp_path):
    """Against gradients taken one by one, on the batch of the first step."""
    model = build_fusion(**HEADS)
    trainer = build_trainer(tmp_path, model, log_gradient_shares=1, max_steps=1)
    seen = {}

    def remember(module, args, kwargs, output):
        seen.setdefault("batch", kwargs)

    handle = model.register_forward_hook(remember, with_kwargs=True)
    before = weights(model)
    trainer.train()
    handle.remove()
    model.load_state_dict(before)
    (entry,) = train_log(trainer)
    groups = {name: list(model.modality_parameters(name)) for name in ("vision", "audio")}
    own = {id(parameter) for group in groups.values() for parameter in group}
    groups["shared"] = [parameter for parameter in model.parameters() if id(parameter) not in own]
    weight = {"task": 1.0, "unimodal_vision": 0.5, "unimodal_audio": 0.5}
    for group, parameters in groups.items():
        flat = {}
        for name, factor in weight.items():
            loss = factor * model.train()(**seen["batch"]).losses[name]
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            flat[name] = torch.cat(
                [
                    torch.zeros_like(p).flatten() if g is None else g.flatten()
                    for p, g in zip(parameters, gradients, strict=True)
                ]
            )
        total = sum(gradient.norm() for gradient in flat.values())
        for name, gradient in flat.items():
            assert entry[f"gradient_share_{name}_{group}"] == pytest.approx((gradient.norm() / total).item(), abs=1e-4)
            if name != "task":
                cosine = torch.cosine_similarity(gradient, flat["task"], dim=0).item()
                assert entry[f"gradient_cosine_{name}_{group}"] == pytest.approx(cosine, abs=1e-4)
    assert entry["gradient_share_unimodal_audio_vision"] == 0
    assert "gradient_cosine_task_vision" not in entry


def test_training_is_what_it_is_without(tmp_path):
    runs = []
    for number, told in enumerate(({}, {"log_gradient_shares": 2})):
        model = build_fusion(unimodal_heads=True, dropout=0.3)
        trainer = build_trainer(tmp_path / str(number), model, gradient_accumulation_steps=2, **told)
        trainer.train()
        runs.append(trainer)
    assert_same_weights(weights(runs[1].model), weights(runs[0].model), atol=1e-6, rtol=1e-5)
    assert [any(key.startswith("gradient_share") for key in entry) for entry in train_log(runs[1])] == [True, False] * 2
    assert not any(key.startswith("gradient_share") for entry in train_log(runs[0]) for key in entry)


def test_a_component_that_does_nothing_is_named(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    build_trainer(tmp_path, build_model(), log_gradient_shares=1, max_steps=-1, num_train_epochs=1).train()
    assert not any("does nothing" in record.message for record in caplog.records)
    model = build_model(wma_alpha=1e-7)
    build_trainer(tmp_path, model, log_gradient_shares=1, max_steps=-1, num_train_epochs=1).train()
    (named,) = {record.message for record in caplog.records if "does nothing" in record.message}
    assert "the loss component wma had at most 0.0" in named


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_looked_at(family, tmp_path):
    model, batch, labels = build(family)
    keywords = {"train_dataset": [batch | {"labels": labels}] * 2, "data_collator": lambda batches: batches[0]}
    trainer = build_trainer(
        tmp_path, model, keywords, per_device_train_batch_size=1, max_steps=1, log_gradient_shares=1
    )
    trainer.train()
    entry = train_log(trainer)[0]
    for group in (*model.config.modalities, "shared"):
        shares = [
            value for key, value in entry.items() if key.startswith("gradient_share_") and key.endswith(f"_{group}")
        ]
        assert sum(shares) == pytest.approx(1, abs=1e-3) or sum(shares) == 0


def test_where_it_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="log_gradient_shares is 0"):
        MultimodalTrainingArguments(str(tmp_path), log_gradient_shares=0)
    with pytest.raises(ValueError, match="torch_compile"):
        build_trainer(tmp_path, build_fusion(), log_gradient_shares=1, torch_compile=True)
