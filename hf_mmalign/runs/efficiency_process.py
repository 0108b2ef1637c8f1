"""The process in which one model is measured: it waits for its turn, does a part of the work, and tells its result.

A process of its own tells the memory of one model; turns let the machine's mood hit all models alike.
"""

import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch.utils.data import Dataset
from transformers import AutoConfig, PreTrainedModel, PrinterCallback, TrainerCallback
from transformers.utils import logging

from ..evaluation.efficiency import PeakMemory, count_flops, count_parameters, synchronize, time_forward
from ..evaluation.synthetic import synthetic_inputs, synthetic_labels
from .evaluation import load_model
from .tasks import task_of

# Different samples that latency is measured on; more would measure the same.
_SAMPLES = 8
# Not timed: passes at the begin of a turn, when caches hold another model, and a training's first steps.
_WARM_UP_PASSES = 2
WARM_UP_STEPS = 1
# The Trainer's arguments that are the same for all models, or would make a step something else.
OWN_ARGUMENTS = frozenset(
    {
        *("output_dir", "report_to", "disable_tqdm", "dataloader_pin_memory"),
        *("logging_strategy", "save_strategy", "eval_strategy", "max_steps", "seed", "use_cpu"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "train_noise"),
    }
)


@dataclass(frozen=True)
class MeasuredModel:
    """A model, and how it is measured.

    Attributes:
        name (`str`): What the table calls it.
        folder (`str`, *optional*): Where it is saved; else it is made of `model_type` and `fields` with random weights.
        model_type (`str`), fields (`dict[str, Any]`): Its config.
        training (`dict[str, Any]`): Arguments of the Trainer beside the defaults.
    """

    name: str
    folder: str | None = None
    model_type: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def config(self):
        """Its config. Raises ValueError or TypeError for fields that make none."""
        if self.folder is not None:
            return AutoConfig.from_pretrained(self.folder)
        return AutoConfig.for_model(self.model_type, **self.fields)

    def build(self) -> PreTrainedModel:
        """The model, on the CPU."""
        if self.folder is not None:
            return load_model(self.folder)
        config = self.config()
        return task_of(config).auto_model.from_config(config)


@dataclass(frozen=True)
class Schedule:
    """What every model goes through.

    Attributes:
        inputs (`dict[str, dict[str, int]]`): Sizes, as of [`~evaluation.synthetic.synthetic_inputs`].
        rounds (`list[int]`): Forward passes in each turn.
        train_steps (`int`): Measured training steps, a turn each.
        batch_size (`int`): Of these.
        device (`str`), threads (`int`), seed (`int`): Where, with how many threads, and of weights and values.
    """

    inputs: dict[str, dict[str, int]]
    rounds: list[int]
    train_steps: int
    batch_size: int
    device: str
    threads: int
    seed: int

    @property
    def turns(self) -> int:
        """Turns of a model: counts, forward passes, training steps, memory."""
        return 1 + len(self.rounds) + WARM_UP_STEPS + self.train_steps + 1


class Turns:
    """This process's end of the connection: what is between `begin` and `end` happens while all others wait."""

    def __init__(self, connection: Connection):
        self.connection = connection
        self.running = False

    def begin(self) -> None:
        """Wait for a turn, unless this is one already."""
        if not self.running:
            self.connection.recv()
            self.running = True

    def end(self, result: Any) -> None:
        """Tell its result and let others go on."""
        self.running = False
        self.connection.send(result)


@dataclass(frozen=True)
class Failure:
    """The result of a turn that failed."""

    message: str


def work(connection: Connection, model: MeasuredModel, schedule: Schedule) -> None:
    """What the process does: :attr:`Schedule.turns` turns, or until one fails."""
    torch.set_num_threads(schedule.threads)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        _measure(Turns(connection), model, schedule)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return  # nobody asks any more
    except Exception as error:
        connection.send(Failure(f"{type(error).__name__}: {error}"))


def _measure(turns: Turns, measured: MeasuredModel, schedule: Schedule) -> None:
    turns.begin()
    torch.manual_seed(schedule.seed)
    generator = torch.Generator().manual_seed(schedule.seed)
    memory = PeakMemory(schedule.device)
    model = measured.build()
    samples = [_inputs(model.config, schedule, 1, generator) for _ in range(_SAMPLES)]
    parameters, trainable = count_parameters(model)
    flops = count_flops(model, samples[0])
    model.to(schedule.device)
    samples = send_to_device(samples, schedule.device)
    turns.end({"parameters": parameters, "trainable_parameters": trainable, "flops": flops})
    for passes in schedule.rounds:
        turns.begin()
        turns.end(time_forward(model, samples, passes, _WARM_UP_PASSES))
    turns.begin()  # the first step's, and all that is prepared for it
    labels = synthetic_labels(model.config, schedule.inputs, schedule.batch_size, generator)
    batch = synthetic_inputs(model.config, schedule.inputs, schedule.batch_size, generator) | {"labels": labels}
    _train(turns, model, batch, measured, schedule)
    turns.begin()
    turns.end(memory.mib())


def _inputs(config, schedule: Schedule, batch_size: int, generator: torch.Generator) -> dict[str, Any]:
    """What a forward pass takes; of a translation also the tokens so far, all of them at once."""
    inputs = synthetic_inputs(config, schedule.inputs, batch_size, generator)
    if config.generates:
        inputs["decoder_input_ids"] = synthetic_labels(config, schedule.inputs, batch_size, generator)
    return inputs


class _Batches(Dataset):
    """The same batch in every step: loading is no part of what is measured."""

    def __init__(self, batch: dict[str, Any], steps: int):
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batch


class _TimedSteps(TrainerCallback):
    """A turn for each training step, with all that the Trainer does in it."""

    def __init__(self, turns: Turns):
        self.turns = turns

    def on_step_begin(self, args, state, control, **kwargs):
        self.turns.begin()
        synchronize()
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        synchronize()
        self.turns.end(time.perf_counter() - self.start)


def _train(
    turns: Turns, model: PreTrainedModel, batch: dict[str, Any], measured: MeasuredModel, schedule: Schedule
) -> None:
    task, steps = task_of(model.config), WARM_UP_STEPS + schedule.train_steps
    with tempfile.TemporaryDirectory() as folder:
        arguments = task.training_arguments(
            **measured.training,
            **_quiet(folder),
            per_device_train_batch_size=1,  # of batches
            max_steps=steps,
            seed=schedule.seed,
            use_cpu=schedule.device == "cpu",
        )
        if arguments.device.type == "cuda":
            arguments._n_gpu = 1  # Trainer would divide a batch among all there are
        trainer = task.trainer(
            model, arguments, train_dataset=_Batches(batch, steps), data_collator=lambda rows: rows[0]
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_TimedSteps(turns))
        trainer.train()


def _quiet(folder: str) -> dict[str, Any]:
    """Arguments that leave nothing behind."""
    never = {f"{name}_strategy": "no" for name in ("logging", "save", "eval")}
    return never | {"output_dir": folder, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False}
