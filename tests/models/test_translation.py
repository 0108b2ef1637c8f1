"""FusionForConditionalGeneration: what its decoder attends to, its loss, generation, saving, and missing modalities."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BertConfig, MarianConfig, MarianMTModel

from hf_mmalign import FusionForConditionalGeneration, FusionSeq2SeqConfig
from hf_mmalign.perturbation.modalities import MissingModality, perturbed
from tests.models.translation import EOS, PAD, START, TEXT_CONFIGS, WIDTHS, text_only, translator
from tests.tiny import rows_of

KINDS = list(TEXT_CONFIGS)
FUSIONS = ["concat", "auto", "gan", "def_aaf", "attention"]
OWN_LOSSES = {
    "auto": {"reconstruction"},
    "gan": {"reconstruction"},
    "def_aaf": {"homologous", "intra_reconstruction", "cross_reconstruction", "contrastive"},
}
# Two ways to the same sums, in fp32 at values around 1.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_with_text_alone_it_is_the_encoder_decoder():
    model, batch, labels = text_only()
    plain = MarianMTModel(MarianConfig(**TEXT_CONFIGS["marian"])).eval()
    plain.load_state_dict(model.text_model.state_dict())
    assert not model.memory_tokens
    with torch.no_grad():
        ours, theirs = model(**batch, labels=labels), plain(**batch, labels=labels)
    # Marian starts with the padding token whatever its config says of the decoder's start; give it ours.
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    with torch.no_grad():
        theirs = plain(**batch, decoder_input_ids=shifted)
    assert_close(ours.logits, theirs.logits, **CLOSE)
    assert_close(model.generate(**batch, num_beams=3, max_length=9), plain.generate(**batch, num_beams=3, max_length=9))


def test_the_task_loss_is_the_mean_over_tokens_and_smooths_in_training_only():
    model, batch, labels = text_only(label_smoothing=0.2)
    for training, smoothing in ((False, 0.0), (True, 0.2)):
        model.train(training)
        output = model(**batch, labels=labels)
        told = labels != -100
        expected = F.cross_entropy(output.logits[told], labels[told], label_smoothing=smoothing)
        assert_close(output.losses["task"], expected)
        assert_close(output.loss, expected)


def test_the_decoder_is_given_the_labels_one_to_the_right():
    model, _, labels = text_only()
    shifted = model.prepare_decoder_input_ids_from_labels(labels)
    assert shifted[:, 0].tolist() == [START] * 4
    assert shifted[3].tolist() == [START, labels[3, 0], EOS, PAD, PAD, PAD]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_kind_trains_generates_and_comes_back_from_a_folder(kind, fusion, tmp_path):
    model, batch, labels = translator(kind, fusion=fusion)
    model.train()(**batch, labels=labels).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, without
    model.eval()
    output = model(**batch, labels=labels)
    assert set(output.losses) == {"task"} | OWN_LOSSES.get(fusion, set())
    beams = model.generate(**batch, labels=labels, num_beams=3, max_length=8)
    assert torch.equal(model.generate(**batch, max_length=8), model.generate(**batch, max_length=8, use_cache=False))
    assert model.generate(**batch, do_sample=True, num_return_sequences=2, max_length=8).shape[0] == 8

    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert isinstance(again, FusionForConditionalGeneration)
    assert again.generation_config.eos_token_id == EOS
    assert_close(again(**batch, labels=labels).logits, output.logits, **CLOSE)
    assert torch.equal(again.generate(**batch, num_beams=3, max_length=8), beams)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_sample_is_translated_alone_as_in_a_batch(fusion):
    model, batch, labels = translator(fusion=fusion)
    whole = model(**batch, labels=labels).logits
    for row in range(4):
        alone = model(**rows_of(batch, [row]), labels=labels[[row]]).logits
        assert_close(alone[0], whole[row], **CLOSE)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_missing_modality_is_one_that_is_not_given(fusion):
    model, batch, labels = translator(fusion=fusion)
    row = rows_of(batch, [0])
    given = row | {"features": {"vision": row["features"]["vision"]}, "feature_mask": {"vision": torch.ones(1, 6)}}
    with perturbed(model, MissingModality("audio", mode="mask")):
        masked = model(**row, labels=labels[[0]]).logits
    assert_close(masked, model(**given, labels=labels[[0]]).logits, **CLOSE)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_padding_is_never_looked_at(fusion):
    model, batch, labels = translator(fusion=fusion)
    clean = model(**batch, labels=labels)
    batch["features"] = {
        name: values.masked_fill(batch["feature_mask"][name].unsqueeze(-1) == 0, torch.nan)
        for name, values in batch["features"].items()
    }
    batch["pixel_values"] = batch["pixel_values"].masked_fill(batch["pixel_mask"].unsqueeze(1) == 0, torch.nan)
    batch["input_ids"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 10**6)
    assert_close(model(**batch, labels=labels).logits, clean.logits, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_text_or_without_anything_is_translated_too(kind):
    model, batch, labels = translator(kind)
    pictures = {name: batch[name] for name in ("pixel_values", "pixel_mask")}
    assert model(**pictures, labels=labels).loss.isfinite()
    assert model.generate(**pictures, num_beams=2, max_length=6).shape == (4, 6)
    for name in ("attention_mask", "pixel_mask"):
        batch[name] = torch.zeros_like(batch[name])
    batch["feature_mask"] = {name: torch.zeros_like(mask) for name, mask in batch["feature_mask"].items()}
    assert model(**batch, labels=labels).loss.isfinite()


def test_the_picture_reaches_the_decoder():
    steep = TEXT_CONFIGS["marian"] | {"init_std": 0.5}
    for fusion in FUSIONS:
        model, batch, labels = translator(fusion=fusion, text_config=steep)
        changed = batch | {"pixel_values": batch["pixel_values"] + batch["pixel_mask"].unsqueeze(1)}
        difference = model(**batch, labels=labels).logits - model(**changed, labels=labels).logits
        assert difference[0].abs().max() > 1e-4, fusion  # GAN-Fusion's deep generators are small at first
        assert difference[3].abs().max() < 1e-5, fusion  # it has none


def test_pretrained_parts_are_taken(tmp_path):
    plain = MarianMTModel(MarianConfig(**TEXT_CONFIGS["marian"]))
    plain.save_pretrained(tmp_path)
    model = FusionForConditionalGeneration.from_encoders_pretrained(
        text=str(tmp_path), image={"architecture": "test_resnet"}, feature_sizes=WIDTHS
    )
    assert model.config.modalities == ["text", "image", "vision", "audio"]
    for name, weights in plain.state_dict().items():
        assert torch.equal(model.text_model.state_dict()[name], weights), name


def test_adapters_of_peft_train_the_new_modules_too():
    peft = pytest.importorskip("peft")
    model, batch, labels = translator(fusion="auto")
    config = peft.LoraConfig(target_modules=model.lora_targets, modules_to_save=model.modules_outside_backbone)
    adapted = peft.get_peft_model(model, config)
    adapted.train()(**batch, labels=labels).loss.backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    for part in ("fuser.modules_to_save", "memory_tokens.fused", "text_model.model.decoder", "encoders.vision"):
        assert any(part in name for name in trained), part
    assert adapted.generate(**batch, max_length=5).shape[0] == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": BertConfig()}, "text_config is BertConfig"),
        ({"text_config": None}, "text_config is NoneType"),
        ({"modalities": ["vision", "audio"]}, "needs the modality 'text'"),
        ({"feature_sizes": {"text": 4}}, "needs the modality 'text'"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"latent_size": 0}, "latent_size is 0"),
        ({"fusoin": "auto"}, "did you mean 'fusion'"),
    ],
)
def test_configs_that_cannot_be_are_refused(fields, message):
    with pytest.raises((ValueError, TypeError), match=message):
        FusionSeq2SeqConfig(**{"text_config": TEXT_CONFIGS["marian"], "feature_sizes": WIDTHS} | fields)


def test_the_config_comes_back_from_its_file(tmp_path):
    model, _, _ = translator()
    model.config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.to_dict() | {"_name_or_path": ""} == model.config.to_dict()
    assert again.task == "translation"
    assert again.modality_kinds == {"text": "text", "image": "image"} | WIDTHS
