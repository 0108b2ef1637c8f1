import pytest
import torch

from tests.trainer.test_backbone_learning_rate import decalign
from tests.trainer.training import build_trainer, weights

DROPOUT = {"mixture_momentum": 0.9, "classifier_dropout": 0.2, "feature_dropout": 0.1}


def test_components_are_logged_and_add_up_to_equation_13(tmp_path):
    trainer = build_trainer(tmp_path, decalign(decalign_alpha=0.3, decalign_beta=0.2, contrastive_weight=0.1))
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 4
    logs.append({name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()})
    for entry in logs:
        weighted = 0.3 * entry["loss_hete"] + 0.2 * entry["loss_homo"] + 0.1 * entry["loss_contrastive"]
        assert entry["loss"] == pytest.approx(entry["loss_task"] + entry["loss_decouple"] + weighted, rel=1e-4)
        assert entry["loss_hete"] == pytest.approx(entry["loss_hete_transport"] + entry["loss_hete_prototype"])


@pytest.mark.parametrize("bf16", [False, True])
def test_resumed_equals_uninterrupted(tmp_path, bf16):
    arguments = {"save_strategy": "steps", "save_steps": 2, "bf16": bf16}
    whole = build_trainer(tmp_path, decalign(**DROPOUT), **arguments)
    whole.train()
    resumed = build_trainer(tmp_path / "resumed", decalign(**DROPOUT), **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = weights(whole.model)
    assert torch.isfinite(expected["alignment.mixture_means"]).all()
    for name, value in weights(resumed.model).items():
        assert torch.equal(value, expected[name]), name
