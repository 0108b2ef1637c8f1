"""A run that was interrupted and resumed equals one that was not, wherever it was interrupted."""

import json

import pytest
import torch
from transformers import TrainerCallback

from hf_mmalign.trainer import callbacks
from tests.trainer.training import build_model, build_trainer, weights

EVERY_STEP = {"save_strategy": "steps", "save_steps": 1}
# At this rate training diverges, and the first evaluation is the best.
STOPPING = EVERY_STEP | {
    "max_steps": 20,
    "learning_rate": 1.0,
    "eval_strategy": "steps",
    "eval_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "early_stopping_patience": 3,
}


def trained(folder, resume=None, **arguments):
    trainer = build_trainer(folder, build_model(hidden_dropout_prob=0.2), **EVERY_STEP | arguments)
    trainer.train(resume_from_checkpoint=resume and str(resume))
    return trainer


def assert_same_run(one, other) -> None:
    """Equal weights and log; other random numbers in dropout would differ by 1e-3."""
    timing = ("runtime", "per_second", "total_flos")

    def log(trainer):
        # The last entry sums up a session, not the run.
        entries = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
        return [{key: value for key, value in entry.items() if not key.endswith(timing)} for entry in entries]

    assert [entry.keys() for entry in log(one)] == [entry.keys() for entry in log(other)]
    for mine, theirs in zip(log(one), log(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    assert weights(one.model).keys() == weights(other.model).keys()
    for name, tensor in weights(one.model).items():
        torch.testing.assert_close(tensor, weights(other.model)[name], atol=1e-6, rtol=0, equal_nan=True)


@pytest.mark.parametrize("steps", [6, 8], ids=["in the middle of the second epoch", "at the end"])
def test_resumed_from_before_an_evaluation(tmp_path, steps):
    # Checkpoint 4 is written at the last step of an epoch, and the epoch's evaluation comes after it.
    evaluating = {"eval_strategy": "epoch", "max_steps": steps, "metric_for_best_model": "loss"}
    whole = trained(tmp_path / "whole", **evaluating)
    assert [entry["step"] for entry in whole.state.log_history if "eval_loss" in entry] == [4, steps]
    for checkpoint in (4, steps):
        resumed = trained(tmp_path / str(checkpoint), tmp_path / "whole" / f"checkpoint-{checkpoint}", **evaluating)
        assert_same_run(whole, resumed)
        assert resumed.state.best_metric == pytest.approx(whole.state.best_metric, rel=1e-4)
        assert resumed.state.best_global_step == whole.state.best_global_step


def test_an_evaluation_that_was_done_is_not_done_again(tmp_path):
    whole = trained(tmp_path, eval_strategy="steps", eval_steps=2, max_steps=4)
    resumed = trained(tmp_path / "resumed", tmp_path / "checkpoint-4", eval_strategy="epoch", max_steps=4)
    assert_same_run(whole, resumed)


def test_resumed_after_its_last_step_a_run_takes_no_further(tmp_path):
    whole = trained(tmp_path, max_steps=3)
    resumed = trained(tmp_path / "resumed", tmp_path / "checkpoint-3", max_steps=3)
    assert resumed.state.global_step == 3
    assert_same_run(whole, resumed)


def test_early_stopping_counts_over_an_interruption(tmp_path):
    whole = trained(tmp_path / "whole", **STOPPING)
    last = whole.state.global_step
    assert 4 <= last < 20
    assert whole.state.best_global_step == last - 3
    for checkpoint in (last - 1, last):
        # The best checkpoint is looked for where it was written.
        resumed = trained(tmp_path / "resumed", tmp_path / "whole" / f"checkpoint-{checkpoint}", **STOPPING)
        assert resumed.state.global_step == last
        assert_same_run(whole, resumed)
    patient = STOPPING | {"early_stopping_patience": 4}
    resumed = trained(tmp_path / "patient", tmp_path / "whole" / f"checkpoint-{last}", **patient)
    assert resumed.state.global_step == last + 1


class Slow(TrainerCallback):
    """Lets ten seconds pass at every step."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(callbacks.time, "perf_counter", lambda: self.now)

    def on_step_begin(self, args, state, control, **kwargs):
        self.now += 10


def test_the_seconds_of_all_sessions_are_counted(tmp_path, monkeypatch):
    def seconds(folder, steps, resume=None):
        keywords = {"callbacks": [Slow(monkeypatch)]}
        trainer = build_trainer(folder, trainer_keywords=keywords, **EVERY_STEP, max_steps=steps)
        trainer.train(resume_from_checkpoint=resume)
        again = trainer.training_seconds
        trainer.state.save_to_json(str(tmp_path / "state.json"))
        return again

    assert seconds(tmp_path, 4) == 40
    # What the first session did after checkpoint 3 is done again.
    assert seconds(tmp_path / "b", 6, str(tmp_path / "checkpoint-3")) == 60
    assert seconds(tmp_path / "c", 6, str(tmp_path / "b" / "checkpoint-6")) == 60
    saved = json.loads((tmp_path / "state.json").read_text())["stateful_callbacks"]["TrainingClock"]
    assert saved["attributes"]["seconds"] == 60


def test_checkpoints_from_before_these_callbacks_can_be_gone_on_from(tmp_path):
    trained(tmp_path, max_steps=2)
    file = tmp_path / "checkpoint-2" / "trainer_state.json"
    state = json.loads(file.read_text())
    state["stateful_callbacks"] = {"TrainerControl": state["stateful_callbacks"]["TrainerControl"]}
    file.write_text(json.dumps(state))
    patience = {"early_stopping_patience": 2, "eval_strategy": "epoch", "metric_for_best_model": "loss"}
    assert trained(tmp_path, file.parent, max_steps=4, **patience).state.global_step == 4
