import pytest
import torch
import torch.nn.functional as F

from hf_mmalign.losses.task import infer_problem_type, task_loss


def test_each_problem_type_has_its_loss():
    logits = torch.randn(4, 3)
    classes = torch.tensor([0, 2, 1, 1])
    hot = F.one_hot(classes, 3).float()
    loss = task_loss(logits, classes, "single_label_classification")
    torch.testing.assert_close(loss, F.cross_entropy(logits, classes))
    expected = F.binary_cross_entropy_with_logits(logits, hot)
    torch.testing.assert_close(task_loss(logits, hot, "multi_label_classification"), expected)
    # (B,) targets against (B, 1) outputs must not broadcast to (B, B).
    assert torch.allclose(task_loss(logits[:, :1], hot[:, 0], "regression"), (logits[:, 0] - hot[:, 0]).square().mean())


def test_half_precision_logits_are_scored_in_fp32():
    logits = torch.randn(4, 3)
    loss = task_loss(logits.bfloat16(), torch.zeros(4, dtype=torch.long), "single_label_classification")
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [("regression", torch.zeros(4, 2)), ("multi_label_classification", torch.zeros(4)), ("ranking", torch.zeros(4, 3))],
)
def test_what_does_not_fit_is_refused(problem_type, labels):
    with pytest.raises(ValueError, match="do not fit"):
        task_loss(torch.zeros(4, 3), labels, problem_type)


def test_problem_type_is_inferred_as_transformers_does():
    assert infer_problem_type(torch.zeros(3), 1) == "regression"
    assert infer_problem_type(torch.zeros(3, dtype=torch.long), 4) == "single_label_classification"
    assert infer_problem_type(torch.zeros(3, 4), 4) == "multi_label_classification"
