"""Which checkpoint folders are whole: a run may be killed while it writes one."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

logger = logging.get_logger(__name__)


def is_whole(checkpoint: str | Path, world_size: int = 1) -> bool:
    """Whether Trainer finished writing this checkpoint.

    Trainer writes `trainer_state.json` last, so a whole one can be parsed and lies beside weights whose length agrees
    with their header; with several processes every one has left its random state.
    """
    checkpoint = Path(checkpoint)
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    weights = sorted(checkpoint.glob("*.safetensors"))
    for file in weights:
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (OSError, SafetensorError):
            return False
    resumable = (checkpoint / "optimizer.pt").exists()
    if resumable and world_size > 1:
        resumable = all((checkpoint / f"rng_state_{rank}.pth").exists() for rank in range(world_size))
    return resumable and bool(weights) and "global_step" in state


def last_whole_checkpoint(folder: str | Path, world_size: int = 1) -> str | None:
    """The newest whole `checkpoint-*` folder inside `folder`, or None; half-written ones are skipped with a warning."""
    found = []
    for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if path.is_dir() and step.isdigit():
            found.append((int(step), path))
    for _, path in sorted(found, reverse=True):
        if is_whole(path, world_size):
            return str(path)
        logger.warning(f"{path} was not written to its end and is skipped.")
    return None
