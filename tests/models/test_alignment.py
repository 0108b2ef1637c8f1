"""The calibration and the loss of WMA inside a model."""

import logging

import pytest
import torch

from hf_mmalign import BertWmaConfig, BertWmaForSequenceClassification
from hf_mmalign.losses.wma import alignment_penalty, transport_distance
from hf_mmalign.models.modeling_base import combine_losses
from tests.tiny import BACKBONE, TOKENS, feature_batch, rows_of, text_batch


def build(**fields) -> BertWmaForSequenceClassification:
    torch.manual_seed(0)
    config = BACKBONE | TOKENS | {"num_labels": 2, "feature_sizes": {"vision": 5, "audio": 3}} | fields
    return BertWmaForSequenceClassification(BertWmaConfig(**config))


def make_batch(vision=(4, 2, 3, 1), audio=(5, 5, 2, 3)) -> dict:
    torch.manual_seed(1)
    batch = text_batch([6, 4, 5, 7])
    return batch | feature_batch({"vision": list(vision), "audio": list(audio)}, {"vision": 5, "audio": 3})


LABELS = torch.tensor([0, 1, 0, 1])


def distances(model, batch):
    model.eval()
    with torch.no_grad():
        _, encoded = model.encode(model.embed_modalities(**batch))
    pairs = {}
    for m, n in model.config.modality_pairs:
        x, y = encoded[m], encoded[n]
        pairs[m, n] = transport_distance(x.tokens, y.tokens, x.content_mask, y.content_mask)[:2]
    return pairs


def test_reference_is_the_mean_distance_in_eval_mode():
    model = build(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5).train()
    batch = make_batch(vision=(4, 0, 3, 1))
    model.calibrate([batch])
    assert model.training
    for reference, (distance, valid) in zip(model.wma.reference, distances(model, batch).values(), strict=True):
        torch.testing.assert_close(reference, distance[valid].mean())


def test_reference_does_not_depend_on_the_split_into_micro_batches():
    batch = make_batch(vision=(4, 0, 3, 1))
    references = []
    for splits in ([slice(0, 4)], [slice(0, 1), slice(1, 4)], [[0], [1], [2], [3]]):
        model = build()
        model.calibrate([rows_of(batch, rows) for rows in splits])
        references.append(model.wma.reference)
    torch.testing.assert_close(references[0], references[1])
    torch.testing.assert_close(references[0], references[2])


def test_reference_is_fixed_once_and_total_loss_is_equation_10():
    model = build(wma_alpha=3.0, wma_beta=1.5)
    model.calibrate([make_batch()])
    reference = model.wma.reference.clone()
    model.calibrate([make_batch(vision=(1, 1, 1, 1))])
    assert torch.equal(model.wma.reference, reference)
    batch = make_batch(vision=(2, 0, 5, 1))
    expected = sum(
        ((distance - 1.5 * reference[pair]).square() * valid).sum() / 4
        for pair, (distance, valid) in enumerate(distances(model, batch).values())
    )
    output = model(**batch, labels=LABELS)
    torch.testing.assert_close(output.losses["wma"], expected)
    torch.testing.assert_close(output.loss, output.losses["task"] + 3.0 * expected)


def test_a_pair_absent_from_the_first_batch_is_calibrated_when_it_comes():
    model = build()
    model.calibrate([make_batch(audio=(0, 0, 0, 0))])
    assert model.wma.reference.isnan().tolist() == [False, True, True]
    assert model.needs_calibration
    first = model.wma.reference[0].clone()
    output = model(**make_batch(audio=(0, 0, 0, 0)), labels=LABELS)
    assert torch.isfinite(output.loss)
    model.calibrate([make_batch()])
    assert not model.needs_calibration
    assert model.wma.reference[0] == first


def test_a_plain_training_loop_calibrates_on_its_first_batch():
    batch = make_batch()
    expected = build()
    expected.calibrate([batch])
    model = build().train()
    model(**batch, labels=LABELS).loss.backward()
    torch.testing.assert_close(model.wma.reference, expected.wma.reference)


@pytest.mark.parametrize("fields", [{"wma_alpha": 0}, {"wma_beta": 0}, {"wma_reference": "batch"}])
def test_without_a_stored_reference_nothing_is_calibrated(fields):
    model = build(**fields)
    assert not model.needs_calibration
    output = model(**make_batch(), labels=LABELS)
    assert ("wma" in output.losses) == (model.config.wma_alpha > 0)
    assert model.wma.reference.isnan().all()


def test_batch_reference_is_the_current_mean():
    model = build(wma_reference="batch", wma_beta=1.0).eval()
    batch = make_batch(vision=(4, 0, 3, 1))
    expected = sum(
        ((distance - distance[valid].mean()).square() * valid).sum() / 4
        for distance, valid in distances(model, batch).values()
    )
    torch.testing.assert_close(model(**batch, labels=LABELS).losses["wma"], expected)


def test_minimising_the_distance_is_alpha_1_beta_0():
    model = build(wma_alpha=1, wma_beta=0).eval()
    batch = make_batch()
    expected = sum(distance.square().mean() for distance, _ in distances(model, batch).values())
    torch.testing.assert_close(model(**batch, labels=LABELS).losses["wma"], expected)


@pytest.mark.parametrize("beta", [0.0, 1.5])
def test_a_relative_penalty_is_in_units_of_the_reference(beta):
    """Which it needs even where the distance is minimised."""
    model = build(wma_beta=beta, wma_scale="relative")
    assert model.needs_calibration
    model.calibrate([make_batch()])
    batch = make_batch(vision=(2, 0, 5, 1))
    expected = sum(
        (((distance - beta * reference) / reference).square() * valid).sum() / 4
        for reference, (distance, valid) in zip(model.wma.reference, distances(model, batch).values(), strict=True)
    )
    torch.testing.assert_close(model(**batch, labels=LABELS).losses["wma"], expected)


def test_a_relative_penalty_does_not_depend_on_the_scale_of_distances():
    """As that of pretrained networks differs from that of new ones."""
    distance, valid = torch.tensor([0.5, 0.7, 0.0]), torch.tensor([True, True, False])
    for beta in (0.0, 0.6, 1.0, 2.0):
        large = alignment_penalty(distance, valid, torch.tensor(0.6), beta, relative=True)
        small = alignment_penalty(distance / 50, valid, torch.tensor(0.6 / 50), beta, relative=True)
        torch.testing.assert_close(large, small)
    never_seen = alignment_penalty(distance, valid, torch.tensor(torch.nan), 0.0, relative=True)
    assert never_seen == 0
    same_tokens = alignment_penalty(distance * 0, valid, torch.tensor(0.0), 1.0, relative=True)
    assert same_tokens == 0


def test_an_unreachable_target_is_said(caplog):
    model = build(wma_beta=50.0)
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    logging.getLogger("hf_mmalign").addHandler(caplog.handler)
    model.calibrate([make_batch()])
    assert "cannot be reached" in caplog.text


def test_fp32_island_under_bf16_autocast():
    model = build()
    model.calibrate([make_batch()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**make_batch(), labels=LABELS)
    assert output.losses["wma"].dtype == torch.float32
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("solver", ["auto", "ipot"])
def test_the_certificate_covers_the_solver_s_error_and_weighs_nothing(solver):
    model, batch = build(wma_solver=solver, wma_certificate=True), make_batch()
    model.calibrate([batch])
    output = model(**batch, labels=LABELS)
    exact = build(wma_solver="exact")
    error = max(
        (distance - true).max()
        for (distance, _), (true, _) in zip(
            distances(model, batch).values(), distances(exact, batch).values(), strict=True
        )
    )
    assert error - 1e-6 <= output.losses["wma_gap"] <= error + (0.05 if solver == "ipot" else 0.005)
    torch.testing.assert_close(output.loss, output.losses["task"] + output.losses["wma"])
    assert "wma_gap" not in build()(**batch, labels=LABELS).losses


def test_training_moves_the_distance_to_its_target():
    model = build(wma_alpha=100.0, wma_beta=0.5, modalities=["text", "vision"], feature_sizes={"vision": 5}).train()
    batch = text_batch([6, 4, 5, 7]) | feature_batch({"vision": [4, 2, 3, 1]}, {"vision": 5})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        model(**batch, labels=LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ((distance, _),) = distances(model, batch).values()
    target = 0.5 * model.wma.reference[0]
    assert (distance.mean() - target).abs() < 0.1 * target


def test_components_are_weighted_once():
    total = combine_losses({"task": torch.tensor(1.0), "wma": torch.tensor(2.0)}, {"wma": 0.5})
    assert total == 2.0
