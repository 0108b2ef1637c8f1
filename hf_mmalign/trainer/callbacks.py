"""Callbacks that make a resumed run equal an uninterrupted one, where Trainer itself forgets."""

import time
from collections.abc import Callable
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import IntervalStrategy

from ..perturbation.noisy_data import NoisyDataset


class TrainingClock(TrainerCallback, ExportableState):
    """Counts the seconds of a training over all its sessions; they are saved in the checkpoints' `trainer_state.json`.

    A session that was killed counts up to the checkpoint from which the next one goes on: what came after is done again.
    """

    def __init__(self):
        self.seconds = 0.0
        self._since: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.seconds = _saved_attributes(self, state).get("seconds", 0.0)
        self._since = time.perf_counter()
        _register(self, state)

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds, self._since = self._now(), None
        _register(self, state)

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"seconds": self._now()}}

    def _now(self) -> float:
        return self.seconds + (time.perf_counter() - self._since if self._since is not None else 0.0)


class NoiseDraw(TrainerCallback):
    """Tells a training set with noise which epoch begins, so that each has a draw of its own."""

    def __init__(self, dataset: NoisyDataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        # An epoch that a resumed run is in the middle of has a fraction, and one that begins may lack a last bit.
        self.dataset.start_epoch(int(state.epoch + 1e-6))


class ResumableEarlyStopping(EarlyStoppingCallback):
    """[`EarlyStoppingCallback`] that goes on counting where the checkpoint was written, with the present patience.

    Trainer restores the count only with `restore_callback_states_from_checkpoint`, then with the former patience, and
    goes on training from a checkpoint after which the run had stopped.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        name = "early_stopping_patience_counter"
        self.early_stopping_patience_counter = _saved_attributes(self, state).get(name, 0)
        _register(self, state)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True
        return control


class LateEvaluation(TrainerCallback):
    """Makes up for an epoch's evaluation that a checkpoint of the epoch's last step had still to come.

    Args:
        evaluate (`Callable[[], None]`): Evaluates and notes the best model, as Trainer does at an epoch's end.
    """

    def __init__(self, evaluate: Callable[[], None]):
        self.evaluate = evaluate

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> TrainerControl:
        at_epoch_end = state.epoch > 0 and (float(state.epoch).is_integer() or state.global_step >= state.max_steps)
        wanted = args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= state.epoch
        if state.global_step and at_epoch_end and wanted and not _evaluated(state):
            self.evaluate()
        return control


def _evaluated(state: TrainerState) -> bool:
    entries = (entry for entry in state.log_history if entry.get("step") == state.global_step)
    return any(key.startswith("eval_") for entry in entries for key in entry)


def _saved_attributes(callback: ExportableState, state: TrainerState) -> dict[str, Any]:
    """What a checkpoint says about this callback; nothing if training begins, or the checkpoint knows it not."""
    saved = state.stateful_callbacks.get(type(callback).__name__) if state.global_step else None
    return saved["attributes"] if isinstance(saved, dict) else {}


def _register(callback: ExportableState, state: TrainerState) -> None:
    # Trainer fails when it saves a callback that the checkpoint it resumed from did not know.
    state.stateful_callbacks[type(callback).__name__] = callback.state()
