import warnings

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, ViltConfig, ViltForMaskedLM, ViltModel

from hf_mmalign import ViltWmaConfig, ViltWmaForSequenceClassification
from tests.tiny import TOKENS, VILT, feature_batch, image_batch, rows_of, text_batch


def build(**fields) -> ViltWmaForSequenceClassification:
    torch.manual_seed(0)
    return ViltWmaForSequenceClassification(ViltWmaConfig(**VILT | TOKENS | {"num_labels": 3} | fields))


def ragged_batch() -> dict:
    torch.manual_seed(1)
    return text_batch([7, 4, 6]) | image_batch([(32, 32), (16, 24), (40, 16)])


@pytest.fixture(scope="module")
def stock_folder(tmp_path_factory):
    """A stock ViLT checkpoint in the true format, with position embeddings that are not zero."""
    torch.manual_seed(2)
    model = ViltForMaskedLM(ViltConfig(**VILT))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("stock")
    model.save_pretrained(folder)
    return folder


def encoded(model, batch):
    output, by_modality = model.encode(model.embed_modalities(**batch))
    return output.last_hidden_state, by_modality


def test_stock_checkpoint_gives_stock_hidden_states(stock_folder):
    ours = ViltWmaForSequenceClassification.from_pretrained(stock_folder, num_labels=3, **TOKENS).eval()
    stock = ViltModel.from_pretrained(stock_folder).eval()
    batch = ragged_batch()
    hidden, by_modality = encoded(ours, batch)
    expected = stock(**batch)
    torch.testing.assert_close(ours._pool(hidden), expected.pooler_output, atol=2e-5, rtol=1e-4)
    valid = batch["attention_mask"].bool()
    text = expected.last_hidden_state[:, : valid.shape[1]]
    torch.testing.assert_close(by_modality["text"].tokens[valid], text[valid], atol=2e-5, rtol=1e-4)
    # Stock shuffles the patches: compare them as sets, sorted by their first channel.
    for row, patches in enumerate([16, 6, 10]):
        mine = by_modality["image"].tokens[row, 1 : 1 + patches]
        theirs = expected.last_hidden_state[row, valid.shape[1] + 1 :][:patches]
        torch.testing.assert_close(mine[mine[:, 0].argsort()], theirs[theirs[:, 0].argsort()], atol=2e-5, rtol=1e-4)


def test_saved_folder_loads_in_stock_vilt(stock_folder, tmp_path):
    ours = ViltWmaForSequenceClassification.from_pretrained(stock_folder, feature_sizes={"audio": 5}, **TOKENS).eval()
    ours.save_pretrained(tmp_path)
    stock = ViltModel.from_pretrained(tmp_path).eval()
    batch = ragged_batch()
    hidden, _ = encoded(ours, batch)
    torch.testing.assert_close(stock(**batch).pooler_output, ours._pool(hidden), atol=2e-5, rtol=1e-4)


def test_auto_classes_reload_the_same_model(tmp_path):
    model = build(wma_beta=1.3).eval()
    model.wma.reference.fill_(0.7)
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert type(again) is ViltWmaForSequenceClassification
    assert AutoConfig.from_pretrained(tmp_path).wma_beta == 1.3
    assert again.wma.reference.item() == pytest.approx(0.7)
    batch = ragged_batch()
    torch.testing.assert_close(model(**batch).logits, again(**batch).logits)


def test_evaluation_is_deterministic_even_where_patches_are_left_out():
    model = build(max_image_length=5).eval()
    batch = ragged_batch()
    torch.testing.assert_close(model(**batch).logits, model(**batch).logits)
    assert model.embed_modalities(**batch)["image"].content_mask.sum(dim=1).tolist() == [5, 5, 5]
    model.train()
    assert not torch.allclose(model(**batch).logits, model(**batch).logits)
    assert model.embed_modalities(**batch)["image"].content_mask.sum(dim=1).tolist() == [5, 5, 5]


@pytest.mark.parametrize("limit", [-1, 5, 12, 30])
def test_padded_patches_that_stay_change_nothing(limit, monkeypatch):
    """As on an accelerator, where the host does not know how many patches a picture has."""
    model, batch = build(max_image_length=limit).eval(), ragged_batch()
    expected = model(**batch).logits
    assert model.embed_modalities(**batch)["image"].tokens.shape[1] == 1 + {-1: 16, 30: 16}.get(limit, limit)
    monkeypatch.setattr("hf_mmalign.models.wma.modeling_vilt_wma.values_at_hand", lambda *tensors: False)
    assert model.embed_modalities(**batch)["image"].tokens.shape[1] == 1 + {-1: 20, 30: 20}.get(limit, limit)
    torch.testing.assert_close(model(**batch).logits, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("side", [1, 4])
def test_image_positions_are_interpolated_with_aligned_corners(side):
    model = build(image_size=8 * side).double()
    table = torch.nn.init.normal_(model.vilt.embeddings.position_embeddings)[0, 1:].T.reshape(1, 32, side, side)
    sizes = [(4, 4), (1, 5), (6, 2), (0, 0), (3, 1)]
    valid = torch.zeros(len(sizes), 6, 5, dtype=torch.bool)
    for row, (height, width) in enumerate(sizes):
        valid[row, :height, :width] = True
    positions = model._image_positions(valid)
    for row, size in enumerate(sizes):
        expected = torch.zeros(32, 6, 5, dtype=torch.float64)
        if all(size):
            grid = F.interpolate(table, size=size, mode="bilinear", align_corners=True)[0]
            expected[:, : size[0], : size[1]] = grid
        torch.testing.assert_close(positions[row], expected, atol=1e-6, rtol=0)


def test_a_sample_does_not_depend_on_its_batch():
    model = build(feature_sizes={"audio": 4}).eval()
    batch = ragged_batch() | feature_batch({"audio": [3, 0, 5]}, {"audio": 4})
    together = model(**batch).logits
    for row in range(3):
        torch.testing.assert_close(model(**rows_of(batch, [row])).logits[0], together[row], atol=1e-5, rtol=1e-4)


def test_missing_modalities_are_legal_in_every_combination():
    model = build(feature_sizes={"audio": 4}, wma_beta=1.0)
    batch = text_batch([5, 0, 4, 0]) | image_batch([(32, 32), (32, 32), (0, 0), (0, 0)])
    batch |= feature_batch({"audio": [3, 2, 0, 0]}, {"audio": 4})
    labels = torch.tensor([0, 1, 2, 0])
    output = model(**batch, labels=labels)
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    for keys in ({"input_ids", "attention_mask"}, {"pixel_values", "pixel_mask"}, {"features", "feature_mask"}):
        assert torch.isfinite(model(**{k: v for k, v in batch.items() if k in keys}, labels=labels).loss)


def test_a_missing_picture_equals_no_picture():
    model = build().eval()
    text = text_batch([5, 4])
    absent = image_batch([(16, 16), (16, 16)])
    absent["pixel_mask"].zero_()
    torch.testing.assert_close(model(**text, **absent).logits, model(**text).logits, atol=1e-6, rtol=1e-5)


def test_without_native_text_a_lone_class_token_is_classified():
    model = build(modalities=["text", "vision"], feature_sizes={"text": 6, "vision": 4}, num_labels=1)
    batch = feature_batch({"text": [3, 4], "vision": [5, 2]}, {"text": 6, "vision": 4})
    output = model(**batch, labels=torch.tensor([0.5, -1.0]))
    assert output.logits.shape == (2, 1)
    assert model.config.problem_type == "regression"
    hidden, by_modality = encoded(model, batch)
    assert hidden.shape[1] == 1 + 4 + 5
    assert {name: e.tokens.shape[1] for name, e in by_modality.items()} == {"text": 4, "vision": 5}


def test_text_longer_than_the_position_table():
    batch = text_batch([50, 20])
    with pytest.raises(ValueError, match="50 tokens is longer than the 40 positions"):
        build()(**batch)
    model = build(max_text_length=64).eval()
    assert torch.isfinite(model(**batch).logits).all()
    table = model.vilt.embeddings.text_embeddings.position_embeddings.weight
    positions = model._text_positions(table, 64)
    torch.testing.assert_close(positions[[0, 63]], table[[0, 39]])
    with pytest.raises(ValueError, match="longer than the 64 positions"):
        model(**text_batch([65]))


def test_gradient_checkpointing_changes_no_gradient():
    batch = ragged_batch() | {"labels": torch.tensor([0, 1, 2])}
    gradients = []
    for checkpointing in (False, True):
        model = build(wma_beta=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()  # the name that all of transformers 5 has
        model(**batch).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": {"video": torch.zeros(3, 2, 4)}}, "features has 'video'"),
        ({"features": {"audio": torch.zeros(3, 2, 5)}}, r"asks for \(B, T, 4\)"),
    ],
)
def test_unknown_modalities_and_widths_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build(feature_sizes={"audio": 4})(**ragged_batch() | change)


def test_a_checkpoint_of_another_type_is_refused(tmp_path):
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model type 'bert'; ViltWmaConfig reads 'vilt_wma', 'vilt'"):
        ViltWmaForSequenceClassification.from_pretrained(tmp_path)


def test_config_refuses_what_it_does_not_know():
    with pytest.raises(TypeError, match="did you mean 'wma_alpha'"):
        ViltWmaConfig(wma_aplha=2.0)
    with pytest.raises(ValueError, match="neither native"):
        ViltWmaConfig(modalities=["text", "smell"])
    with pytest.raises(ValueError, match="leaves out"):
        ViltWmaConfig(modalities=["text", "image"], feature_sizes={"audio": 4})


def test_every_parameter_learns():
    model = build(feature_sizes={"audio": 4})
    batch = ragged_batch() | feature_batch({"audio": [3, 2, 5]}, {"audio": 4})
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(2):
        model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()
    unchanged = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert unchanged == []


def test_modality_parameters_belong_to_one_modality():
    model = build(feature_sizes={"audio": 4})
    groups = {name: {id(p) for p in model.modality_parameters(name)} for name in model.config.modalities}
    assert all(groups.values())
    assert not groups["text"] & groups["image"]
    assert not groups["audio"] & (groups["text"] | groups["image"])
    with pytest.raises(ValueError, match="knows the modalities"):
        model.modality_parameters("video")


def test_outputs_that_users_of_transformers_expect():
    model = build().eval()
    output = model(**ragged_batch(), output_hidden_states=True, output_attentions=True, output_modality_features=True)
    assert len(output.hidden_states) == 3
    assert len(output.attentions) == 2
    assert output.modality_features["image"].shape == (3, 32)
    assert output.losses is None
    as_tuple = model(**ragged_batch(), return_dict=False)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_tuple[0], output.logits)


def test_loading_a_stock_checkpoint_does_not_warn_of_its_type(stock_folder, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ViltWmaForSequenceClassification.from_pretrained(stock_folder)
    assert "to instantiate a model of type" not in caplog.text


def test_masking_the_text_out_equals_having_none():
    from hf_mmalign.perturbation.modalities import MissingModality, perturbed

    model = build().eval()
    batch = ragged_batch()
    absent = batch | {"attention_mask": torch.zeros_like(batch["attention_mask"])}
    with perturbed(model, MissingModality("text", mode="mask")):
        torch.testing.assert_close(model(**batch).logits, model(**absent).logits)


def test_the_classifier_may_see_the_mean_of_the_modalities(stock_folder, tmp_path):
    model = ViltWmaForSequenceClassification.from_pretrained(stock_folder, classifier_pooling="mean", **TOKENS).eval()
    batch = text_batch([5, 0]) | image_batch([(32, 32), (16, 24)])
    output = model(**batch, output_modality_features=True)
    text, image = output.modality_features["text"], output.modality_features["image"]
    expected = torch.stack([(text[0] + image[0]) / 2, image[1]])
    torch.testing.assert_close(output.logits, model.classifier(expected))
    model.save_pretrained(tmp_path)
    again = ViltWmaForSequenceClassification.from_pretrained(tmp_path).eval()
    assert again.vilt.pooler is None
    torch.testing.assert_close(again(**batch).logits, output.logits)
