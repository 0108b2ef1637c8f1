import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from hf_mmalign.trainer.checkpoints import last_whole_checkpoint
from tests.trainer.training import build_model, build_trainer, weights

REPOSITORY = Path(__file__).resolve().parents[2]


def run_script(*command: str, expect_success: bool = True) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == expect_success, done.stderr[-3000:]


def assert_same_weights(one: dict, other: dict, **tolerance) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            tensor, other[name], equal_nan=True, msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


def train_log(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_components_are_logged_and_add_up_to_the_loss(tmp_path):
    trainer = build_trainer(tmp_path)
    trainer.train()
    logs = train_log(trainer)
    assert len(logs) == 4
    for entry in logs:
        assert entry["loss"] == pytest.approx(entry["loss_task"] + 5.0 * entry["loss_wma"], rel=1e-5)
        moved = entry["wma_distance_text_vision"] - entry["wma_target_text_vision"] / 1.5
        assert entry["wma_drift_text_vision"] == pytest.approx(moved, abs=1e-5)
    metrics = trainer.evaluate()
    assert not any("wma_distance" in name for name in metrics)
    total = metrics["eval_loss_task"] + 5.0 * metrics["eval_loss_wma"]
    assert metrics["eval_loss"] == pytest.approx(total, rel=1e-5)


def test_the_solver_s_certificate_is_logged(tmp_path):
    trainer = build_trainer(tmp_path, build_model(wma_certificate=True), max_steps=2)
    trainer.train()
    assert all(0 <= entry["loss_wma_gap"] < 0.01 for entry in train_log(trainer))


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (4, 2), (2, 4)])
def test_gradient_accumulation_gives_the_same_training(tmp_path, batch_size, accumulation):
    expected = build_trainer(tmp_path / "a", per_device_train_batch_size=8, optim="sgd", max_steps=2)
    expected.train()
    trainer = build_trainer(
        tmp_path / "b",
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        max_steps=2,
    )
    trainer.train()
    assert_same_weights(weights(trainer.model), weights(expected.model), atol=2e-6, rtol=1e-4)
    for one, other in zip(train_log(trainer), train_log(expected), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["loss_wma"] == pytest.approx(other["loss_wma"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(tmp_path):
    run_script(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "tests.trainer.training", str(tmp_path / "two"),
        "--arguments", json.dumps({"per_device_train_batch_size": 2, "ddp_backend": "gloo", "optim": "sgd"}),
    )  # fmt: skip
    single = build_trainer(tmp_path / "one", per_device_train_batch_size=4, optim="sgd")
    single.train()
    two = load_file(tmp_path / "two" / "final.safetensors")
    assert not two["wma.reference"].isnan().any()
    assert_same_weights(two, weights(single.model), atol=2e-6, rtol=1e-4)
    log = [entry for entry in json.loads((tmp_path / "two" / "log.json").read_text()) if "loss" in entry]
    for one, other in zip(log, train_log(single), strict=True):
        assert one["loss_wma"] == pytest.approx(other["loss_wma"], rel=1e-3)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    dropout = json.dumps({"hidden_dropout_prob": 0.2})
    arguments = json.dumps({"save_strategy": "steps", "save_steps": 2, "max_steps": 6})
    script = [sys.executable, "-m", "tests.trainer.training"]
    run_script(*script, str(tmp_path / "whole"), "--fields", dropout, "--arguments", arguments)
    killed = [*script, str(tmp_path / "killed"), "--fields", dropout, "--arguments", arguments]
    run_script(*killed, "--kill-at", "5", expect_success=False)
    assert last_whole_checkpoint(tmp_path / "killed").endswith("checkpoint-4")
    # Another kill, in the middle of writing a checkpoint, must not spoil the resume either.
    partial = tmp_path / "killed" / "checkpoint-5"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(
        (tmp_path / "killed/checkpoint-4/model.safetensors").read_bytes()[:1000]
    )
    run_script(*killed, "--resume")
    one, other = (load_file(tmp_path / name / "final.safetensors") for name in ("whole", "killed"))
    assert_same_weights(one, other, atol=0, rtol=0)


def test_calibration_is_saved_and_restored(tmp_path):
    trainer = build_trainer(tmp_path, save_strategy="steps", save_steps=2, max_steps=2)
    trainer.train()
    reference = trainer.model.wma.reference.clone()
    assert not reference.isnan().any()
    resumed = build_trainer(tmp_path, max_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(resumed.model.wma.reference, reference)


def test_label_smoothing_and_own_losses_keep_the_regulariser(tmp_path):
    smoothed = build_trainer(tmp_path, label_smoothing_factor=0.1, max_steps=1)
    plain = build_trainer(tmp_path, max_steps=1)
    own = build_trainer(
        tmp_path,
        max_steps=1,
        trainer_keywords={"compute_loss_func": lambda outputs, labels, **_: outputs.logits.sum() * 0},
    )
    logs = []
    for trainer in (plain, smoothed, own):
        trainer.train()
        logs.append(train_log(trainer)[0])
    assert logs[0]["loss_wma"] == pytest.approx(logs[1]["loss_wma"]) == pytest.approx(logs[2]["loss_wma"])
    assert logs[1]["loss_task"] != pytest.approx(logs[0]["loss_task"])
    assert logs[1]["loss"] == pytest.approx(logs[1]["loss_task"] + 5 * logs[1]["loss_wma"], rel=1e-5)
    assert logs[2]["loss"] == pytest.approx(5 * logs[2]["loss_wma"], rel=1e-5)


def test_bf16_trains_and_logs(tmp_path):
    trainer = build_trainer(tmp_path, bf16=True, max_steps=2)
    trainer.train()
    assert all(torch.isfinite(torch.tensor(entry["loss_wma"])) for entry in train_log(trainer))


def test_early_stopping_and_best_model(tmp_path):
    trainer = build_trainer(
        tmp_path,
        max_steps=40,
        learning_rate=1.0,  # diverges, so that the first evaluation is the best
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        early_stopping_patience=2,
        save_total_limit=1,
    )
    trainer.train()
    assert trainer.state.global_step < 40
    assert trainer.state.best_model_checkpoint is not None


def test_lora_trains_calibrates_and_resumes(tmp_path):
    def adapted():
        model = build_model()
        lora = LoraConfig(r=2, target_modules=["query"], modules_to_save=model.modules_outside_backbone)
        return get_peft_model(model, lora)

    whole = build_trainer(tmp_path / "a", adapted(), max_steps=4, save_strategy="steps", save_steps=2)
    frozen = whole.model.base_model.model.bert.embeddings.word_embeddings.weight.clone()
    whole.train()
    assert torch.equal(whole.model.base_model.model.bert.embeddings.word_embeddings.weight, frozen)
    assert not whole.multimodal_model.wma.reference.isnan().any()
    resumed = build_trainer(tmp_path / "a", adapted(), max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    assert_same_weights(weights(resumed.model), weights(whole.model), atol=1e-6, rtol=1e-5)


def test_saved_config_is_not_marked_by_trainer(tmp_path):
    from hf_mmalign import ViltWmaConfig, ViltWmaForSequenceClassification
    from tests.tiny import TOKENS, VILT

    model = ViltWmaForSequenceClassification(ViltWmaConfig(**VILT | TOKENS))
    build_trainer(tmp_path, model)
    assert "use_cache" not in model.config.to_dict()
    assert build_trainer(tmp_path).model.config.use_cache is True
