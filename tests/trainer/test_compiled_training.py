import pytest
import torch

from tests.trainer.training import build_model, build_trainer, weights

COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}  # traces all that Inductor would, and is quick


@pytest.mark.parametrize("modality_dropout", [0.0, 0.4])
def test_compiled_training_is_the_eager_one(tmp_path, modality_dropout):
    torch._dynamo.reset()
    runs = []
    for arguments in ({}, COMPILED):
        trainer = build_trainer(tmp_path, modality_dropout=modality_dropout, **arguments)
        trainer.train()
        runs.append(trainer)
    eager, compiled = runs
    assert isinstance(compiled.model_wrapped, torch._dynamo.OptimizedModule)
    for expected, logged in zip(eager.state.log_history, compiled.state.log_history, strict=True):
        assert logged.keys() == expected.keys()
        for name in expected.keys() & {"loss", "loss_task", "loss_wma"}:
            assert logged[name] == pytest.approx(expected[name], rel=1e-3)
    torch.testing.assert_close(
        weights(compiled.multimodal_model), weights(eager.multimodal_model), atol=1e-3, rtol=1e-3
    )
    assert compiled.multimodal_model.config.problem_type == "single_label_classification"


def test_a_model_that_comes_compiled_is_calibrated_and_its_losses_are_logged(tmp_path):
    torch._dynamo.reset()
    model = build_model(wma_beta=1.5)
    trainer = build_trainer(tmp_path, torch.compile(model, backend="eager"), max_steps=1, modality_dropout=0.4)
    assert trainer.multimodal_model is model
    trainer.train()
    assert not model.wma.reference.isnan().any()
    assert "loss_wma" in trainer.state.log_history[0]
