"""Training in stages: which losses count, at which rate, with what the optimizer remembers."""

import math

import pytest
import torch

from hf_mmalign import MultimodalTrainingArguments
from tests.trainer.test_resume import assert_same_run
from tests.trainer.test_trainer import train_log
from tests.trainer.training import build_fusion, build_trainer, weights

HEADS = {"unimodal_heads": True}
TWO = [
    {
        "num_train_epochs": 1,
        "losses": ["unimodal_*"],
        "learning_rate": 1e-2,
        "lr_scheduler_type": "polynomial",
        "lr_scheduler_kwargs": {"lr_end": 1e-4, "power": 1},
    },
    {"num_train_epochs": 1, "learning_rate": 5e-3, "lr_scheduler_type": "constant"},
]
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "weight_decay": 0.0}


def staged(folder, stages=TWO, resume=None, **arguments):
    trainer = build_trainer(folder, build_fusion(**HEADS), training_stages=stages, **EVERY_STEP | arguments)
    before = weights(trainer.model)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer, before


def test_each_stage_has_its_losses_and_its_schedule(tmp_path):
    trainer, before = staged(tmp_path, **{"max_steps": -1})
    log = train_log(trainer)
    assert trainer.args.num_train_epochs == 2
    assert len(log) == 8
    falling = [1e-2 - (1e-2 - 1e-4) * step / 4 for step in range(4)]
    assert [entry["learning_rate"] for entry in log] == pytest.approx(falling + [5e-3] * 4)
    for entry in log:
        heads = entry["loss_unimodal_audio"] + entry["loss_unimodal_vision"]
        assert entry["loss"] == pytest.approx(heads + (entry["loss_task"] if entry["step"] > 4 else 0), rel=1e-3)
    first = torch.load(tmp_path / "checkpoint-4/optimizer.pt", weights_only=True)
    assert {int(state["step"]) for state in first["state"].values()} == {4}
    # As if training had just begun: in AdamW the moments, and their correction by the number of steps.
    second = torch.load(tmp_path / "checkpoint-5/optimizer.pt", weights_only=True)
    assert {int(state["step"]) for state in second["state"].values()} == {1}
    halfway = build_fusion(**HEADS).from_pretrained(tmp_path / "checkpoint-4")
    torch.testing.assert_close(halfway.classifier.weight, before["classifier.weight"], atol=0, rtol=0)
    assert not torch.equal(trainer.model.classifier.weight, before["classifier.weight"])


def test_two_stages_are_two_trainings(tmp_path):
    """Of half the steps each, the second from the first's weights."""
    plain = {"lr_scheduler_type": "constant", "learning_rate": 1e-2}
    staged(tmp_path / "both", [{"num_train_epochs": 1}, {"num_train_epochs": 1}], max_steps=6, **plain)
    one = build_trainer(tmp_path / "one", build_fusion(**HEADS), max_steps=3, **EVERY_STEP | plain)
    one.train()
    torch.testing.assert_close(
        build_fusion(**HEADS).from_pretrained(tmp_path / "both/checkpoint-3").state_dict(), one.model.state_dict()
    )


@pytest.mark.parametrize("checkpoint", [2, 4, 6], ids=["in the first stage", "between them", "in the second"])
def test_resumed_in_any_stage(tmp_path, checkpoint):
    mixed = {"modality_optimizers": {"audio": "sgd"}, "modality_learning_rates": {"audio": 1e-2}}
    whole, _ = staged(tmp_path / "whole", max_steps=8, **mixed)
    resume = tmp_path / "whole" / f"checkpoint-{checkpoint}"
    resumed, _ = staged(tmp_path / "resumed", resume=resume, max_steps=8, **mixed)
    assert_same_run(whole, resumed)


def test_max_steps_are_shared_out(tmp_path):
    stages = [{"num_train_epochs": 3, "learning_rate": 1e-3}, {"num_train_epochs": 1, "learning_rate": 1e-2}]
    constant = {"lr_scheduler_type": "constant"}
    trainer, _ = staged(tmp_path, stages, max_steps=8, **constant)
    assert [entry["learning_rate"] for entry in train_log(trainer)] == pytest.approx([1e-3] * 6 + [1e-2] * 2)


def test_evaluation_weighs_all_losses(tmp_path):
    trainer, _ = staged(tmp_path, max_steps=2)
    metrics = trainer.evaluate()
    parts = [metrics[f"eval_loss_{name}"] for name in ("task", "unimodal_audio", "unimodal_vision")]
    assert metrics["eval_loss"] == pytest.approx(math.fsum(parts), rel=1e-4)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, "expected a list with a mapping"),
        ("[{num_train_epochs: 1}]", "training_stages is no JSON text: "),
        ([{"losses": ["task"]}], r"training_stages\[0\] is .*num_train_epochs"),
        ([{"num_train_epochs": 1, "epochs": 2}], r"training_stages\[0\] is "),
        ([{"num_train_epochs": 0}], r"training_stages\[0\].num_train_epochs is 0"),
        ([{"num_train_epochs": 1, "learning_rate": "fast"}], r"training_stages\[0\].learning_rate is 'fast'"),
        ([{"num_train_epochs": 1, "losses": "task"}], r"training_stages\[0\].losses is 'task'"),
    ],
)
def test_what_is_no_stage_is_refused(tmp_path, stages, message):
    with pytest.raises(ValueError, match=message):
        MultimodalTrainingArguments(str(tmp_path), training_stages=stages)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"losses": ["gate"]}, r"training_stages\[0\].losses has 'gate', but the model's .*'task'"),
        ({"lr_scheduler_type": "greedy"}, r"training_stages\[0\]: lr_scheduler_type greedy"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"end": 1}}, "lr_scheduler_type polynomial"),
    ],
)
def test_what_a_stage_cannot_do_is_said_before_it_is_trained(tmp_path, stage, message):
    with pytest.raises(ValueError, match=message):
        staged(tmp_path, [{"num_train_epochs": 1} | stage], max_steps=2)


def test_no_stage_is_a_multiple_of_no_learning_rate(tmp_path):
    with pytest.raises(ValueError, match="needs a learning_rate above 0"):
        staged(tmp_path, [{"num_train_epochs": 1, "learning_rate": 1e-3}], max_steps=2, learning_rate=0.0)


def test_the_command_line_gives_stages_as_json_text(tmp_path):
    text = '[{"num_train_epochs": 2, "losses": ["task"]}, {"num_train_epochs": 3}]'
    args = MultimodalTrainingArguments(str(tmp_path), training_stages=text)
    assert args.num_train_epochs == 5
