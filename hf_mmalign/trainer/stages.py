"""Training in stages, each with losses, a learning rate and a schedule of its own: `training_stages`."""

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments, get_scheduler


@dataclass(frozen=True)
class TrainingStage:
    """One entry of `training_stages`; whatever it leaves out is as the training arguments say.

    Args:
        num_train_epochs (`float`): Its length. With `max_steps`, its share of them.
        losses (`list[str]`, *optional*): The loss components that count, `generator_*` for all of that beginning.
        learning_rate (`float`, *optional*): Rates of backbone and modalities keep their ratio to it.
        lr_scheduler_type (`str`, *optional*), lr_scheduler_kwargs (`dict`, *optional*): The schedule from the stage's first
            step to its last: `polynomial` with `{lr_end: 1e-5, power: 1}` falls linearly to 1e-5.
        warmup_steps (`int`, defaults to 0): Steps in which the rate rises from 0.
    """

    num_train_epochs: float
    losses: list[str] | None = None
    learning_rate: float | None = None
    lr_scheduler_type: str | None = None
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    warmup_steps: int = 0


def read_stages(value: Any) -> list[TrainingStage]:
    """The stages that `training_stages` describes, as a list or as its JSON text.

    Raises:
        ValueError: For text that is no JSON, and for an entry that is no stage, by its place.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"training_stages is no JSON text: {error}.") from error
    if not isinstance(value, list) or not value:
        raise ValueError(f"training_stages is {value!r}; expected a list with a mapping for each stage.")
    known = [one.name for one in fields(TrainingStage)]
    stages = []
    for index, entry in enumerate(value):
        where = f"training_stages[{index}]"
        if not isinstance(entry, Mapping) or not set(entry) <= set(known) or "num_train_epochs" not in entry:
            raise ValueError(
                f"{where} is {entry!r}; expected a mapping with num_train_epochs, and of {known} what differs."
            )
        stage = TrainingStage(**{key: _number(key, given) for key, given in entry.items()})
        for name in ("num_train_epochs", "learning_rate", "warmup_steps"):
            number = getattr(stage, name)
            least = 0 if name == "warmup_steps" else 1e-300
            if number is not None and (isinstance(number, str | bool) or not least <= number < float("inf")):
                raise ValueError(f"{where}.{name} is {number!r}; expected a number above 0.")
        if stage.losses is not None and not (isinstance(stage.losses, list) and stage.losses):
            raise ValueError(
                f"{where}.losses is {stage.losses!r}; expected a list of loss components, or none for all."
            )
        stages.append(stage)
    return stages


def _number(key: str, value: Any) -> Any:
    """YAML reads 1e-3, without a point, as text."""
    if key == "lr_scheduler_kwargs" and isinstance(value, Mapping):
        return {name: _number(name, one) for name, one in value.items()}
    try:
        return float(value) if isinstance(value, str) and key not in ("losses", "lr_scheduler_type") else value
    except ValueError:
        return value


class StagedTraining(TrainerCallback):
    """Says in each step which losses count and how the learning rate stands, and begins each stage with a new optimizer.

    Everything follows from the number of the step, so that a run is resumed inside of any stage. What the optimizer has
    gathered is forgotten between stages: moments of other losses, and of parameters that had no gradient, say nothing of
    the steps to come.

    Args:
        args ([`TrainingArguments`]): With `training_stages`.

    Raises:
        ValueError: For a learning rate of 0, of which no stage's can be a multiple.
    """

    def __init__(self, args: TrainingArguments):
        if args.learning_rate == 0:
            raise ValueError("training_stages needs a learning_rate above 0: each stage's rate is a multiple of it.")
        self.args = args
        self.stages = read_stages(args.training_stages)
        self.starts = [0] * len(self.stages)

    def scheduler(self, optimizer: torch.optim.Optimizer, num_training_steps: int) -> torch.optim.lr_scheduler.LambdaLR:
        """The schedule of all stages, each of its share of the steps."""
        ends = list(accumulate(stage.num_train_epochs for stage in self.stages))
        self.starts = [0, *(round(num_training_steps * end / ends[-1]) for end in ends[:-1])]
        stops = [*self.starts[1:], num_training_steps]
        factors = [
            self._factor(index, stop - start)
            for index, (start, stop) in enumerate(zip(self.starts, stops, strict=True))
        ]

        def factor(step: int) -> float:
            index = self.index(step)
            return factors[index](step - self.starts[index])

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def _factor(self, index: int, steps: int) -> Callable[[int], float]:
        """A stage's learning rate in its n-th step, as a multiple of the training arguments'."""
        stage = self.stages[index]
        rate = self.args.learning_rate if stage.learning_rate is None else stage.learning_rate
        kind = stage.lr_scheduler_type or self.args.lr_scheduler_type
        # The libraries' schedules are functions of the step inside a scheduler, which wants an optimizer of that rate.
        stand_in = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
        options = stage.lr_scheduler_kwargs or (
            self.args.lr_scheduler_kwargs if stage.lr_scheduler_type is None else None
        )
        try:
            made = get_scheduler(kind, stand_in, int(stage.warmup_steps), steps, dict(options or {}))
            lambdas = made.lr_lambdas
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"training_stages[{index}]: lr_scheduler_type {kind!s} with {options}: {error}") from error
        return lambda step: rate / self.args.learning_rate * lambdas[0](step)

    def index(self, step: int) -> int:
        """The stage of the step after so many, from 0."""
        return bisect_right(self.starts, step) - 1

    def weights(self, step: int, losses: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> dict[str, float]:
        """The weights of the loss components in the step after so many: 0 for those that do not count.

        Raises:
            ValueError: For a stage with a component that the model does not have.
        """
        index = self.index(step)
        wanted = self.stages[index].losses
        if wanted is None:
            return dict(weights)
        for pattern in wanted:
            # One that the config gives no weight may not be computed.
            if not any(fnmatchcase(name, pattern) for name in (*losses, *weights)):
                raise ValueError(
                    f"training_stages[{index}].losses has {pattern!r}, but the model's loss components are {list(losses)}."
                )
        chosen = {name for name in losses if any(fnmatchcase(name, pattern) for pattern in wanted)}
        # Weighted by 0 and not left out: of several processes, each parameter takes part in every step.
        return {name: weights.get(name, 1.0) if name in chosen else 0.0 for name in losses}

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        if optimizer is not None and state.global_step and state.global_step in self.starts:
            inner = getattr(optimizer, "optimizer", optimizer)  # of Accelerate's
            for part in getattr(inner, "parts", [inner]):
                part.state.clear()
