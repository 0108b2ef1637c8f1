"""Which checkpoint folders are whole: a run may be killed, or its disk be full, while it writes one."""

import errno
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:  # whether a folder holds a checkpoint is asked before anything heavy is imported
    import torch

logger = logging.getLogger(__name__)

_PREFIX = "checkpoint-"
_STATE = "trainer_state.json"
# What the critics of a model are written to, where it has any.
ADVERSARY_FILE = "adversary.safetensors"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CheckpointError(ValueError):
    """A checkpoint that training cannot go on from; the message names the folder and what is wrong with it."""


def check_whole(
    checkpoint: str | Path, world_size: int | None = 1, needs_scaler: bool = False, needs_adversary: bool = False
) -> None:
    """Refuse a checkpoint that Trainer did not write to its end, or that has lost a file since.

    No file's content is unpickled: that weights and archives are complete shows in their headers and directories.

    Args:
        checkpoint (`str` or `Path`): The folder.
        world_size (`int`, *optional*, defaults to 1): Number of processes that are to go on; each has a random state.
            With None, random states are not asked for.
        needs_scaler (`bool`, *optional*, defaults to `False`): Whether the state of a gradient scaler (fp16) is needed.
        needs_adversary (`bool`, *optional*, defaults to `False`): Whether that of critics is, also if the run that wrote it
            had none.

    Raises:
        CheckpointError: If a file is missing, cut short or of another kind.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint} is no folder, so there is no checkpoint to go on from.")
    try:
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        known = isinstance(state, dict) and "global_step" in state
    except (OSError, ValueError, RecursionError):
        known = False
    if not known:  # Trainer writes it last
        raise CheckpointError(f"{checkpoint} was not written to its end: {_STATE} is missing or not whole.")
    saved_shapes(checkpoint)
    if world_size is not None:
        _check_random_states(checkpoint, world_size)
    if needs_adversary or ADVERSARY_FILE in (state.get("stateful_callbacks") or {}):
        _check_adversary(checkpoint / ADVERSARY_FILE)
    for name in ("optimizer.pt", "scheduler.pt", *(["scaler.pt"] if needs_scaler else [])):
        _check_archive(checkpoint / name)


def _check_adversary(file: Path) -> None:
    try:
        with safe_open(file, framework="numpy") as tensors:
            whole = bool(tensors.keys())
    except (OSError, SafetensorError):
        whole = False
    if not whole:
        raise CheckpointError(
            f"{file.parent} is not whole: {file.name}, which holds the model's critics, is missing or cut short."
        )


def _check_random_states(checkpoint: Path, world_size: int) -> None:
    alone = (checkpoint / "rng_state.pth").exists()
    ranks = len(list(checkpoint.glob("rng_state_*.pth")))
    by_fewer = world_size > ranks and world_size > 1 and alone
    by_more = ranks > world_size and not (world_size == 1 and alone)
    if by_fewer or by_more:
        written = ranks if by_more else 1
        raise CheckpointError(
            f"{checkpoint} was written with {written} process{'es' if written > 1 else ''}; with {world_size} it would go "
            "on as another training."
        )
    for name in ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]:
        _check_archive(checkpoint / name)


def _check_archive(file: Path) -> None:
    """What torch.save writes is a zip archive, whose directory stands at its end."""
    if not file.is_file():
        raise CheckpointError(f"{file.parent} is not whole: {file.name} is missing.")
    try:
        with zipfile.ZipFile(file) as archive:
            whole = bool(archive.infolist())
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        whole = False
    if not whole:
        raise CheckpointError(f"{file.parent} is not whole: {file.name} is cut short, or no file of torch.save.")


def saved_shapes(checkpoint: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor among a checkpoint's weights, which are the whole model's, in one file or several with an
    index, or those of PEFT adapters.

    Raises CheckpointError if a file is missing, or its length disagrees with its header.
    """
    checkpoint = Path(checkpoint)
    index = checkpoint / "model.safetensors.index.json"
    listed: dict[str, str] = {}
    if index.exists():
        try:
            listed = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{checkpoint} is not whole: {index.name} cannot be read ({error}).") from None
    files = [checkpoint / Path(name).name for name in sorted(set(listed.values()))]
    files = files or [checkpoint / "model.safetensors"]
    if not listed and not files[0].exists():
        files = sorted([*checkpoint.glob("adapter_model.safetensors"), *checkpoint.glob("*/adapter_model.safetensors")])
    if not files:
        raise CheckpointError(f"{checkpoint} is not whole: model.safetensors is missing.")
    shapes = {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as weights:
                shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{checkpoint} is not whole: {file.name} cannot be read ({error}).") from None
    missing = sorted(set(listed) - set(shapes))
    if missing:
        raise CheckpointError(f"{checkpoint} is not whole: its files lack {missing[0]}, which {index.name} names.")
    return shapes


def check_tensors(checkpoint: str | Path, tensors: Mapping[str, "torch.Tensor"]) -> None:
    """Refuse a checkpoint that lacks one of these tensors, or has it in another shape. Raises CheckpointError.

    Of tied tensors, which share their memory, one is enough.
    """
    shapes = saved_shapes(checkpoint)
    found = {tensor.data_ptr() for name, tensor in tensors.items() if name in shapes}
    missing = [name for name, tensor in tensors.items() if name not in shapes and tensor.data_ptr() not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{checkpoint} is not of this model, or not whole: its weights lack {missing[0]}{more}.")
    for name, tensor in tensors.items():
        if name in shapes and shapes[name] != tuple(tensor.shape):
            raise CheckpointError(
                f"{checkpoint} is not of this model: {name} has the shape {list(shapes[name])} there and "
                f"{list(tensor.shape)} here."
            )


def checkpoints_in(folder: str | Path) -> list[Path]:
    """The `checkpoint-*` folders inside `folder`, newest first, whole or not."""
    found = []
    for path in Path(folder).glob(f"{_PREFIX}*"):
        step = path.name.removeprefix(_PREFIX)
        if path.is_dir() and step.isdigit():
            found.append((int(step), path))
    return [path for _, path in sorted(found, reverse=True)]


def last_whole_checkpoint(
    folder: str | Path, world_size: int | None = 1, needs_scaler: bool = False, needs_adversary: bool = False
) -> str | None:
    """The newest whole checkpoint inside `folder`, or None; those passed over are named in a warning, with the reason."""
    for path in checkpoints_in(folder):
        try:
            check_whole(path, world_size, needs_scaler, needs_adversary)
        except CheckpointError as error:
            logger.warning(f"{error} It is skipped.")
        else:
            return str(path)
    return None


@contextmanager
def own_tensor_names(model: Any) -> Iterator[None]:
    """Have a model's tensors saved under the names that they have in memory.

    transformers saves those of ViT and others under the names of earlier releases, and translates them in from_pretrained;
    Trainer reads a checkpoint as it is, and passes over what it does not find.
    """
    name, known = "_weight_conversions", vars(model)
    before = {name: known[name]} if name in known else {}
    known[name] = []
    try:
        yield
    finally:
        del known[name]
        known.update(before)


@contextmanager
def clear_write_errors(path: str | Path) -> Iterator[None]:
    """Turn what PyTorch, safetensors and Python raise on a full disk while `path` is written into one OSError that says so.

    PyTorch's RuntimeError speaks of positions in a container, and safetensors' error is no OSError.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno not in _FULL:
            raise
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):
            raise
        there = next(parent for parent in (Path(path), *Path(path).absolute().parents) if parent.exists())
        reason = "the disk takes no more" if isinstance(error, RuntimeError) else str(error)
        free = shutil.disk_usage(there).free >> 20
        raise OSError(f"{path} could not be written to its end: {reason} ({free} MiB are free).") from error
