"""How compact classes are in codes, against NumPy on whole arrays."""

import numpy as np
import pytest
import torch

from hf_mmalign.trainer.class_spread import ClassSpread


def expected(vectors, labels):
    within = sum(((vectors[labels == c] - vectors[labels == c].mean(axis=0)) ** 2).sum() for c in set(labels.tolist()))
    return within / vectors.size, within / ((vectors - vectors.mean(axis=0)) ** 2).sum()


def test_batches_add_up_to_the_variance_of_all_samples_that_count():
    torch.manual_seed(0)
    count, labels = 40, torch.randint(-1, 3, (40,)).where(torch.rand(40) > 0.2, -100)
    codes = {"audio": 5 + torch.randn(count, 4), "text": torch.randn(count, 4) * 3}
    weights = torch.rand(count, 2)
    weights[:5, 0] = 0
    weights[3, 1] = 0
    weights = dict(zip(codes, weights.unbind(1), strict=True))
    spread = ClassSpread(["audio", "text", "depth"], 3, lambda tensor: tensor)
    for part in (slice(0, 7), slice(7, 8), slice(8, 40)):
        batch = {"codes": {name: value[part] for name, value in codes.items()}}
        spread.add(batch | {"gate_weights": {name: value[part] for name, value in weights.items()}}, labels[part])
    found = spread.metrics()
    fused = sum(codes[name] * weights[name].unsqueeze(1) for name in codes)
    known = labels.numpy() >= 0
    having = {name: weights[name].numpy() > 0 for name in codes}
    kinds = {"fused": (fused, having["audio"] | having["text"])} | {name: (codes[name], having[name]) for name in codes}
    for name, (vectors, present) in kinds.items():
        rows = known & present
        variance, share = expected(vectors.double().numpy()[rows], labels.numpy()[rows])
        assert found[f"intra_class_variance_{name}"] == pytest.approx(variance, rel=1e-5)
        assert found[f"intra_class_share_{name}"] == pytest.approx(share, rel=1e-5)
    assert len(found) == 6, "nothing of a modality that no sample has"


def test_classes_that_are_points_and_what_has_no_classes():
    spread = ClassSpread(["audio"], 2, lambda tensor: tensor)
    assert spread.metrics() == {}
    labels = torch.tensor([0, 1, 1, 0])
    codes = torch.tensor([[1.0, 0.0], [0.0, 3.0]])[labels]
    outputs = {"codes": {"audio": codes}, "gate_weights": {"audio": torch.ones(4)}}
    spread.add({"logits": codes}, labels)
    spread.add(outputs, torch.rand(4))
    spread.add(outputs, torch.ones(4, 2))
    assert spread.metrics() == {}
    spread.add(outputs, labels)
    found = spread.metrics()
    assert found["intra_class_share_audio"] == pytest.approx(0, abs=1e-12)
    assert np.isclose(found["intra_class_variance_fused"], 0, atol=1e-12)
