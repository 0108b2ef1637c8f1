"""What a pass over data has found, kept in a file, so that the same pass over the same data is made once only."""

import hashlib
import importlib.metadata
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import datasets
from huggingface_hub.utils import WeakFileLock

logger = logging.getLogger(__name__)

_Found = TypeVar("_Found")
_LIBRARIES = ("datasets", "sentencepiece", "tokenizers", "transformers")


def kept(
    what: str, depends_on: Mapping[str, Any], find: Callable[[], _Found], cache_dir: str | os.PathLike | None = None
) -> _Found:
    """What `find` returns: from the file of an earlier call that depended on the same, else it is called.

    Of several processes that ask at the same time one calls it, and the others wait. What raises an error is not kept; a
    file that is damaged is not heeded; where none can be written, nothing is kept.

    Args:
        what (`str`): The kind of pass, for the file's name.
        depends_on (`Mapping[str, Any]`): Whatever the result follows from, first of all the data's fingerprint; the code of
            this room and the libraries' versions go without saying. Values that JSON does not know count by their text.
        find (`Callable`): Makes the pass; returns what JSON can hold.
        cache_dir (`str`, *optional*): By default the cache of the `datasets` library.
    """
    key = json.loads(json.dumps({**depends_on, "code": _code(), **_versions()}, sort_keys=True, default=str))
    name = hashlib.sha256(json.dumps([what, key], sort_keys=True).encode()).hexdigest()[:24]
    folder = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "hf_mmalign" / "kept"
    file = folder / f"{what}-{name}.json"
    found = _read(file, key)
    if found is not None:
        return found["found"]
    with ExitStack() as stack:
        with suppress(OSError):  # nothing can be written there
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(WeakFileLock(folder / f"{file.stem}.lock"))
        found = _read(file, key)  # of the process that had the lock
        if found is None:
            found = {"key": key, "found": find()}
            _write(file, found)
    return found["found"]


def _read(file: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # there is none, or it is damaged
        return None
    return content if isinstance(content, dict) and content.get("key") == key and "found" in content else None


def _write(file: Path, content: dict[str, Any]) -> None:
    draft = file.with_suffix(f".{os.getpid()}")
    try:
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        logger.warning(f"{file} cannot be written, so the next run makes the pass over the data again: {error}")
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@cache
def _code() -> str:
    """A hash of the code that reads and checks data: a changed check is another check."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]


@cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}
