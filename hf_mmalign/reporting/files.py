"""Writing files so that a run killed at any moment leaves either the old file or the new one."""

import contextlib
import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: temporaries of killed runs stay
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which takes its place when the block ends without an exception.

    Temporaries that killed writers of the same path left are removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    temporary, lock = _new_temporary(path)
    try:
        yield temporary
        # mkstemp makes files private; a report is as readable as any file the user's umask lets through.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _new_temporary(path: Path) -> tuple[Path, int | None]:
    """A temporary for `path`, and the descriptor that holds it locked until this process lets go of it or dies."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        if not _lock(descriptor):
            os.close(descriptor)
            return Path(name), None
        if os.path.exists(name):
            return Path(name), descriptor
        os.close(descriptor)  # another writer took it for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    """Delete the temporaries of `path` that no writer holds locked."""
    if fcntl is None:
        return
    for left in path.parent.glob(f".{glob.escape(path.stem)}-????????{glob.escape(path.suffix)}"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            if _lock(file.fileno(), wait=False):
                left.unlink()


def _lock(descriptor: int, wait: bool = True) -> bool:
    """Whether the file could be locked; not every system and file system knows how."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Write UTF-8 text atomically; returns the path."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
