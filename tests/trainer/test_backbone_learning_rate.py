import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig

from hf_mmalign import (
    DecAlignConfig,
    DecAlignForSequenceClassification,
    MultimodalTrainingArguments,
    ViltWmaConfig,
    ViltWmaForSequenceClassification,
)
from tests.tiny import BACKBONE, TOKENS, VILT
from tests.trainer.training import WIDTHS, build_model, build_trainer, weights

RATES = {"learning_rate": 1e-2, "backbone_learning_rate": 1e-3}


def decalign(**fields) -> DecAlignForSequenceClassification:
    torch.manual_seed(0)
    text = BertConfig(**BACKBONE)
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "num_prototypes": 3, "num_labels": 2}
    return DecAlignForSequenceClassification(
        DecAlignConfig(feature_sizes=WIDTHS, text_config=text, **small | TOKENS | fields)
    )


def vilt() -> ViltWmaForSequenceClassification:
    torch.manual_seed(0)
    return ViltWmaForSequenceClassification(ViltWmaConfig(**VILT | TOKENS, feature_sizes=WIDTHS))


def with_lora(model):
    return get_peft_model(
        model, LoraConfig(r=2, target_modules=["query"], modules_to_save=model.modules_outside_backbone)
    )


MODELS = {
    "decalign": (decalign, "text_model."),
    "bert": (build_model, "bert."),
    "vilt": (vilt, "vilt."),
    "lora": (lambda: with_lora(build_model()), "base_model.model.bert."),
    "decalign lora": (lambda: with_lora(decalign()), "base_model.model.text_model."),
}


def settings_by_parameter(trainer, *keys: str) -> dict[str, tuple]:
    """Each trained parameter's settings in the optimizer; fails for one in two groups."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    assert all(group["params"] for group in groups)
    found = {names[parameter]: tuple(group[key] for key in keys) for group in groups for parameter in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_groups(tmp_path, name):
    build, backbone = MODELS[name]
    trainer = build_trainer(tmp_path, build(), weight_decay=0.1, **RATES)
    rates = settings_by_parameter(trainer, "lr")
    assert rates.keys() == {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert rates == {name: (1e-3 if name.startswith(backbone) else 1e-2,) for name in rates}
    assert len(set(rates.values())) == 2
    stock = build_trainer(tmp_path, build(), weight_decay=0.1)
    decays = settings_by_parameter(stock, "weight_decay", "betas", "eps")
    assert settings_by_parameter(trainer, "weight_decay", "betas", "eps") == decays


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor", "sgd"])
def test_one_step_moves_the_backbone_at_its_own_rate(tmp_path, optimizer):
    def moved(**arguments):
        trainer = build_trainer(tmp_path, decalign(), optim=optimizer, max_steps=1, **arguments)
        before = weights(trainer.model)
        trainer.train()
        return {name: value - before[name] for name, value in weights(trainer.model).items()}

    plain, slow, still = moved(), moved(backbone_learning_rate=1e-3), moved(backbone_learning_rate=0.0)
    assert any(change.abs().sum() > 0 for name, change in plain.items() if name.startswith("text_model."))
    for name, change in plain.items():
        in_backbone = name.startswith("text_model.")
        expected = 0.1 * change if in_backbone else change
        torch.testing.assert_close(slow[name], expected, atol=1e-6, rtol=1e-3, msg=lambda text, name=name: name + text)
        expected = torch.zeros_like(change) if in_backbone else change
        torch.testing.assert_close(still[name], expected, atol=1e-6, rtol=1e-3, msg=lambda text, name=name: name + text)


def test_both_rates_are_scheduled_logged_and_resumed(tmp_path):
    def trained(folder, resume=None):
        trainer = build_trainer(
            tmp_path / folder,
            decalign(mixture_momentum=0.9),
            max_steps=4,
            lr_scheduler_type="linear",
            save_strategy="steps",
            save_steps=2,
            **RATES,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = trained("a")
    resumed = trained("b", resume=str(tmp_path / "a" / "checkpoint-2"))
    for trainer in (whole, resumed):
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert [entry["learning_rate"] for entry in log] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
        assert [entry["backbone_learning_rate"] for entry in log] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    for name, value in weights(whole.model).items():
        assert torch.equal(weights(resumed.model)[name], value), name


def test_without_it_nothing_changes(tmp_path):
    trainer = build_trainer(tmp_path, decalign(), max_steps=1)
    trainer.train()
    assert len(trainer.optimizer.param_groups) == 2
    assert "backbone_learning_rate" not in trainer.state.log_history[0]


@pytest.mark.parametrize("fields", [{"freeze_text_encoder": True}, {"text_config": None, "modalities": list(WIDTHS)}])
def test_a_model_without_a_backbone_to_train_is_refused(tmp_path, fields):
    if "text_config" in fields:
        torch.manual_seed(0)
        model = DecAlignForSequenceClassification(DecAlignConfig(feature_sizes=WIDTHS, hidden_size=16))
    else:
        model = decalign(**fields)
    with pytest.raises(ValueError, match="DecAlignForSequenceClassification trains no backbone"):
        build_trainer(tmp_path, model, **RATES).train()


def test_what_it_cannot_apply_to_is_refused(tmp_path):
    model = decalign()
    own = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="an optimizer made elsewhere"):
        build_trainer(tmp_path, model, {"optimizers": (own, None)}, **RATES)
    with pytest.raises(ValueError, match="a learning rate is at least 0"):
        MultimodalTrainingArguments(str(tmp_path), backbone_learning_rate=-1e-5)
