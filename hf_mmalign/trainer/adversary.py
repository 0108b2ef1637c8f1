"""Who else is optimised beside the model: critics, with an optimizer and steps of their own."""

from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..models.modeling_base import MultimodalModelMixin
from .arguments import MultimodalTrainingArguments
from .checkpoints import ADVERSARY_FILE, CheckpointError


class Adversary:
    """Trains the critics that a model builds, against it.

    The critics are no part of the model: not of its optimizer, of the gradients that DistributedDataParallel waits for, of
    the weights that are saved with it. In training the model's forward pass asks them, as constants, for its own loss, and
    hands over detached rows, real and fake ones. Those of all micro-batches of an optimisation step are collected;
    after the last one's backward pass, before the model's own step, the critics take `critic_steps` steps of Adam on
    all of them together. So accumulation changes nothing. Of several processes, the gradients of all rows are averaged
    by hand, each row counting the same; only batch norms inside a critic still see the rows of their own process.
    Critics are fp32 throughout, autocast or not.

    Weights and optimizer are saved in each checkpoint, as `adversary.safetensors`; random numbers follow from seed and
    step: a resumed run goes on as if it had not been interrupted.

    Args:
        args ([`MultimodalTrainingArguments`]): With `critic_learning_rate` and `critic_steps`.
        model ([`MultimodalModelMixin`]): The model itself, without wrappers, on its device.
        critics (`nn.ModuleDict`): What :meth:`~MultimodalModelMixin.build_critics` of the model made.
        accelerator (`Accelerator`): Of the Trainer.
    """

    def __init__(
        self,
        args: MultimodalTrainingArguments,
        model: MultimodalModelMixin,
        critics: nn.ModuleDict,
        accelerator: Accelerator,
    ):
        self.args, self.model, self.accelerator = args, model, accelerator
        self.critics = critics.to(accelerator.device, torch.float32).train()
        if accelerator.num_processes > 1:
            for tensor in self.critics.state_dict().values():
                dist.broadcast(tensor, src=0)
        self.optimizer = torch.optim.Adam(self.critics.parameters(), lr=args.critic_learning_rate)
        self.critics.requires_grad_(False)
        self._rows: dict[str, list[tuple[Tensor, ...]]] = {}
        self._critic_of: dict[str, str] = {}
        self._logged: dict[str, list[Tensor]] = {}

    @classmethod
    def of(cls, args, model, accelerator: Accelerator) -> "Adversary | None":
        """The adversary of a model; None where it builds no critics.

        Raises:
            ValueError: Under DeepSpeed or FSDP, where nobody holds the model's whole output or parameters, for several GPUs
                in one process, and with training arguments that do not know of critics.
        """
        critics = model.build_critics() if isinstance(model, MultimodalModelMixin) else None
        if not critics:
            return None
        if accelerator.distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP):
            raise ValueError(
                f"{type(model).__name__} is trained against critics, which DeepSpeed and FSDP are not made for."
            )
        if not isinstance(args, MultimodalTrainingArguments):
            raise ValueError(
                f"{type(model).__name__} is trained against critics, whose learning rate and steps are "
                f"MultimodalTrainingArguments; args is {type(args).__name__}."
            )
        if args.n_gpu > 1:
            raise ValueError(
                f"{type(model).__name__} is trained against critics, which needs a process for each of the {args.n_gpu} "
                "GPUs: start with torchrun or accelerate."
            )
        return cls(args, model, critics, accelerator)

    def collect(self, outputs: dict) -> None:
        """Take the rows that a forward pass of training has handed over."""
        for name, (critic, *rows) in (outputs.get("critic_inputs") or {}).items():
            self._critic_of[name] = critic
            self._rows.setdefault(name, []).append(tuple(rows))

    def step(self, global_step: int) -> None:
        """Train the critics on what was collected. Collective: every process must call it.

        Args:
            global_step (`int`): Steps that the model has taken.
        """
        rows = {
            name: tuple(torch.cat(parts) for parts in zip(*pairs, strict=True)) for name, pairs in self._rows.items()
        }
        self._rows = {}
        total = self._summed(torch.stack([counted.sum().float() for *_, counted in rows.values()]))
        generator = torch.Generator().manual_seed(self.args.seed + 1_000_003 * global_step + self.args.process_index)
        self.critics.requires_grad_(True)
        try:
            for _ in range(self.args.critic_steps):
                statistics = self._take_step(rows, total, generator)
        finally:
            self.critics.requires_grad_(False)
        for key, (sums, index) in statistics.items():
            self._logged.setdefault(key, []).append(self._summed(sums.clone()) / total[index].clamp(min=1))

    def _take_step(self, rows, total: Tensor, generator: torch.Generator) -> dict[str, tuple[Tensor, int]]:
        statistics, loss = {}, total.new_zeros(())
        for index, (name, (real, fake, counted)) in enumerate(rows.items()):
            losses, told = self.critics[self._critic_of[name]].losses(real, fake, counted, generator)
            loss = loss + losses.masked_fill(~counted, 0).sum() / total[index].clamp(min=1)
            told = {"loss": losses.detach(), **told}
            statistics |= {
                f"critic_{key}_{name}": (value.masked_fill(~counted, 0).sum(), index) for key, value in told.items()
            }
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.critics.parameters():
            if self.accelerator.num_processes > 1:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                self._summed(parameter.grad)
        self.optimizer.step()
        return statistics

    def _summed(self, tensor: Tensor) -> Tensor:
        """Its sum over the processes, in place."""
        if self.accelerator.num_processes > 1:
            dist.all_reduce(tensor)
        return tensor

    def logs(self) -> dict[str, float]:
        """The means since the last call, by log name; empties them."""
        logged, self._logged = self._logged, {}
        return {key: torch.stack(values).mean().item() for key, values in logged.items()}

    def save(self, folder: str | Path) -> None:
        """Write weights, statistics of norms and the optimizer's state into a checkpoint."""
        tensors = {f"critics.{name}": tensor for name, tensor in self.critics.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            Path(folder) / ADVERSARY_FILE,
        )

    def load(self, folder: str | Path) -> None:
        """Go on from a checkpoint. Raises CheckpointError for one of another model's critics."""
        tensors = load_file(Path(folder) / ADVERSARY_FILE)
        own = {name.removeprefix("critics."): value for name, value in tensors.items() if name.startswith("critics.")}
        try:
            self.critics.load_state_dict(own)
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: {ADVERSARY_FILE} is not of this model's critics: {error}") from error
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                states.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": states})
