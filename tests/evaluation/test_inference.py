import numpy as np
import pytest
import torch

from hf_mmalign import DecAlignConfig, DecAlignForSequenceClassification
from hf_mmalign.evaluation.inference import predict

from ..tiny import feature_batch, rows_of


def test_predictions_do_not_depend_on_batches_and_leave_missing_modalities_out():
    torch.manual_seed(0)
    config = DecAlignConfig(
        feature_sizes={"text": 6, "audio": 4}, modalities=["text", "audio"], num_labels=3, hidden_size=8,
        num_hidden_layers=1, num_attention_heads=2, num_prototypes=2, problem_type="single_label_classification",
    )  # fmt: skip
    model = DecAlignForSequenceClassification(config).train()
    batch = feature_batch({"text": [4, 3, 0, 2, 5], "audio": [6, 0, 5, 7, 4]}, {"text": 6, "audio": 4})
    batch["labels"] = torch.tensor([0, 1, 2, 0, 1])

    def collate(rows):
        return rows_of(batch, list(rows))

    whole = predict(model, range(5), collate)
    parts = predict(model, range(5), collate, batch_size=1)  # a batch may lack a modality altogether
    np.testing.assert_allclose(whole.logits, parts.logits, atol=1e-5)
    assert whole.labels.tolist() == parts.labels.tolist() == [0, 1, 2, 0, 1]
    assert {name: values.shape for name, values in whole.modality_features.items()} == {
        "text": (4, 16),
        "audio": (4, 16),
    }
    for name, values in whole.modality_features.items():
        np.testing.assert_allclose(values, parts.modality_features[name], atol=1e-5)
        assert np.linalg.norm(values, axis=1).min() > 0
    del batch["labels"]
    assert predict(model, range(5), collate).labels is None
    with pytest.raises(ValueError, match="empty"):
        predict(model, [], collate)
