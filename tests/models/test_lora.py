"""peft's usual calls on every model: what is new is trained, saved and comes back on a base whose own is random."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, BertModel, ViltModel

from hf_mmalign import BertWmaForSequenceClassification
from hf_mmalign.models.modeling_base import ADAPTER_FOLDERS_LOAD
from tests.families import ALL, FAMILIES, TRANSLATORS, WIDTHS, build
from tests.tiny import TOKENS
from tests.trainer.training import build_trainer

TEXT = "decalign with a text encoder"
# Beside these, what is pretrained is a backbone of BERT's or ViLT's layers.
OWN = ["encoders.vision", "encoders.audio"]
TARGETS = {
    "fusion": ["vision", "audio"],
    "fusion with def_aaf": OWN,
    "fusion with gan": OWN,
    "decalign": ["query_projection"],
}
BACKBONES = {"bert_wma": ("bert", BertModel), "vilt_wma": ("vilt", ViltModel), TEXT: ("text_model", BertModel)}


def train(model, batch, labels, steps: int = 2) -> None:
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.eval()


def bert() -> BertWmaForSequenceClassification:
    return build("bert_wma")[0]


def on_backbone(family: str, folder, seed: int):
    """A model on the backbone in `folder`, saved there at the first call, and all else drawn from `seed`."""
    torch.manual_seed(seed)
    model, _, _ = FAMILIES[family]()
    name, stock = BACKBONES[family]
    backbone = model.get_submodule(name)
    if not folder.exists():
        backbone.save_pretrained(folder)
    backbone.load_state_dict(stock.from_pretrained(folder).state_dict(), strict=False)
    return model


@pytest.mark.parametrize(("task_type", "modules_to_save"), [(None, ["classifier"]), ("SEQ_CLS", None)])
@pytest.mark.parametrize("family", BACKBONES)
def test_an_adapter_brings_all_that_its_base_draws_at_random(tmp_path, family, modules_to_save, task_type):
    _, batch, labels = build(family)
    config = LoraConfig(r=2, target_modules=["query"], modules_to_save=modules_to_save, task_type=task_type)
    model = get_peft_model(on_backbone(family, tmp_path / "stock", seed=0), config)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    trained = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    train(model, batch, labels)
    parameters = dict(model.named_parameters())
    assert_close({name: parameters[name] for name in frozen}, frozen, atol=0, rtol=0)
    new = [name for name in model.get_base_model().modules_outside_backbone if any(name in key for key in trained)]
    for name in new:
        assert any(not torch.equal(parameters[key], trained[key]) for key in trained if name in key), name
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(on_backbone(family, tmp_path / "stock", seed=1), tmp_path / "adapter").eval()
    one, other = (m(**batch, labels=labels, return_dict=True) for m in (model, again))
    assert_close(other.logits, one.logits)
    assert_close(other.losses, one.losses)


def test_a_stock_checkpoint_with_features_beside_it(tmp_path):
    """The same through from_pretrained, and the adapter's folder alone through our class."""
    model, batch, labels = build("bert_wma")
    model.bert.save_pretrained(tmp_path / "stock")
    settings = {"feature_sizes": WIDTHS, "num_labels": 3} | TOKENS

    def stock(seed):
        torch.manual_seed(seed)
        return BertWmaForSequenceClassification.from_pretrained(tmp_path / "stock", **settings)

    adapted = get_peft_model(stock(1), LoraConfig(r=2, modules_to_save=["classifier"]))
    assert adapted.peft_config["default"].target_modules == {"query", "value"}
    train(adapted, batch, labels)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = adapted(**batch).logits
    assert_close(PeftModel.from_pretrained(stock(2), tmp_path / "adapter").eval()(**batch).logits, expected)
    if not ADAPTER_FOLDERS_LOAD:
        with pytest.raises(ValueError, match="does not load an adapter's folder whole"):
            BertWmaForSequenceClassification.from_pretrained(tmp_path / "adapter", **settings)
        return
    alone = BertWmaForSequenceClassification.from_pretrained(tmp_path / "adapter", **settings).eval()
    assert_close(alone(**batch).logits, expected)


def test_an_adapter_without_the_new_modules_is_refused(tmp_path):
    """As earlier releases wrote them."""
    model = get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"]))
    model.save_pretrained(tmp_path)
    config = LoraConfig.from_pretrained(tmp_path)
    config.modules_to_save = ["classifier"]
    config.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"nothing for \['wma', 'feature_embeddings.vision', 'feature_embeddings.audio'\]"
    ):
        PeftModel.from_pretrained(bert(), tmp_path)


def test_a_second_adapter_and_transformers_own_call_too():
    model = get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"]))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"]))
    assert "feature_embeddings.audio" in model.peft_config["second"].modules_to_save
    bare = bert()
    bare.add_adapter(LoraConfig(r=2, target_modules=["query"]))
    assert "feature_embeddings.audio" in bare.peft_config["default"].modules_to_save


def test_what_came_with_the_checkpoint_stays_frozen_but_for_its_state(tmp_path):
    model = bert()
    train(model, *build("bert_wma")[1:])
    model.save_pretrained(tmp_path)
    further = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(tmp_path), LoraConfig(r=2, target_modules=["query"])
    )
    assert further.peft_config["default"].modules_to_save == ["wma"]
    assert all("lora_" in name for name, parameter in further.named_parameters() if parameter.requires_grad)
    with_head = type(model).from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    adapted = get_peft_model(with_head, LoraConfig(r=2, target_modules=["query"]))
    assert adapted.peft_config["default"].modules_to_save == ["classifier", "wma"]


def test_all_linear_layers_are_those_of_the_backbone():
    model = get_peft_model(bert(), LoraConfig(r=2, target_modules="all-linear", task_type="SEQ_CLS"))
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted
    assert all(name.startswith("base_model.model.bert.") for name in adapted)


@pytest.mark.parametrize("targets", ["named", "default"])
@pytest.mark.parametrize("family", ["fusion", "decalign"])
def test_a_model_without_a_pretrained_part_keeps_the_layers_that_are_asked_for(tmp_path, caplog, family, targets):
    base, batch, labels = build(family)
    base.save_pretrained(tmp_path / "base")
    asked = TARGETS[family] if targets == "named" else None
    model = get_peft_model(base, LoraConfig(r=2, target_modules=asked, task_type="SEQ_CLS"))
    assert "whose own weights are from no checkpoint and are not saved with it" in caplog.text
    train(model, batch, labels)
    assert any("lora_B" in name and parameter.any() for name, parameter in model.named_parameters())
    model.save_pretrained(tmp_path / "adapter")
    with_base = PeftModel.from_pretrained(type(base).from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    assert_close(with_base(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("family", ALL)
def test_the_trainer_saves_an_adapter_that_reloads(tmp_path, family):
    base, batch, labels = build(family)
    fresh = copy.deepcopy(base)
    kind = {"target_modules": TARGETS.get(family, ["query"]), "task_type": "SEQ_CLS"}
    if family in TRANSLATORS:
        kind = {"target_modules": ["q_proj", "v_proj"], "task_type": "SEQ_2_SEQ_LM"}
    model = get_peft_model(base, LoraConfig(r=2, **kind))
    keywords = {"train_dataset": [batch | {"labels": labels}] * 2, "data_collator": lambda batches: batches[0]}
    trainer = build_trainer(tmp_path, model, keywords, per_device_train_batch_size=1, max_steps=2)
    trainer.train()
    trainer.save_model(tmp_path / "adapter")
    again = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    assert_close(again(**batch, labels=labels).logits, model.eval()(**batch, labels=labels).logits)
    if family in TRANSLATORS:
        assert len(again.generate(**batch, max_length=6)) == len(labels)  # through the adapter; ids could tie
