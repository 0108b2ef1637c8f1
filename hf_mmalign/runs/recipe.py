"""Recipes: flat YAML files whose keys are arguments of the model, the data, the training and the evaluation."""

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..data.errors import shown
from .errors import RecipeError
from .given import plain_values, where_keys_come_from
from .packaged_recipes import find_recipe, nearest_names
from .strict_yaml import LONGEST, parse_yaml

_MOST_BASES = 20
_DICTIONARY = "the recipe's dictionary"
# What YAML may have read a boolean from.
_BOOLEANS = {True: ("yes", "on", "true"), False: ("no", "off", "false")}
# transformers declares it as text, and takes True for the newest checkpoint of all.
_PATH_OR_BOOLEAN = {"resume_from_checkpoint"}


@dataclass
class Recipe:
    """A recipe as read.

    Attributes:
        path (`Path`): Its file, or what errors call what is none.
        values (`dict[str, Any]`): By key.
        origins (`dict[str, str]`): Where each value came from.
        sweep (`dict[str, Any]`): The `sweep` section, if there is one.
        of_other_model (`frozenset[str]`): The keys that were set for another model type than its own.
        name (`str`): What reports call it: that of its file.
    """

    path: Path
    values: dict[str, Any]
    origins: dict[str, str]
    sweep: dict[str, Any]
    of_other_model: frozenset[str] = frozenset()
    name: str = ""

    def __post_init__(self):
        self.name = self.name or self.path.stem

    def override(self, values: Mapping[str, Any], origin: str | None = None) -> "Recipe":
        """A recipe with these values on top, and without the keys that `drop` among them lists.

        Other data shed the name that a card would give them. Raises RecipeError if `drop` names what is not set, or for a
        value that no recipe can hold; its message begins with `origin`, by default the one of keys that a user gives.
        """
        origin = origin or where_keys_come_from()
        values = plain_values(values, origin)
        kept = self._without(values.pop("drop", None), origin)
        origins = self.origins | dict.fromkeys(values, origin)
        if "dataset" in values and values["dataset"] != kept.get("dataset"):
            kept.pop("dataset_name", None)
        other = self.of_other_model
        if values.get("model_type", kept.get("model_type")) != kept.get("model_type"):
            other |= kept.keys()
        return dataclasses.replace(self, values=kept | values, origins=origins, of_other_model=other - values.keys())

    def _without(self, keys: Any, origin: str) -> dict[str, Any]:
        keys = keys if isinstance(keys, list) else [] if keys is None else [keys]
        for key in keys:
            if not isinstance(key, str) or key not in self.values:
                close = difflib.get_close_matches(str(key), sorted(self.values), n=1)
                raise RecipeError(
                    f"{origin}: drop has {shown(key)}, which is not set there."
                    + (f" Did you mean {close[0]!r}?" if close else "")
                )
        return {key: value for key, value in self.values.items() if key not in keys}


def load_recipe(recipe: str | Path | Mapping[str, Any], folder: str | Path = "") -> Recipe:
    """Read a recipe and, first, the recipe that its `base` key names relative to it.

    Args:
        recipe (`str`, `Path` or `Mapping[str, Any]`): A file, the name of a recipe that comes with the package, such as
            `wma/smoke`, or what such a file would hold.
        folder (`str` or `Path`): What a relative path is relative to.

    Raises:
        RecipeError: If it, or a base, is none of these, or cannot be read.
    """
    if isinstance(recipe, Mapping):
        return _without_file(recipe, _DICTIONARY, Path(folder))
    path = find_recipe(recipe, Path(folder))
    if not os.path.exists(path):
        raise RecipeError(f"{path}: No such file; a recipe is expected.{nearest_names(path)}")
    return _with_folder(_load_recipe(path, ()), f"{path.parent.name}-{path.stem}".lstrip("-"))


def given_recipe(recipe: "str | Path | Mapping[str, Any] | Recipe | None", keys: Mapping[str, Any]) -> Recipe:
    """The recipe that somebody gives, with the keys beside it on top; without a recipe the keys are one.

    Raises RecipeError as :func:`load_recipe` does.
    """
    if recipe is None:
        return _without_file(keys, where_keys_come_from(), Path())
    return (recipe if isinstance(recipe, Recipe) else load_recipe(recipe)).override(keys)


def _load_recipe(path: Path, descendants: tuple[Path, ...]) -> Recipe:
    try:
        content = read_values(path)
    except RecipeError as error:
        raise RecipeError(
            f"{descendants[-1]}: its base cannot be used. {error}" if descendants else str(error)
        ) from error
    return _made_recipe(path, content, descendants)


def _made_recipe(path: Path, content: dict[str, Any], descendants: tuple[Path, ...]) -> Recipe:
    """The recipe of a file's content; `path` may also be what errors call a content that is in none."""
    base = content.pop("base", None)
    sweep = content.pop("sweep", None) or {}
    if not isinstance(sweep, dict):
        raise RecipeError(f"{path}: sweep is {shown(sweep)}; expected a section of `key: value` lines.")
    recipe = Recipe(path, {}, {}, {})
    if base is not None:
        chain = (*descendants, path)
        parent = _load_recipe(_base_path(base, chain), chain)
        recipe = dataclasses.replace(parent, path=path, name="")
        for key in ("output_dir", "model_title"):  # of that recipe's own model
            recipe.values.pop(key, None)
    recipe = recipe.override(content, str(path))
    if sweep:
        recipe.sweep = sweep
        recipe.origins["sweep"] = str(path)
    return recipe


def _with_folder(recipe: Recipe, name: str) -> Recipe:
    """The recipe with `runs/NAME` for a folder, unless it says another."""
    if recipe.values.get("output_dir") is None:
        recipe.values["output_dir"] = f"runs/{name}"
    return recipe


def _without_file(values: Mapping[str, Any], origin: str, folder: Path) -> Recipe:
    """The recipe that a mapping is, called by what is trained on what."""
    recipe = _made_recipe(folder / origin, plain_values(values, origin), ())
    parts = (recipe.values.get(key) for key in ("dataset", "model_type"))
    recipe.name = "-".join(part for part in parts if isinstance(part, str)) or "recipe"
    return _with_folder(recipe, recipe.name)


def _of_other_model(recipe: Recipe, known: set[str]) -> RecipeError:
    """The error for keys that another model type has, which a base or the recipe itself set before the type was changed."""
    unknown = [key for key in recipe.values if key in recipe.of_other_model and key not in known]
    origins = " and ".join(dict.fromkeys(recipe.origins.get(key, str(recipe.path)) for key in unknown))
    return RecipeError(
        f"{recipe.origins.get('model_type', recipe.path)}: {recipe.values['model_type']} has no key "
        f"{', '.join(map(repr, unknown))}, set in {origins} for another model. Do without: "
        f"`drop: [{', '.join(unknown)}]`."
    )


def _base_path(base: Any, chain: tuple[Path, ...]) -> Path:
    """Where the base of the last recipe of `chain` is; each of the chain is the base of the one before it."""
    if not isinstance(base, str) or not base or "\0" in base:
        raise RecipeError(
            f"{chain[-1]}: base is {shown(base)}; expected the path of a recipe, relative to this one, or the name of one "
            "that comes with the package."
        )
    path = find_recipe(base, chain[-1].parent)
    if os.path.realpath(path) in map(os.path.realpath, chain):
        raise RecipeError(f"{chain[-1]}: base leads back to where it started: {' -> '.join(map(str, (*chain, path)))}.")
    if len(chain) > _MOST_BASES:
        raise RecipeError(f"{chain[0]} has more than {_MOST_BASES} bases, each the base of the one before.")
    return path


def read_values(path: Path) -> dict[str, Any]:
    """The `key: value` lines of a YAML file.

    Raises:
        RecipeError: If there is no such file, or it is not UTF-8 or YAML, larger or deeper than any recipe, or no
            mapping with strings as keys.
    """
    try:
        if not path.is_file():  # a pipe would be waited for, and a device has no end
            raise RecipeError(
                f"{path}: {'No regular file' if path.exists() else 'No such file'}; a recipe is expected."
            )
        with open(path, encoding="utf-8") as file:
            text = file.read(LONGEST + 1)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8, as recipes must be: {error}.") from error
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror or error}") from error
    if len(text) > LONGEST:
        raise RecipeError(f"{path} is no recipe: it has more than {LONGEST} characters.")
    try:
        content = parse_yaml(text, str(path))
    except ValueError as error:
        raise RecipeError(f"{path} is no YAML that a recipe can be: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise RecipeError(f"{path} must hold `key: value` lines.")
    return content


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """`["--wma_alpha", "2", "--modalities", "text", "image"]` to values; several words make a list."""
    values: dict[str, Any] = {}
    key = None
    for word in arguments:
        if word.startswith("--"):
            key, _, rest = word[2:].partition("=")
            key = key.replace("-", "_")
            values[key] = [rest] if rest else []
        elif key is None:
            raise RecipeError(f"{word!r} stands before any --argument.")
        else:
            values[key].append(word)
    # `--flag` alone means true; YAML reads numbers, booleans, lists and mappings as a recipe would.
    parsed = {key: [_parse_word(key, word) for word in words] for key, words in values.items()}
    return {key: True if not words else words[0] if len(words) == 1 else words for key, words in parsed.items()}


def _parse_word(key: str, word: str) -> Any:
    try:
        return parse_yaml(word)
    except ValueError as error:
        raise RecipeError(
            f"the command line: --{key} is {shown(word)}, which is no YAML; text with special characters stands in "
            f"quotes of its own, --{key} '\"…\"'. {error}"
        ) from error


def split_arguments(recipe: Recipe, targets: dict[str, type]) -> dict[str, dict[str, Any]]:
    """Give each value of a recipe to the dataclass that has a field of its name, checked and converted.

    Args:
        recipe (`Recipe`): The recipe.
        targets (`dict[str, type]`): Dataclasses by the name of their group; the first that knows a key gets it.

    Raises:
        RecipeError: For an unknown key, with the nearest right one, or a value of the wrong type.
    """
    import torch  # transformers annotates with it without importing it

    hints = {group: get_type_hints(target, localns={"torch": torch}) for group, target in targets.items()}
    fields = {
        group: {field.name for field in dataclasses.fields(target) if field.init} for group, target in targets.items()
    }
    result: dict[str, dict[str, Any]] = {group: {} for group in targets}
    for key, value in recipe.values.items():
        group = next((group for group in targets if key in fields[group]), None)
        if group is None:
            if key in recipe.of_other_model:
                raise _of_other_model(recipe, set().union(*fields.values()))
            close = difflib.get_close_matches(key, sorted(set().union(*fields.values())), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise RecipeError(f"{recipe.origins.get(key, recipe.path)}: unknown key {shown(key)}.{hint}")
        result[group][key] = _convert(key, value, hints[group].get(key, Any), recipe.origins.get(key, str(recipe.path)))
    return result


def _convert(key: str, value: Any, hint: Any, origin: str) -> Any:
    """Check a value against a type hint, after what YAML writes differently (2e-5, a list of one) is made to fit."""
    from huggingface_hub.dataclasses import type_validator

    value = _fit(value, hint)
    if key in _PATH_OR_BOOLEAN and isinstance(value, bool):
        return value
    try:
        type_validator(key, value, hint)
    except TypeError as error:
        if str(error).startswith("Unsupported type"):
            return value  # left to the dataclass itself
        words = sorted(map(repr, _words_of(_options(hint))))
        expected = " or ".join(words) or (hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", ""))
        hints = " YAML reads yes, no, on, off, true and false as booleans; as text they stand in quotes, '\"no\"'."
        raise RecipeError(
            f"{origin}: {key} is {shown(value)} ({type(value).__name__}); expected {expected}."
            f"{hints if isinstance(value, bool) else ''}"
        ) from None
    return value


def _fit(value: Any, hint: Any) -> Any:
    options = _options(hint)
    if isinstance(value, bool) and bool not in options:
        words = _words_of(options)
        return next((word for word in _BOOLEANS[value] if word in words), value)
    lists = [option for option in options if get_origin(option) is list]
    if (
        isinstance(value, (int, str))
        and not isinstance(value, bool)
        and float in options
        and type(value) not in options
    ):
        with contextlib.suppress(ValueError):
            return float(value)
    if lists and value is not None and type(value) not in options:
        items = value if isinstance(value, list) else [value]
        return [_fit(item, *get_args(lists[0])) for item in items]
    return value


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _words_of(options: tuple[Any, ...]) -> set[Any]:
    """The values among which enums and literals let choose."""
    words: set[Any] = set()
    for option in options:
        if get_origin(option) is Literal:
            words |= set(get_args(option))
        elif isinstance(option, type) and issubclass(option, Enum):
            words |= {member.value for member in option}
    return words
