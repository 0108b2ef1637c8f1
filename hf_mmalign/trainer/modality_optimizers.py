"""Which parameters take which learning rate and which optimizer, and several optimizers as one."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.training_args import OptimizerNames

from ..models.modeling_base import MultimodalModelMixin
from .arguments import MultimodalTrainingArguments


class JointOptimizer(torch.optim.Optimizer):
    """Several optimizers over different parameters that schedulers, Accelerate and checkpoints take for one.

    Its groups are theirs, in order, and its state dict is laid out as that of a single optimizer.

    Args:
        parts (`list[torch.optim.Optimizer]`): At least one; no parameter in two.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]):
        # Not the base class's own: groups and states live in the parts, which load_state_dict makes anew.
        self.parts = parts
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[nn.Parameter, Any]:  # type: ignore[override]
        return {parameter: state for part in self.parts for parameter, state in part.state.items()}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Give it to the first part."""
        self.parts[0].add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        state, groups, offset = {}, [], 0
        for part in self.parts:
            saved = part.state_dict()
            state |= {index + offset: value for index, value in saved["state"].items()}
            groups += [
                {**group, "params": [index + offset for index in group["params"]]} for group in saved["param_groups"]
            ]
            offset += _size(saved["param_groups"])
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if the groups are not as many, or not as large, as this optimizer's."""
        groups = list(state_dict["param_groups"])
        if len(groups) != len(self.param_groups):
            raise ValueError(f"The state is of {len(groups)} parameter groups, and there are {len(self.param_groups)}.")
        offset = 0
        for part in self.parts:
            own = [groups.pop(0) for _ in part.param_groups]
            size = _size(own)
            part.load_state_dict(
                {
                    "state": {i - offset: s for i, s in state_dict["state"].items() if offset <= i < offset + size},
                    "param_groups": [{**g, "params": [i - offset for i in g["params"]]} for g in own],
                }
            )
            offset += size


def _size(groups: list[dict[str, Any]]) -> int:
    return sum(len(group["params"]) for group in groups)


def optimizer_parts(optimizer: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    """The optimizers that make the steps, free of Accelerate's wrapper."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner.parts if isinstance(inner, JointOptimizer) else [inner]


@dataclass(frozen=True)
class _Setting:
    """What a parameter has of its own; equal settings make a group."""

    rate_name: str | None = None
    learning_rate: float | None = None
    optimizer: str | None = None  # the modality whose optimizer it is
    modality: str | None = None  # whose learning rate is modulated


def has_own_settings(args: MultimodalTrainingArguments) -> bool:
    """Whether some parameters take another learning rate or optimizer than the rest."""
    return (
        args.backbone_learning_rate is not None
        or bool(args.modality_learning_rates)
        or bool(args.modality_optimizers)
        or (args.gradient_modulation != "none" and args.modulation_mode == "lr")
    )


def split_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, args: MultimodalTrainingArguments
) -> tuple[torch.optim.Optimizer, dict[str, nn.Parameter]]:
    """Give backbone and modalities the groups, rates and optimizers that the arguments say.

    Args:
        optimizer (`torch.optim.Optimizer`): Trainer's, new, over all trained parameters; its groups are split.
        model (`nn.Module`): The model, free of wrappers.
        args (`MultimodalTrainingArguments`): With `backbone_learning_rate`, `modality_learning_rates`,
            `modality_optimizers`, and modulation in `lr` mode.

    Returns:
        The optimizer, a [`JointOptimizer`] with `modality_optimizers`, and a parameter of the first group of each rate of
        its own, by the rate's name in the log. What has no rate of its own comes first.

    Raises:
        ValueError: If the model trains nothing of what an argument names, or an optimizer refuses its options.
    """
    _check_trained(model, args, {parameter for group in optimizer.param_groups for parameter in group["params"]})
    settings = _settings(model, args)
    groups: dict[_Setting, list[dict[str, Any]]] = {}
    for group in optimizer.param_groups:
        by_setting: dict[_Setting, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_setting.setdefault(settings.get(parameter, _Setting()), []).append(parameter)
        for setting, parameters in by_setting.items():
            rate = {} if setting.learning_rate is None else {"lr": setting.learning_rate}
            groups.setdefault(setting, []).append({**group, **rate, "params": parameters})
    # Modulation alone changes no rate: such groups count to the rest.
    order = sorted(groups, key=lambda setting: (setting.rate_name is not None, setting.rate_name == _BACKBONE))
    optimizer.param_groups[:] = []
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in args.modality_optimizers or {}}
    for setting in order:
        for group in groups[setting]:
            if setting.optimizer is None:
                optimizer.add_param_group(group)
            else:
                kept = {key: group[key] for key in ("params", "lr", "weight_decay")}
                parts[setting.optimizer].append(kept)
    logged = {setting.rate_name: groups[setting][0]["params"][0] for setting in order if setting.rate_name}
    others = [_new_optimizer(name, groups, args) for name, groups in parts.items()]
    if not others:
        return optimizer, logged
    return JointOptimizer([*([optimizer] if optimizer.param_groups else []), *others]), logged


_BACKBONE = "backbone_learning_rate"


def _settings(model: nn.Module, args: MultimodalTrainingArguments) -> dict[nn.Parameter, _Setting]:
    """The settings of every parameter that has some of its own. A modality's rate goes before the backbone's."""
    rates: dict[nn.Parameter, tuple[str, float]] = {}
    if args.backbone_learning_rate is not None:
        outside = {p for name in _outside_backbone(model) for p in model.get_submodule(name).parameters()}
        rates = {p: (_BACKBONE, args.backbone_learning_rate) for p in model.parameters() if p not in outside}
    for name, rate in (args.modality_learning_rates or {}).items():
        rates |= dict.fromkeys(model.modality_parameters(name), (f"learning_rate_{name}", rate))
    optimizers = {p: name for name in args.modality_optimizers or {} for p in model.modality_parameters(name)}
    modalities: dict[nn.Parameter, str] = {}
    if args.gradient_modulation != "none" and args.modulation_mode == "lr":
        modalities = {p: name for name in model.config.modalities for p in model.embedding_parameters(name)}
    return {
        p: _Setting(*rates.get(p, (None, None)), optimizers.get(p), modalities.get(p))
        for p in {**rates, **optimizers, **modalities}
    }


def _outside_backbone(model: nn.Module) -> list[str]:
    return model.modules_outside_backbone if isinstance(model, MultimodalModelMixin) else []


def _check_trained(model: nn.Module, args: MultimodalTrainingArguments, trained: set[nn.Parameter]) -> None:
    name, outside = type(model).__name__, _outside_backbone(model)
    others = {p for module in outside for p in model.get_submodule(module).parameters()}
    if args.backbone_learning_rate is not None and (not outside or trained <= others):
        raise ValueError(
            f"backbone_learning_rate is {args.backbone_learning_rate}, but {name} trains no backbone, that is no parameter "
            f"outside its modules {outside}: it has no pretrained encoder, or a frozen one."
        )
    for argument in ("modality_learning_rates", "modality_optimizers"):
        for modality in getattr(args, argument) or {}:
            if not trained & set(model.modality_parameters(modality)):
                raise ValueError(f"{argument} names {modality!r}, of which {name} trains no parameter of its own.")


def _new_optimizer(name: str, groups: list[dict[str, Any]], args: MultimodalTrainingArguments) -> torch.optim.Optimizer:
    wanted = args.modality_optimizers[name]
    options = {} if isinstance(wanted, str) else {key: value for key, value in wanted.items() if key != "optim"}
    own = copy.copy(args)
    own.optim, own.optim_args = OptimizerNames(wanted if isinstance(wanted, str) else wanted["optim"]), None
    made_by, keywords = Trainer.get_optimizer_cls_and_kwargs(own)
    if not (isinstance(made_by, type) and issubclass(made_by, torch.optim.Optimizer)):
        raise ValueError(f"modality_optimizers[{name!r}] is {own.optim.value}, which takes whole models only.")
    try:
        return made_by(groups, **keywords | options)
    except TypeError as error:
        raise ValueError(
            f"modality_optimizers[{name!r}]: {own.optim.value} does not take {options}: {error}"
        ) from error


def rates_of(optimizer: torch.optim.Optimizer, logged: dict[str, nn.Parameter]) -> Iterator[tuple[str, float]]:
    """The present learning rate for each name of `logged`, which :func:`split_optimizer` returned."""
    for group in optimizer.param_groups:
        for name, parameter in logged.items():
            if group["params"] and group["params"][0] is parameter:
                yield name, float(group["lr"])
