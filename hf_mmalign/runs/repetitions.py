"""Which of several saved runs are repetitions of one training, and what to call each in a picture."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .evaluation import has_recipe, recipe_of
from .recipe import Recipe, RecipeError
from .sweep_folders import differing

# What differs between repetitions of one training.
_SEEDS = {"seed", "data_seed"}


def listed(folders: str | Path | Sequence[str | Path]) -> list[Path]:
    """One folder or several, as paths."""
    return [Path(folder) for folder in ([folders] if isinstance(folders, str | Path) else folders)]


def repetitions(folders: Sequence[Path], over_folds: bool = False) -> dict[str, list[Path]]:
    """Runs whose recipes differ in their seeds alone, by the parts of their paths that tell them from others.

    Args:
        folders (`Sequence[Path]`): The runs.
        over_folds (`bool`, *optional*, defaults to `False`): Whether the data set's `fold` may differ too, where runs need
            not have the same samples.

    Raises:
        RecipeError: For a run that is named twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise RecipeError(f"A run is named twice: {', '.join(map(str, folders))}.")
    recipes = {folder: recipe_of(folder) if has_recipe(folder) else None for folder in folders}
    if over_folds:
        recipes = {folder: None if recipe is None else _of_any_fold(recipe) for folder, recipe in recipes.items()}
    groups: list[list[Path]] = []
    for folder, recipe in recipes.items():
        for group in groups:
            first = recipes[group[0]]
            if None not in (recipe, first) and set(differing(first, recipe)) <= _SEEDS:
                group.append(folder)
                break
        else:
            groups.append([folder])
    return dict(zip(_names(groups), groups, strict=True))


def _of_any_fold(recipe: Recipe) -> Recipe:
    options = recipe.values.get("dataset_options") or {}
    without = {key: value for key, value in options.items() if key != "fold"}
    return replace(recipe, values=recipe.values | {"dataset_options": without})


def _names(groups: Sequence[Sequence[Path]]) -> list[str]:
    of_group = [[folder.resolve().parts for folder in group] for group in groups]
    everywhere = set.intersection(*(set(parts) for group in of_group for parts in group))
    names = []
    for group in of_group:
        shared = [part for part in group[0] if all(part in other for other in group)]
        # What a sweep calls the folder of a single seed tells nothing.
        telling = [part for part in shared if not part.startswith("seed=")]
        names.append("/".join(part for part in telling if part not in everywhere) or telling[-1])
    return names if len(set(names)) == len(names) else [str(group[0]) for group in groups]
