"""The recipes that come with the package, by name: `wma/smoke` is what the repository holds as `recipes/wma/smoke.yaml`."""

import difflib
import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def recipes_folder() -> Path:
    """Where they lie: inside an installed package, beside that of a checkout."""
    inside = _PACKAGE / "recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def packaged_recipes() -> dict[str, Path]:
    """Every recipe that comes with the package, by its name."""
    folder = recipes_folder()
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.glob("*/*.yaml")}
    return dict(sorted(files.items()))


def find_recipe(recipe: str | Path, folder: Path) -> Path:
    """The file that is meant: the one at this path, relative to `folder`, or else the packaged recipe of this name.

    `wma/smoke`, `wma/smoke.yaml` and, as a checkout has it, `recipes/wma/smoke.yaml` are one name. What is neither comes
    back as a path.
    """
    path = folder / recipe
    name = os.fspath(recipe).removeprefix("recipes/").removesuffix(".yaml")
    return path if os.path.isfile(path) else packaged_recipes().get(name, path)


def nearest_names(recipe: str | Path) -> str:
    """The end of an error about a recipe that is not there: names that are near, and how to see all."""
    name = "/".join(Path(recipe).with_suffix("").parts[-2:])
    near = " or ".join(map(repr, difflib.get_close_matches(name, packaged_recipes())))
    return f"{f' Did you mean {near}?' if near else ''} `hf-mmalign recipes` lists those that come with the package."


def describe_recipes() -> str:
    """A line for every packaged recipe: its name and the beginning of its first comment."""
    recipes = packaged_recipes()
    width = max(map(len, recipes), default=0)
    lines = [f"{name:{width}}  {_first_comment(path)}" for name, path in recipes.items()]
    return "\n".join([*lines, f"They lie in {recipes_folder()}."])


def _first_comment(path: Path) -> str:
    line = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()
    return line if len(line) <= 100 else f"{line[:100].rpartition(' ')[0]} …"
