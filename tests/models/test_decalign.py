import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_mmalign import DecAlignConfig, DecAlignForSequenceClassification
from tests.tiny import feature_batch, rows_of

WIDTHS = {"text": 6, "vision": 4, "audio": 3}


def build(**fields) -> DecAlignForSequenceClassification:
    torch.manual_seed(0)
    defaults = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_labels": 1,
        "num_prototypes": 3,
    }
    return DecAlignForSequenceClassification(DecAlignConfig(feature_sizes=WIDTHS, **defaults | fields))


def make_batch(audio=(4, 0, 3, 1, 2, 2, 4, 3)) -> dict:
    torch.manual_seed(1)
    rows = {"text": [5, 4, 0, 3, 5, 2, 1, 4], "vision": [7, 3, 2, 6, 1, 7, 4, 5], "audio": list(audio)}
    return feature_batch(rows, WIDTHS)


LABELS = torch.linspace(-2, 2, 8)


def test_every_parameter_gets_a_finite_gradient_with_modalities_missing():
    model = build()
    output = model(**make_batch(), labels=LABELS)
    output.loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []
    assert {"task", "decouple", "hete", "homo"} <= output.losses.keys()


def test_a_whole_batch_without_a_modality_is_legal():
    batch = make_batch(audio=[0] * 8)
    without = {key: {name: value for name, value in batch[key].items() if name != "audio"} for key in batch}
    model = build().eval()
    torch.testing.assert_close(model(**batch).logits, model(**without).logits)
    assert torch.isfinite(model(**without, labels=LABELS).loss)


def test_a_sample_does_not_depend_on_its_batch():
    model, batch = build().eval(), make_batch()
    together = model(**batch).logits
    for row in range(3):
        torch.testing.assert_close(model(**rows_of(batch, [row])).logits[0], together[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_does_not_change_a_prediction(padding, kernel):
    """Sequences shorter than the kernel are among them: of `audio`, all are for the widest."""
    model, batch = build(conv_padding=padding, conv_kernel_size=kernel).eval(), make_batch()
    together = model(**batch, output_modality_features=True)
    for row in range(8):
        alone = {"features": {}, "feature_mask": {}}
        for name, mask in batch["feature_mask"].items():
            length = int(mask[row].sum())
            if length:
                alone["features"][name] = batch["features"][name][row : row + 1, :length]
                alone["feature_mask"][name] = mask[row : row + 1, :length]
        output = model(**alone, output_modality_features=True)
        torch.testing.assert_close(output.logits[0], together.logits[row], atol=1e-5, rtol=1e-4)
        for name, feature in output.modality_features.items():
            torch.testing.assert_close(feature[0], together.modality_features[name][row], atol=1e-5, rtol=1e-4)
            assert feature.any(), name


def test_a_valid_convolution_has_a_token_for_each_window_of_valid_steps():
    model, batch = build(conv_padding="valid", conv_kernel_size={"vision": 3, "text": 5}).eval(), make_batch()
    counts = {name: e.content_mask.sum(dim=1).tolist() for name, e in model.embed_modalities(**batch).items()}
    assert counts["vision"] == [5, 1, 1, 4, 1, 5, 2, 3]  # 7, 3, 2, 6, 1, 7, 4 and 5 steps: one token at least
    assert counts["text"] == [1, 1, 0, 1, 1, 1, 1, 1]
    assert counts["audio"] == [4, 0, 3, 1, 2, 2, 4, 3]


def test_auto_class_reloads_the_same_model(tmp_path):
    model = build().eval()
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**make_batch()).logits, model(**make_batch()).logits)


def test_unknown_modalities_are_refused():
    with pytest.raises(ValueError, match="features has 'smell'"):
        build()(features={"smell": torch.zeros(2, 3, 4)})
