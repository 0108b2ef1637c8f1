"""Gradient modulation: how fast each modality's encoder learns, by what the modality contributes (CAL, OGM-GE)."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import has_length

from ..losses.contribution import (
    NUM_SUMS,
    Measured,
    cal_coefficients,
    contribution,
    contribution_sums,
    dynamic_potential,
    measured,
    ogm_coefficients,
    performance_trend,
    smoothed_performance,
)
from ..models.modeling_base import ModalityEmbedding, MultimodalModelMixin
from ..perturbation.modalities import MissingModality
from .arguments import MultimodalTrainingArguments
from .modality_optimizers import optimizer_parts

# Steps between two measurements where each takes forward passes of its own.
_STEPS_BETWEEN_PASSES = 10
# The name among the states of callbacks in `trainer_state.json`.
_STATE = "gradient_modulation"
# Where a module that is not called through the whole model's wrapper has its parameters at hand.
_WHOLE_MODELS = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, tokens: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tokens.view_as(tokens)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


class ModulationStrategy(ABC):
    """From what was measured to a factor for each modality's gradient. Another strategy is a subclass in `STRATEGIES`.

    Args:
        args (`MultimodalTrainingArguments`): With the strategy's settings.
        modalities (`list[str]`): Their names, in the config's order.

    Attributes:
        values (`dict[str, list[float]]`): What is logged, a number for each modality; saved, and restored on resuming.
        history (`list[list[float]]`): What else the next update needs of the former ones.
        at_every_measurement (`bool`): Update after every step that measures, rather than once an epoch.
        needs_gain (`bool`): Whether φ is measured, which takes a prediction without each modality.
    """

    at_every_measurement = False
    needs_gain = True

    def __init__(self, args: MultimodalTrainingArguments, modalities: list[str]):
        self.args, self.modalities = args, modalities
        self.values: dict[str, list[float]] = {"coefficient": self.first_coefficients()}
        self.history: list[list[float]] = []

    def first_coefficients(self) -> list[float]:
        """The coefficients before anything was measured."""
        return [1 / len(self.modalities)] * len(self.modalities)

    @abstractmethod
    def update(self, measured: Measured) -> None:
        """Set `values`, the coefficients among them, from a new measurement."""

    def factors(self) -> list[float]:
        """What each modality's gradient is multiplied by: 1 + η a (CAL, Eq. 8)."""
        return [1 + self.args.modulation_eta * a for a in self.values["coefficient"]]

    def set_values(self, **values: Tensor) -> None:
        self.values = {name: value.tolist() for name, value in values.items()}


class ContributionGuided(ModulationStrategy):
    """CAL: the gradient of a modality that contributes more, and can still gain, is strengthened (Eqs. 1–8)."""

    def update(self, measured: Measured) -> None:
        args = self.args
        previous = torch.tensor(self.history[-1], dtype=torch.float64) if self.history else None
        smoothed = smoothed_performance(measured.performance, previous, args.performance_smoothing)
        self.history = [*self.history, smoothed.tolist()][-args.potential_window - 1 :]
        trend = performance_trend(torch.tensor(self.history, dtype=torch.float64), args.potential_window)
        potential = dynamic_potential(smoothed, trend, args.potential_lambda)
        worth = contribution(measured.phi, potential, measured.performance, args.contribution_variant)
        self.set_values(
            phi=measured.phi,
            performance=measured.performance,
            potential=potential,
            contribution=worth,
            coefficient=self.coefficients(worth),
        )

    def coefficients(self, worth: Tensor) -> Tensor:
        return cal_coefficients(worth, self.args.contribution_temperature)


class InvertedContribution(ContributionGuided):
    """The inverted weights of CAL's Table 6: what contributes less is strengthened."""

    def coefficients(self, worth: Tensor) -> Tensor:
        return cal_coefficients(worth, -self.args.contribution_temperature)


class OnTheFly(ModulationStrategy):
    """OGM-GE (Peng et al. 2022): the gradient of a modality that is ahead of the others is weakened.

    A step's coefficients come from the measurement of the last one, so that they are the same for all its micro-batches.
    """

    at_every_measurement = True
    needs_gain = False

    def first_coefficients(self) -> list[float]:
        return [1.0] * len(self.modalities)

    def update(self, measured: Measured) -> None:
        coefficient, ratio = ogm_coefficients(measured.score, self.args.ogm_alpha)
        self.set_values(performance=measured.performance, score=measured.score, ratio=ratio, coefficient=coefficient)

    def factors(self) -> list[float]:
        return self.values["coefficient"]


STRATEGIES: dict[str, type[ModulationStrategy]] = {
    "cal": ContributionGuided,
    "weak": InvertedContribution,
    "ogm": OnTheFly,
}


class Modulation(TrainerCallback):
    """Measures what modalities contribute and scales their gradients, or their learning rates, in [`MultimodalTrainer`].

    In `gradient` mode :meth:`hook` multiplies the gradient where it leaves the rest of the model for a modality's encoder,
    so accumulation, clipping, mixed precision and DDP see gradients that are scaled already, and what lies behind the
    modality hooks, the fusion head among it, gets its own. In `lr` mode the learning rate of the same parameters
    (`embedding_parameters`) is multiplied for the length of an optimizer step.

    Args:
        args (`MultimodalTrainingArguments`): With `gradient_modulation` other than `"none"`.
        model (`Callable[[], MultimodalModelMixin]`): Gives the model, free of wrappers.
        accelerator (`Accelerator`): The Trainer's.

    Raises:
        ValueError: If the model is none of this package's kind, generates texts, has one modality or none that trains, or
            is sharded over processes.
    """

    def __init__(
        self, args: MultimodalTrainingArguments, model: Callable[[], MultimodalModelMixin], accelerator: Accelerator
    ):
        if not isinstance(model(), MultimodalModelMixin):
            raise ValueError(f"gradient_modulation needs a MultimodalModelMixin; {type(model()).__name__} is none.")
        if model().config.generates:
            raise ValueError(
                f"gradient_modulation measures how well classes and numbers are predicted; {type(model()).__name__} "
                "generates texts."
            )
        if accelerator.distributed_type not in _WHOLE_MODELS:
            raise ValueError(
                f"gradient_modulation is for one device and for DDP; under {accelerator.distributed_type.value} parameters "
                "are sharded, and single parts of a model cannot be asked."
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"gradient_modulation needs a process for each of the {args.n_gpu} GPUs: start with torchrun or accelerate."
            )
        self.args, self.model, self.accelerator = args, model, accelerator
        self.modalities: list[str] = list(model().config.modalities)
        if len(self.modalities) < 2:
            raise ValueError(f"gradient_modulation balances modalities, and this model has {self.modalities} only.")
        self._owners = self._find_owners()
        self._begin()

    def _begin(self) -> None:
        self.strategy = STRATEGIES[self.args.gradient_modulation](self.args, self.modalities)
        self._sums = torch.zeros(len(self.modalities), NUM_SUMS, dtype=torch.float64)
        self._derived: dict[str, float] = {}
        self._embeddings: dict[str, ModalityEmbedding] = {}
        self._rates: list[tuple[dict, Any]] = []
        self._measuring = False

    def _find_owners(self) -> dict[nn.Parameter, int]:
        """The trained parameters that are scaled, with the number of their modality."""
        model = self.model()
        owners = {
            parameter: index
            for index, name in enumerate(self.modalities)
            for parameter in model.embedding_parameters(name)
            if parameter.requires_grad
        }
        if not owners:
            raise ValueError(
                f"gradient_modulation has nothing to scale: no modality of this {type(model).__name__} has parameters of "
                "its own that are trained."
            )
        return owners

    @property
    def _every(self) -> int:
        if self.args.modulation_measure_steps is not None:
            return self.args.modulation_measure_steps
        return 1 if self.model().predicts_from_features else _STEPS_BETWEEN_PASSES

    @property
    def _once_an_epoch(self) -> bool:
        return not self.strategy.at_every_measurement and self.args.modulation_update_steps is None

    def on_train_begin(self, args, state, control, optimizer=None, train_dataloader=None, **kwargs):
        self._begin()
        self._owners = self._find_owners()
        saved = state.stateful_callbacks.get(_STATE, {}) if state.global_step else {}
        if saved.get("strategy") == args.gradient_modulation and saved.get("modalities") == self.modalities:
            self.strategy.values, self.strategy.history = saved["values"], saved["history"]
            if self.accelerator.is_main_process:  # which saved the sums of all
                self._sums = torch.tensor(saved["sums"], dtype=torch.float64)
        self._sums = self._sums.to(self.accelerator.device)
        self._tell_model()
        if self._once_an_epoch and not has_length(train_dataloader):
            raise ValueError(
                "gradient_modulation updates its coefficients once an epoch, whose end is not known where the training "
                "data have no length; give modulation_update_steps."
            )
        if args.modulation_mode == "gradient":
            _warn_of_normalised_gradients(optimizer, self._owners)
        else:
            _check_groups(optimizer, self._owners)

    def on_step_begin(self, args, state, control, **kwargs):
        self._measuring = state.global_step % self._every == 0

    def hook(self, embeddings: dict[str, ModalityEmbedding]) -> dict[str, ModalityEmbedding]:
        """The modality hook of a training step: the last one, so that it sees what the model goes on with."""
        if self._measuring:
            self._embeddings = {name: replace(e, tokens=e.tokens.detach()) for name, e in embeddings.items()}
        if self.args.modulation_mode != "gradient":
            return embeddings
        factors = dict(zip(self.modalities, self.strategy.factors(), strict=True))
        return {
            name: replace(e, tokens=_ScaledGradient.apply(e.tokens, factors[name])) for name, e in embeddings.items()
        }

    @torch.no_grad()
    def observe(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Add what a micro-batch tells to the sums; `inputs` with `labels`, `outputs` as the model gave them."""
        if not self._measuring or "labels" not in inputs or not self._embeddings:
            return
        model, embeddings, self._embeddings = self.model(), self._embeddings, {}
        labels = inputs["labels"]
        own = outputs.get("unimodal_logits") or {}
        with _evaluating(model), self.accelerator.autocast():
            full, without, alone = self._predictions(model, embeddings, inputs, set(own))
        alone = {**alone, **own}
        none = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
        present = [embeddings[name].present if name in embeddings else none for name in self.modalities]
        self._sums += contribution_sums(
            full,
            [without.get(name, full) for name in self.modalities],
            [alone.get(name, full) for name in self.modalities],
            labels,
            torch.stack(present),
            model.problem_type_of(labels),
        )

    def _predictions(
        self, model: MultimodalModelMixin, embeddings: dict[str, ModalityEmbedding], inputs: dict, known: set[str]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Logits from all modalities, from all but each, and from each alone where it is not `known`."""

        def without(*dropped: str) -> Tensor:
            kept = embeddings
            for name in dropped:
                kept = MissingModality(name, mode="mask")(kept)
            return model.logits_of_embeddings(kept, inputs)

        others = {name: [other for other in embeddings if other != name] for name in embeddings}
        gains = {name: without(name) for name in embeddings} if self.strategy.needs_gain else {}
        alone = {}
        for name in embeddings:
            if name in known:
                continue
            rest = others[name]
            alone[name] = gains[rest[0]] if len(rest) == 1 and rest[0] in gains else without(*rest)
        full = without() if self.strategy.needs_gain or not alone else next(iter(alone.values()))
        return full, gains, alone

    @torch.no_grad()
    def add_noise(self, step: int) -> None:
        """OGM-GE's generalisation enhancement: to each gradient noise of its own standard deviation, before scaling.

        After the last micro-batch's backward and before clipping; the same numbers on every process.
        """
        if self.args.gradient_modulation != "ogm" or not self.args.ogm_noise:
            return
        factors, generator = self.strategy.factors(), None
        for parameter, index in self._owners.items():
            if parameter.grad is None or parameter.numel() < 2:
                continue
            if generator is None:
                generator = torch.Generator(parameter.device).manual_seed(self.args.seed + (step << 32))
            noise = torch.empty_like(parameter.grad).normal_(generator=generator)
            # In `lr` mode, too: the rate, multiplied by the factor, multiplies the noise as well.
            parameter.grad.add_(noise * (parameter.grad.std() / max(factors[index], 1e-8)))

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        if args.modulation_mode != "lr":
            return
        owners, factors = self._owners, self.strategy.factors()
        for group in optimizer.param_groups:
            index = owners.get(group["params"][0]) if group["params"] else None
            if index is not None:
                self._rates.append((group, group["lr"]))
                group["lr"] = group["lr"] * factors[index]

    def on_optimizer_step(self, args, state, control, **kwargs):
        # Before the scheduler looks at them: some go on from the present rate.
        for group, rate in self._rates:
            group["lr"] = rate
        self._rates = []

    def on_step_end(self, args, state, control, **kwargs):
        if self.strategy.at_every_measurement:
            due = self._measuring
        elif self._once_an_epoch:
            # Not in on_epoch_end: a checkpoint of the epoch's last step is written before.
            due = float(state.epoch).is_integer()
        else:
            due = state.global_step % args.modulation_update_steps == 0
        if due:
            self._update()

    def _update(self) -> None:
        sums = self.accelerator.reduce(self._sums, reduction="sum").cpu()
        self._sums = torch.zeros_like(self._sums)
        if sums[0, 0] == 0:  # nothing was measured since
            return
        new = measured(sums, self.model().config.problem_type)
        # Of a modality that no sample had, what was last known holds.
        known = (
            torch.tensor(self.strategy.values.get(name, [0.0] * len(sums)), dtype=torch.float64) for name in new._fields
        )
        self.strategy.update(
            Measured(*(torch.where(now.isnan(), old, now) for now, old in zip(new, known, strict=True)))
        )
        self._tell_model()

    def _tell_model(self) -> None:
        coefficients = dict(zip(self.modalities, self.strategy.values["coefficient"], strict=True))
        self._derived = self.model().set_contributions(coefficients)

    def logs(self) -> dict[str, float]:
        """The last update's numbers, `<name>_<modality>`."""
        values = {
            f"{name}_{modality}": value
            for name, numbers in self.strategy.values.items()
            for modality, value in zip(self.modalities, numbers, strict=True)
        }
        return values | self._derived

    def save(self, state: TrainerState) -> None:
        """Put what resuming needs into the state that the main process writes to a checkpoint. Collective.

        Not as an `ExportableState`, which `restore_callback_states_from_checkpoint` makes anew without any arguments.
        """
        sums = self.accelerator.reduce(self._sums, reduction="sum")
        self._sums = sums if self.accelerator.is_main_process else torch.zeros_like(sums)
        state.stateful_callbacks[_STATE] = {
            "strategy": self.args.gradient_modulation,
            "modalities": self.modalities,
            "values": self.strategy.values,
            "history": self.strategy.history,
            "sums": self._sums.tolist(),
        }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, and with batch normalisation's running statistics left as they are."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _check_groups(optimizer: torch.optim.Optimizer, owners: dict[nn.Parameter, int]) -> None:
    for group in optimizer.param_groups:
        if len({owners.get(parameter) for parameter in group["params"]}) > 1:
            raise ValueError(
                "modulation_mode is `lr`, and a parameter group of the optimizer mixes a modality's parameters with "
                "others; an optimizer made elsewhere needs a group for each modality's `embedding_parameters`."
            )


def _warn_of_normalised_gradients(optimizer: torch.optim.Optimizer | None, owners: dict[nn.Parameter, int]) -> None:
    names = {
        type(part).__name__
        for part in optimizer_parts(optimizer)
        if any(parameter in owners for group in part.param_groups for parameter in group["params"])
    }
    normalising = sorted(name for name in names if not name.startswith(("SGD", "ASGD")))
    if normalising:
        warnings.warn(
            f"modulation_mode is `gradient`, and {', '.join(normalising)} divides a gradient by its own running size, so "
            "that a constant factor cancels: the modulation will do next to nothing. Use modulation_mode `lr`, or an "
            "optimizer such as sgd.",
            stacklevel=2,
        )
