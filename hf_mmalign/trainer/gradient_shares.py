"""An instrument: what share of the gradient each loss component has, for each modality's parameters."""

import logging
from collections.abc import Callable, Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import TrainerCallback

from ..models.modeling_base import MultimodalModelMixin
from .arguments import MultimodalTrainingArguments

logger = logging.getLogger(__name__)

# A component that has less of the gradient everywhere for an epoch does nothing.
LEAST_SHARE = 0.01
# The parameters that are no modality's own.
SHARED = "shared"


class GradientShares(TrainerCallback):
    """Measures, every `log_gradient_shares` steps, the gradient of each weighted loss component on its own.

    For each modality's own parameters (the model's `modality_parameters`), and for all others together (`shared`), two
    numbers are logged: `gradient_share_<component>_<modality>`, the norm of the component's gradient as a share of the
    sum of the norms, and `gradient_cosine_<component>_<modality>`, its cosine with the task's: −1 where it pulls the
    other way. Each component takes a backward pass of its own in such a step, on the first micro-batch; in others,
    nothing. Of several processes, each measures its own samples and the first one's are logged. Training itself is not
    changed.

    A component whose share stays below 1 % everywhere for an epoch is named in a warning.

    Args:
        args ([`MultimodalTrainingArguments`]): With `log_gradient_shares`.
        model (`Callable`): Gives the model itself, without wrappers.
        accelerator (`Accelerator`): Of the Trainer.

    Raises:
        ValueError: Under DeepSpeed, FSDP or `torch_compile`, where a graph is gone through once only, or not at hand.
    """

    def __init__(
        self, args: MultimodalTrainingArguments, model: Callable[[], MultimodalModelMixin], accelerator: Accelerator
    ):
        self.args, self._model, self._last_step = args, model, -1
        sharded = accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)
        if sharded or args.torch_compile:
            raise ValueError(
                "log_gradient_shares takes a backward pass for each loss component, which neither DeepSpeed nor FSDP nor "
                "torch_compile allows."
            )
        self._logged: dict[str, list[Tensor]] = {}
        self._of_epoch: dict[str, list[Tensor]] = {}

    def measure(self, losses: Mapping[str, Tensor], weights: Mapping[str, float], global_step: int) -> None:
        """Measure, if it is this step's turn.

        Args:
            losses (`Mapping[str, torch.Tensor]`): Components, unweighted, with their graph, which is kept.
            weights (`Mapping[str, float]`): As for [`~models.modeling_base.combine_losses`].
            global_step (`int`): Steps that were taken before this one.
        """
        if global_step % self.args.log_gradient_shares or global_step == self._last_step:
            return
        self._last_step = global_step
        groups = self._groups()
        parameters = [parameter for group in groups.values() for parameter in group]
        norms: dict[str, Tensor] = {}
        cosines: dict[str, Tensor] = {}
        task = None
        for name in sorted(losses, key=lambda name: name != "task"):
            weight = weights.get(name, 1.0)
            if not weight or not losses[name].requires_grad:
                continue
            found = torch.autograd.grad(weight * losses[name], parameters, retain_graph=True, allow_unused=True)
            gradients = _by_group(found, groups)
            task = gradients if name == "task" else task
            norms[name] = torch.stack([_dot(one, one).sqrt() for one in gradients])
            if task is not None and name != "task":
                against = torch.stack([_dot(one, other) for one, other in zip(gradients, task, strict=True)])
                cosines[name] = against / (norms[name] * norms["task"]).clamp(min=1e-30)
        if not norms:
            return
        total = torch.stack(list(norms.values())).sum(dim=0).clamp(min=1e-30)
        for name, norm in norms.items():
            self._of_epoch.setdefault(name, []).append((norm / total).amax())
            self._add(f"gradient_share_{name}", norm / total, groups)
        for name, cosine in cosines.items():
            self._add(f"gradient_cosine_{name}", cosine, groups)

    def _groups(self) -> dict[str, list[nn.Parameter]]:
        model, groups, seen = self._model(), {}, set()
        for name in model.config.modalities:
            own = [one for one in model.modality_parameters(name) if one.requires_grad and id(one) not in seen]
            seen |= {id(one) for one in own}
            groups[name] = own
        groups[SHARED] = [one for one in model.parameters() if one.requires_grad and id(one) not in seen]
        return {name: group for name, group in groups.items() if group}

    def _add(self, key: str, values: Tensor, groups: Mapping[str, list]) -> None:
        for name, value in zip(groups, values.unbind(), strict=True):
            self._logged.setdefault(f"{key}_{name}", []).append(value.detach())

    def logs(self) -> dict[str, float]:
        """The means since the last call, by log name; empties them."""
        logged, self._logged = self._logged, {}
        return {key: torch.stack(values).mean().item() for key, values in logged.items()}

    def on_epoch_end(self, args, state, control, **kwargs):
        shares, self._of_epoch = self._of_epoch, {}
        for name, values in shares.items():
            largest = torch.stack(values).amax().item()
            if name != "task" and largest < LEAST_SHARE:
                logger.warning(
                    f"In all of the epoch that ends at step {state.global_step}, the loss component {name} had at most "
                    f"{largest:.2%} of the gradient of any modality's parameters: it does nothing. Raise its weight, or "
                    "leave it out."
                )


def _by_group(gradients: tuple[Tensor | None, ...], groups: Mapping[str, list]) -> list[list[Tensor | None]]:
    parts, start = [], 0
    for group in groups.values():
        parts.append(list(gradients[start : start + len(group)]))
        start += len(group)
    return parts


def _dot(left: list[Tensor | None], right: list[Tensor | None]) -> Tensor:
    """Inner product of two gradients, `()` fp32; None counts 0."""
    products = [
        (one.float() * other.float()).sum()
        for one, other in zip(left, right, strict=True)
        if one is not None and other is not None
    ]
    return torch.stack(products).sum() if products else torch.zeros(())
