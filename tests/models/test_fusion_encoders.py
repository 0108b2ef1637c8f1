"""Late fusion on any encoder."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    MobileNetV2Config,
    ResNetConfig,
)

from hf_mmalign import FusionConfig, FusionForSequenceClassification
from hf_mmalign.models.fusion.encoders import stages
from hf_mmalign.perturbation.modalities import MissingModality, perturbed
from tests.encoders import KINDS, OF_OTHERS, pictures, texts
from tests.families import build as build_family
from tests.tiny import BACKBONE, TOKENS, feature_batch, rows_of

LABELS = torch.tensor([0, 2, 1, 0])
WIDTHS = {"extra": 3}
BERT = BertConfig(**BACKBONE, max_position_embeddings=20)


def build(kind: str, extra: bool = True, **fields) -> tuple[FusionForSequenceClassification, dict]:
    """A model of one kind of encoder, beside plain features that every sample has, and a batch for it."""
    torch.manual_seed(0)
    entry, sizes = KINDS[kind], dict(WIDTHS if extra else {})
    own = isinstance(entry.encoder, str)
    config = FusionConfig(
        **{"feature_sizes": entry.feature_sizes | sizes, "num_labels": 3, "hidden_size": 8, "dropout": 0.0}
        | ({"encoder": {entry.name: entry.encoder}} if own else {"encoders": {entry.name: entry.encoder}})
        | TOKENS | entry.fields | fields
    )  # fmt: skip
    batch = entry.batch()
    if extra:
        other = feature_batch({"extra": [2, 2, 2, 2]}, WIDTHS)
        batch |= {key: batch.get(key, {}) | value for key, value in other.items()}
    return FusionForSequenceClassification(config), batch


def of_one(kind: str, **fields) -> tuple[FusionForSequenceClassification, dict, str]:
    model, batch = build(kind, **fields)
    return model, batch, KINDS[kind].name


def without(batch: dict, name: str) -> dict:
    """The batch without a modality."""
    gone = {"text": "input_ids attention_mask token_type_ids", "image": "pixel_values pixel_mask"}
    gone = gone.get(name, "input_values input_features audio_mask").split()
    rest = {key: value for key, value in batch.items() if key not in gone}
    return {
        key: {n: v for n, v in value.items() if n != name} if isinstance(value, dict) else value
        for key, value in rest.items()
    }


def step(model, batch, rate: float = 0.1) -> None:
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    model(**batch, labels=LABELS).loss.backward()
    optimizer.step()
    model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_backward_with_missing_samples(kind):
    model, batch, name = of_one(kind, unimodal_heads=True)
    output = model.train()(**batch, labels=LABELS, output_modality_features=True)
    output.loss.backward()
    assert output.logits.shape == output.unimodal_logits[name].shape == (4, 3)
    assert output.losses.keys() == {"task", f"unimodal_{name}", "unimodal_extra"}
    assert_close(output.loss, sum(output.losses.values()))
    vectors = output.modality_features[name]
    assert vectors.shape == (4, model.width_of(name))
    assert vectors.abs().sum(dim=1).bool().tolist() == [True, True, False, True]
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    unused = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert [
        key for key in unused if "masked_spec_embed" not in key
    ] == []  # Wav2Vec2's, which it masks with or not at all


@pytest.mark.parametrize("kind", KINDS)
def test_a_modality_that_the_whole_batch_misses(kind):
    """Left out, or under masks of 0, in training as afterwards."""
    model, batch, name = of_one(kind, unimodal_heads=True)
    empty = copy.deepcopy(batch)
    for holder in (empty, empty.get("feature_mask", {})):
        for key in list(holder):
            if key in ("attention_mask", "pixel_mask", "audio_mask", name) and isinstance(holder[key], torch.Tensor):
                holder[key] = torch.zeros_like(holder[key])
    expected = model.eval()(**without(batch, name), labels=LABELS)
    found = model(**empty, labels=LABELS)
    assert_close(found.logits, expected.logits)
    assert_close(found.losses, expected.losses)
    assert expected.losses[f"unimodal_{name}"] == 0
    trained = model.train()(**empty, labels=LABELS)
    trained.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", [kind for kind, entry in KINDS.items() if entry.exact])
def test_alone_as_in_a_batch(kind):
    """With what is padded cut off, where the length is free."""
    model, batch, _ = of_one(kind)
    expected = model.eval()(**batch).logits
    for row in (0, 1, 3):
        alone = rows_of(batch, [row])
        for value, mask in (("input_ids", "attention_mask"), ("input_values", "audio_mask")):
            if value in alone and alone[value].dim() == 2:
                length = int(alone[mask].sum())
                for key in (value, mask, "token_type_ids"):
                    if key in alone:
                        alone[key] = alone[key][:, :length]
        for name, mask in alone["feature_mask"].items():
            length = int(mask.sum())
            alone["feature_mask"][name] = mask[:, :length]
            alone["features"][name] = alone["features"][name][:, :length]
        assert_close(model(**alone).logits[0], expected[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_blank_is_never_encoded(kind):
    """Not even by batch norms: a sample without the modality leaves their statistics as the others make them."""
    model, batch, _ = of_one(kind)
    twin = copy.deepcopy(model)
    model.train()(**batch)
    # In turn, the samples that have it stand in for those that do not.
    full = rows_of(batch, [0, 1, 0, 3])
    twin.train()(**full)
    buffers = dict(model.named_buffers())
    for key, buffer in twin.named_buffers():
        assert_close(buffers[key], buffer)
    before = {key: buffer.clone() for key, buffer in buffers.items() if "running" in key}
    model(**rows_of(batch, [2, 2])).logits.sum().backward()
    assert_close({key: buffers[key] for key in before}, before, atol=0, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_needs_nothing_else(tmp_path, kind):
    model, batch, _ = of_one(kind, unimodal_heads=True)
    step(model, batch)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is FusionForSequenceClassification
    one, other = model(**batch), again(**batch)
    assert_close(other.logits, one.logits)
    assert_close(other.unimodal_logits, one.unimodal_logits)
    assert again.config.to_dict().keys() == model.config.to_dict().keys()
    assert again.config.encoders.keys() == model.config.encoders.keys()
    for name, config in model.config.encoders.items():
        assert type(again.config.encoders[name]) is type(config)


@pytest.mark.parametrize("kind", OF_OTHERS)
def test_pretrained_encoders(tmp_path, kind):
    entry = KINDS[kind]
    model, batch, name = of_one(kind)
    step(model, batch)
    whole = AutoModel.from_config(model.config.encoders[name])
    part = whole.get_encoder() if whole.config.is_encoder_decoder else whole
    part.load_state_dict(model.encoders[name].state_dict(), strict=False)
    whole.save_pretrained(tmp_path)
    fields = {"feature_sizes": entry.feature_sizes | WIDTHS, "num_labels": 3, **TOKENS, **entry.fields}
    again = FusionForSequenceClassification.from_encoders_pretrained(**{name: str(tmp_path)}, **fields).eval()
    assert_close(
        again(**batch, output_modality_features=True).modality_features[name],
        model(**batch, output_modality_features=True).modality_features[name],
    )


@pytest.mark.parametrize("kind", OF_OTHERS)
def test_lora_on_any_encoder(tmp_path, kind):
    """The adapter's folder brings back what it was trained to, batch norms included."""
    model, batch, _ = of_one(kind)
    base = copy.deepcopy(model)
    base._from_elsewhere = model._from_elsewhere = set(model._traits)  # as if it came from files
    adapted = get_peft_model(model, LoraConfig(r=2))
    trained = [key for key, p in adapted.named_parameters() if p.requires_grad]
    assert any("lora_" in key and "encoders" in key for key in trained)
    assert all("lora_" in key or "modules_to_save" in key for key in trained)
    assert not any("modules_to_save" in key and f"encoders.{KINDS[kind].name}" in key for key in trained)
    step(adapted, batch)
    step(adapted, batch)
    adapted.save_pretrained(tmp_path)
    base.classifier.reset_parameters()
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    assert_close(again(**batch).logits, adapted(**batch).logits)
    assert not torch.allclose(again(**batch).logits, build(kind)[0].eval()(**batch).logits, atol=1e-3)


@pytest.mark.parametrize("kind", OF_OTHERS)
def test_frozen_is_frozen(kind):
    model, batch, name = of_one(kind, frozen=[KINDS[kind].name])
    before = {key: value.clone() for key, value in model.encoders[name].state_dict().items()}
    classifier = model.classifier.weight.clone()
    step(model, batch)
    assert_close(dict(model.encoders[name].state_dict()), before, atol=0, rtol=0)
    assert not torch.equal(model.classifier.weight, classifier)
    assert not any(module.training for module in model.train().encoders[name].modules())


@pytest.mark.parametrize("kind", OF_OTHERS)
def test_first_stages_are_frozen(kind):
    name = KINDS[kind].name
    free, _, _ = of_one(kind)
    groups = stages(free.encoders[name])
    assert len(groups) >= 2
    model, batch, _ = of_one(kind, frozen_stages={name: 2})
    held = {key for group in groups[:2] for key in group}
    before = {key: value.clone() for key, value in model.encoders[name].named_parameters()}
    step(model, batch, rate=1.0)
    changed = {key for key, value in model.encoders[name].named_parameters() if not torch.equal(value, before[key])}
    assert not changed & held
    assert changed & {key for group in groups[2:] for key in group} or len(groups) == 2
    for key, module in model.train().encoders[name].named_modules():
        own = [f"{key}.{inner}" for inner, _ in module.named_parameters()]
        if own and set(own) <= held:
            assert not module.training, key
    with pytest.raises(ValueError, match=f"but its encoder has {len(groups)} stages"):
        of_one(kind, frozen_stages={name: 99})


def test_stages_are_those_of_the_architecture():
    resnet = FusionForSequenceClassification(FusionConfig(encoders={"image": {"architecture": "resnet18"}}))
    names = [sorted({key.split(".")[1] for key in group}) for group in stages(resnet.encoders["image"])]
    assert names == [["bn1", "conv1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]
    bert = build("bert")[0].encoders["text"]
    firsts = [group[0] for group in stages(bert)]
    assert firsts[0].startswith("embeddings")
    assert [key[: len("encoder.layer.0")] for key in firsts[1:]] == ["encoder.layer.0", "encoder.layer.1"]


def test_timm_architectures_begin_as_timm_begins_them():
    """transformers would draw every convolution from N(0, 0.02), and set the last batch norm of a block to 1."""
    model = FusionForSequenceClassification(
        FusionConfig(encoders={"depth": {"architecture": "resnet18", "in_chans": 1}})
    )
    layers = model.encoders["depth"].timm_model
    assert layers.conv1.weight.shape == (64, 1, 7, 7)
    assert layers.layer1[0].conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert not layers.layer1[0].bn2.weight.any()
    output = model(modality_inputs={"depth": {"pixel_values": torch.randn(2, 1, 64, 64)}})
    assert torch.isfinite(output.logits).all()


def test_several_pictures_and_a_text():
    encoders = {"text": BERT, "image": {"architecture": "test_resnet"}}
    encoders["depth"] = {"architecture": "test_vit", "in_chans": 1, "img_size": 32}
    model = FusionForSequenceClassification(FusionConfig(encoders=encoders, num_labels=3)).eval()
    assert model.config.modality_kinds == {"text": "text", "image": "image", "depth": "image"}
    depth = pictures(channels=1)
    batch = texts() | pictures()
    expected = model(**batch, modality_inputs={"depth": depth})
    explicit = {"text": texts, "image": pictures}
    named = {"depth": depth, "image": {key: batch[key] for key in explicit["image"]()}}
    named["text"] = {key: value for key, value in batch.items() if key not in named["image"]}
    assert_close(model(modality_inputs=named).logits, expected.logits)
    with pytest.raises(ValueError, match="modality_inputs has 'image', which other arguments gave already"):
        model(**batch, modality_inputs=named)
    with pytest.raises(ValueError, match="modality_inputs has 'smell'"):
        model(modality_inputs={"smell": depth})
    with pytest.raises(ValueError, match=r"encoder of 'depth' takes \['pixel_mask', 'pixel_values'\]"):
        model(modality_inputs={"depth": {"input_ids": torch.zeros(4, 3)}})
    blank = torch.zeros(1, model.width_of("depth"))
    assert_close(model(modality_inputs={"depth": depth}).logits[2:3], model.logits_from({"depth": blank}))


def test_logits_from_vectors_are_those_of_a_forward_pass():
    model, batch, _ = build_family("fusion with encoders")
    output = model.eval()(**batch, output_modality_features=True)
    vectors = output.modality_features
    assert_close(model.logits_from(vectors), output.logits)
    for name in vectors:
        with perturbed(model, MissingModality(name, mode="mask")):
            expected = model(**batch).logits
        left = {other: vector for other, vector in vectors.items() if other != name}
        assert_close(model.logits_from(left), expected)
    with pytest.raises(ValueError, match="not 'smell'"):
        model.logits_from({"smell": vectors["text"]})
    with pytest.raises(ValueError, match="needs the vectors of one modality"):
        model.logits_from({})


def test_unimodal_losses_leave_out_the_samples_that_miss_the_modality():
    model, batch, labels = build_family("fusion with encoders", unimodal_weight=0.5)
    output = model.eval()(**batch, labels=labels)
    rows = [0, 1, 3]
    expected = nn.functional.cross_entropy(output.unimodal_logits["text"][rows], labels[rows])
    assert_close(output.losses["unimodal_text"], expected)
    unimodal = sum(value for name, value in output.losses.items() if name != "task")
    assert_close(output.loss, output.losses["task"] + 0.5 * unimodal)


def test_a_text_of_special_tokens_only_is_missing():
    model, batch, _ = build_family("fusion with encoders")
    batch["input_ids"][1, :2] = torch.tensor([TOKENS["cls_token_id"], TOKENS["sep_token_id"]])
    batch["attention_mask"][1] = (torch.arange(batch["attention_mask"].shape[1]) < 2).long()
    vectors = model(**batch, output_modality_features=True).modality_features
    assert not vectors["text"][1].any()
    assert vectors["text"][0].any()


def test_the_first_token_as_vector():
    model, batch, _ = build_family("fusion with encoders", pooling={"text": "cls"})
    model.eval()
    embedding = model.embed_modalities(**batch)["text"]
    vectors = model(**batch, output_modality_features=True).modality_features
    assert_close(vectors["text"][[0, 1, 3]], embedding.tokens[[0, 1, 3], 0])
    assert not vectors["text"][2].any()


def test_gradient_checkpointing_changes_no_gradient():
    model, batch, labels = build_family("fusion with encoders")
    twin = copy.deepcopy(model)
    twin.gradient_checkpointing_enable()
    assert twin.is_gradient_checkpointing
    for one in (model, twin):
        one.train()(**batch, labels=labels).loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert_close({name: p.grad for name, p in twin.named_parameters()}, expected)


def test_a_pretrained_encoder_is_the_backbone(tmp_path):
    torch.manual_seed(0)
    BertModel(BERT).save_pretrained(tmp_path)
    model = FusionForSequenceClassification.from_encoders_pretrained(
        text=str(tmp_path),
        image={"architecture": "test_resnet"},
        feature_sizes=WIDTHS,
        unimodal_heads=True,
        num_labels=3,
    )
    heads = ["unimodal_heads.text", "unimodal_heads.image", "unimodal_heads.extra"]
    assert model.modules_outside_backbone == ["encoders.extra", "head_layers.0", "classifier", *heads]
    assert model.new_modules == ["encoders.image", *model.modules_outside_backbone]
    assert {target.split(".")[1] for target in model.lora_targets} == {"text"}
    fresh, frozen = (
        FusionForSequenceClassification(FusionConfig(encoders=dict(model.config.encoders), **fields))
        for fields in ({}, {"frozen": ["image"]})
    )
    assert {target.split(".")[1] for target in fresh.lora_targets} == {"text", "image"}
    assert {target.split(".")[1] for target in frozen.lora_targets} == {"text"}


def test_files_that_lack_weights_are_refused(tmp_path):
    model = BertModel(BERT)
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in model.state_dict().items() if "layer.1" not in k})
    with pytest.raises(ValueError, match="lacks weights of BertModel"):
        FusionForSequenceClassification.from_encoders_pretrained(text=str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoders": {"text": "bert-base"}}, "encoders.*from_encoders_pretrained"),
        ({"encoders": {"text": {"model_type": "brt"}}}, "model_type 'brt'"),
        ({"encoders": {"text": {"hidden_size": 3}}}, "model_type None"),
        ({"encoders": {"text": BERT}, "frozen": ["image"]}, r"frozen has \['image'\]"),
        ({"encoders": {"text": BERT}, "frozen_stages": {"text": -1}}, "frozen_stages has 'text': -1"),
        ({"encoders": {"text": BERT}, "modalities": ["image"]}, "modalities has 'image'"),
        ({"encoders": {"text": BERT}, "feature_sizes": {"text": 4}}, "takes input_ids, but 'text' comes as a feature"),
        ({"encoders": {"text": BERT}, "picture_steps": {"text": 4}}, "picture_steps has 'text'"),
        ({"feature_sizes": {"a": 4}, "encoder": {"b": "lstm"}}, r"encoder has \['b'\]"),
        ({"feature_sizes": {"a": 4}, "encoder": "transformer", "hidden_size": 6}, "no multiple of num_attention_heads"),
        ({"feature_sizes": {"a": 4}, "unimodal_weight": -1}, "unimodal_weight is -1"),
    ],
)
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FusionConfig(**fields)


def test_what_is_neither_a_field_nor_an_encoder_is_refused():
    with pytest.raises(TypeError, match="'hiden_size' is no field of FusionConfig"):
        FusionForSequenceClassification.from_encoders_pretrained(hiden_size=3, feature_sizes=WIDTHS)


@pytest.mark.parametrize(
    ("config", "width"),
    [
        (ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"), 16),
        (MobileNetV2Config(depth_multiplier=0.35, finegrained_output=False), 448),  # which says nothing of its width
    ],
    ids=["resnet", "mobilenet"],
)
def test_encoders_that_do_not_say_how_wide_they_are(config, width):
    model = FusionForSequenceClassification(FusionConfig(encoders={"image": config}, num_labels=3))
    assert model.width_of("image") == width
    assert model(**pictures()).logits.shape == (4, 3)


def test_the_towers_of_clip(tmp_path):
    narrow = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = narrow | {"vocab_size": 60, "max_position_embeddings": 12, "eos_token_id": 3}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=narrow | {"image_size": 32, "patch_size": 8}))
    clip.save_pretrained(tmp_path)
    source = str(tmp_path)
    model = FusionForSequenceClassification.from_encoders_pretrained(text=source, image=source, num_labels=3).eval()
    assert model.config.modality_kinds == {"text": "text", "image": "image"}
    found = model(**texts(), **pictures(), output_modality_features=True).modality_features
    expected = clip.vision_model(pixel_values=pictures()["pixel_values"]).last_hidden_state
    assert found["image"].shape == expected[:, 0].shape
    weights = dict(clip.vision_model.named_parameters())
    taken = {key.removeprefix("vision_model."): p for key, p in model.encoders["image"].named_parameters()}
    assert_close({key: taken[key] for key in weights}, weights, atol=0, rtol=0)
    model.save_pretrained(tmp_path / "whole")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole").eval()
    batch = texts() | pictures()
    assert_close(again(**batch).logits, model(**batch).logits)


def test_encoders_have_the_dtype_of_the_model_around_them(tmp_path):
    """Not that of their files; and where those lie is nobody else's business."""
    torch.manual_seed(0)
    BertModel(BERT).half().save_pretrained(tmp_path / "bert")
    source = str(tmp_path / "bert")
    model = FusionForSequenceClassification.from_encoders_pretrained(text=source, num_labels=3)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model(**texts()).logits.sum().backward()
    model.save_pretrained(tmp_path / "whole")
    assert source not in (tmp_path / "whole/config.json").read_text()
    for dtype in (torch.float32, torch.bfloat16):
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole", dtype=dtype)
        assert {p.dtype for p in again.parameters()} == {dtype}
        assert torch.isfinite(again(**texts()).logits).all()
