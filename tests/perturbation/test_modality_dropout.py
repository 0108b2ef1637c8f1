import pytest
import torch

from hf_mmalign import MultimodalTrainingArguments
from hf_mmalign.models.modeling_base import ModalityEmbedding
from hf_mmalign.perturbation.modality_dropout import ModalityDropout
from tests.trainer.test_backbone_learning_rate import decalign, vilt
from tests.trainer.training import build_model, build_trainer, weights

B, T = 20000, 2


def embeddings_of(present: torch.Tensor) -> dict[str, ModalityEmbedding]:
    """Modalities `m0`, `m1`, … of `(M, B)` samples; the first of the T tokens is valid but no content."""
    masks = [row.unsqueeze(1).expand(-1, T) for row in present]
    content = torch.tensor([False, True])
    return {
        f"m{m}": ModalityEmbedding(torch.ones(len(mask), T, 1), mask, mask & content) for m, mask in enumerate(masks)
    }


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("p", [0.3, 0.8])
def test_each_modality_goes_with_probability_p_but_never_the_last(modalities, p):
    torch.manual_seed(0)
    after = ModalityDropout(p)(embeddings_of(torch.ones(modalities, B, dtype=torch.bool)))
    present = torch.stack([embedding.present for embedding in after.values()])
    assert present.any(dim=0).all()
    for embedding, kept in zip(after.values(), present, strict=True):
        assert torch.equal(embedding.mask, kept.unsqueeze(1).expand(-1, T))
        # All would go with probability p^M; then one of M stays.
        expected = p - p**modalities / modalities
        assert (~kept).float().mean().item() == pytest.approx(expected, abs=5 * (0.25 / B) ** 0.5)
    # The draws of two modalities are independent but for that.
    if modalities == 3:
        both = (~present[0] & ~present[1]).float().mean().item()
        assert both == pytest.approx(p**2 - p**3 * 2 / 3, abs=5 * (0.25 / B) ** 0.5)


def test_what_a_sample_has_not_neither_comes_nor_counts():
    torch.manual_seed(0)
    before = torch.tensor([[True, False, False], [False, True, False]]).repeat_interleave(100, dim=1)
    after = ModalityDropout(0.9)(embeddings_of(before))
    assert torch.equal(torch.stack([embedding.present for embedding in after.values()]), before)


def test_other_values_pass_unchanged():
    before = embeddings_of(torch.ones(2, 5, dtype=torch.bool))
    for name, embedding in ModalityDropout(0.5)(before).items():
        assert embedding.tokens is before[name].tokens


@pytest.mark.parametrize("build", [build_model, vilt, decalign])
def test_training_sees_it_and_evaluation_does_not(tmp_path, build):
    logged, evaluated = [], []
    for p in (0.0, 0.7):
        trainer = build_trainer(tmp_path / str(p), build(), modality_dropout=p, max_steps=1, learning_rate=0.0)
        trainer.train()
        logged.append(trainer.state.log_history[0]["loss_task"])
        evaluated.append(trainer.evaluate()["eval_loss_task"])
    assert logged[0] != pytest.approx(logged[1])
    assert evaluated[0] == pytest.approx(evaluated[1])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_equals_uninterrupted(tmp_path, accumulation):
    arguments = {"save_strategy": "steps", "save_steps": 2, "modality_dropout": 0.5}
    arguments |= {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 2}
    whole = build_trainer(tmp_path, decalign(), **arguments)
    whole.train()
    resumed = build_trainer(tmp_path / "resumed", decalign(), **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = weights(whole.model)
    for name, value in weights(resumed.model).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_a_wrong_probability_is_refused(tmp_path, p):
    with pytest.raises(ValueError, match="modality_dropout"):
        MultimodalTrainingArguments(str(tmp_path), modality_dropout=p)
