"""Where the runs of a sweep lie: names that every file system takes and tells apart, and whose run a folder holds."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .build import read_arguments
from .evaluation import RECIPE, RESULTS
from .recipe import Recipe, RecipeError, read_values

# What Windows refuses in a name; a slash anywhere.
_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
# Below the 255 bytes of a name on most file systems and the 143 on encrypted ones, with room for what pictures add to it.
_LONGEST = 120
# Where things lie, how a run is watched, what its card says beside numbers, and an evaluation that can be made up for
# later: no number depends on them.
_NOT_COMPARED = {
    "output_dir",
    "dataset_path",
    "resume_from_checkpoint",
    "robustness",
    "disable_tqdm",
    "report_to",
    "run_name",
    "log_level",
    "license",
    "dataset_name",
    "model_title",
}


def check_variant_names(names: Iterable[Any], origin: str) -> None:
    """Raise RecipeError for a variant whose name cannot be a folder's, or is another's for some file system."""
    seen: dict[str, str] = {}
    for name in names:
        fault = _fault(name)
        if fault:
            raise RecipeError(f"{origin}: the variant {name!r} {fault}; its name is also that of its folder.")
        if _folded(name) in seen:
            other = seen[_folded(name)]
            raise RecipeError(
                f"{origin}: the variants {other!r} and {name!r} differ in upper and lower case or in how accents are "
                "written, which not every file system tells apart; name one of them otherwise."
            )
        seen[_folded(name)] = name


def _fault(name: Any) -> str:
    """What keeps a name from being a folder's; nothing for a good one."""
    if not isinstance(name, str):
        return f"is {type(name).__name__}, not text; put quotes around it"
    unsafe = _UNSAFE.search(name)
    if unsafe:
        return f"holds {unsafe.group()!r}"
    if not name.isprintable():
        return "holds characters that cannot be printed"
    if not name or name != name.strip() or name.startswith(".") or name.endswith("."):
        return "is empty, or begins or ends with a dot or a space"
    if len(name.encode()) > _LONGEST:
        return f"is {len(name.encode())} bytes long, {_LONGEST} at most"
    if _DEVICES.fullmatch(name):
        return "is the name of a device on Windows"
    if _folded(name) in ("sweep.md", "sweep.json") or _folded(name).endswith(".png"):
        return "is the name of a file of the report"
    return ""


def _folded(name: str) -> str:
    """Equal for names that a file system may take for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def cell_folders(cells: Sequence[tuple[tuple[str, Any], ...]]) -> list[str]:
    """A folder name for each cell of a variant, given the cells' arguments and values.

    It is `key=value,…` as it stands where every file system takes that and no other cell has it; otherwise unsafe
    characters become `_`, what is too long is cut, and a digest of the exact values follows.
    """
    texts = [cell_text(values) for values in cells]
    names = [
        text if _safe(text) == text else _with_digest(_safe(text), values)
        for text, values in zip(texts, cells, strict=True)
    ]
    shared = Counter(map(_folded, names))
    return [
        _with_digest(name, values) if name == text and shared[_folded(name)] > 1 else name
        for name, text, values in zip(names, texts, cells, strict=True)
    ]


def cell_text(values: tuple[tuple[str, Any], ...]) -> str:
    """A cell in words, `key=value,…`."""
    return ",".join(f"{key}={value}" for key, value in values) or "default"


def _safe(text: str) -> str:
    printable = "".join(character if character.isprintable() else "_" for character in text)
    return re.sub(r"[. ]$", "_", _cut(_UNSAFE.sub("_", printable), _LONGEST))


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def _with_digest(name: str, values: tuple[tuple[str, Any], ...]) -> str:
    digest = hashlib.sha256(repr(values).encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{_cut(name, _LONGEST - 9)}-{digest}"


def refuse_other_run(folder: Path, recipe: Recipe) -> None:
    """Raise RecipeError if the folder holds a run, finished or interrupted, of another recipe than this one.

    Paths, and what changes no number, may differ. An interrupted run without a recipe is from before sweeps wrote one at
    the start, and is trusted.
    """
    finished = (folder / RESULTS).exists()
    if not finished and not any(folder.glob("checkpoint-*")):
        return
    file = folder / RECIPE
    if not file.exists():
        if finished:
            raise RecipeError(
                f"{folder} holds {RESULTS} but no {RECIPE} that says what was run. Delete the folder to run it again, or "
                "choose another --output_dir."
            )
        return
    saved = read_values(file)
    changed = differing(Recipe(file, saved, {}, {}), recipe)
    if changed:
        found = "; ".join(
            f"{key} is {_quote(saved, key)} there and {_quote(recipe.values, key)} here" for key in changed[:5]
        )
        more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise RecipeError(
            f"{folder} holds a run with other settings than this sweep's: {found}{more}. Choose another --output_dir, or "
            "delete the folder to run it again."
        )


def differing(saved: Recipe, recipe: Recipe) -> list[str]:
    """The keys in which two recipes differ as arguments: 1e-3 is 0.001, and a default need not be written."""
    keys = [key for key in saved.values | recipe.values if key not in _NOT_COMPARED]
    absent = object()
    if all(saved.values.get(key, absent) == recipe.values.get(key, absent) for key in keys):
        return []
    one, other = (read_arguments(each).by_key() for each in (saved, recipe))
    return [key for key in keys if one.get(key, absent) != other.get(key, absent)]


def _quote(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "not set"
