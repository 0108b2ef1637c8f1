"""Whether a run begins or goes on from a checkpoint in its folder. Nothing heavy is imported: the answer comes at once."""

import logging
import os
from pathlib import Path

from ..trainer.checkpoints import check_whole, last_whole_checkpoint
from .recipe import Recipe, RecipeError

logger = logging.getLogger(__name__)


def refuse_to_overwrite(recipe: Recipe) -> None:
    """Raise RecipeError if the recipe's folder holds a checkpoint that the recipe does not mean to go on from, and
    CheckpointError if the one that it names is not whole."""
    wanted, folder = _wanted(recipe), recipe.values.get("output_dir")
    if isinstance(wanted, str) and not _sharded(recipe):
        check_whole(wanted, world_size=None)
    if wanted or not isinstance(folder, str):
        return
    checkpoint = last_whole_checkpoint(folder, world_size=None)
    if checkpoint:
        raise RecipeError(
            f"{folder} already holds {Path(checkpoint).name}. Go on from it with `--resume_from_checkpoint true`, or "
            "choose another --output_dir."
        )


def checkpoint_to_resume(recipe: Recipe, world_size: int) -> str | None:
    """The checkpoint to go on from, or None if training begins.

    Raises CheckpointError for one that is not whole or was written by another number of processes.
    """
    wanted, folder = _wanted(recipe), recipe.values["output_dir"]
    if wanted is not True:
        return wanted or None
    checkpoint = last_whole_checkpoint(folder, world_size)
    if checkpoint is None:
        by_others = last_whole_checkpoint(folder, world_size=None)
        if by_others:
            check_whole(by_others, world_size)
        logger.warning(f"{folder} holds no whole checkpoint; training starts at the beginning.")
    return checkpoint


def _sharded(recipe: Recipe) -> bool:
    """Whether DeepSpeed or FSDP, whose checkpoints are folders of their own kind, keep the training's state."""
    names = ("deepspeed", "fsdp")
    return any(recipe.values.get(name) or f"ACCELERATE_USE_{name.upper()}" in os.environ for name in names)


def _wanted(recipe: Recipe) -> str | bool | None:
    wanted = recipe.values.get("resume_from_checkpoint")
    if isinstance(wanted, str) and wanted.lower() in ("true", "false"):
        return wanted.lower() == "true"
    return wanted
