"""Grids and comparisons: many runs of one recipe, selected on validation, reported on test, resumable after a kill."""

import itertools
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ..data.errors import shown
from ..data.loading import has_own_folds
from ..evaluation.metrics import GREATER_IS_BETTER
from ..trainer.checkpoints import checkpoints_in
from .build import read_arguments, training_arguments
from .evaluation import RESULTS, robustness
from .given import plain_values, where_keys_come_from
from .processes import process_per_task
from .recipe import Recipe, RecipeError, given_recipe, load_recipe
from .sweep_folders import cell_folders, cell_text, check_variant_names, refuse_other_run
from .sweep_report import write_report
from .training import remove_checkpoints, train_recipe, write_recipe

_SECTION_KEYS = ("variants", "reference", "seeds", "selection_seeds", "folds")
# What the sweep itself sets for every run.
_OF_THE_SWEEP = ("seed", "output_dir", "resume_from_checkpoint")


@dataclass(frozen=True, eq=False)
class Cell:
    """One setting of a variant: its argument values, and the name of its folder within the variant's."""

    values: tuple[tuple[str, Any], ...]
    folder: str


@dataclass(frozen=True, eq=False)
class Variant:
    """One side of a comparison.

    Args:
        name (`str`): Its name in tables and its folder.
        recipe (`Recipe`): What all its runs share.
        cells (`list[Cell]`): Its settings; more than one make a grid to select from.
        base (`str`, *optional*): The recipe it starts from, as the `sweep` section names it, where that is not the
            recipe of the sweep itself.
    """

    name: str
    recipe: Recipe
    cells: list[Cell]
    base: str | None = None


@dataclass
class Sweep:
    """What a sweep runs.

    Args:
        name (`str`): Heading of the report.
        folder (`Path`): Where the runs and the report go.
        variants (`list[Variant]`): What is compared.
        seeds (`list[int]`): Training seeds of each variant's selected cell.
        selection_seeds (`list[int]`): Training seeds with which the cells of a grid are compared on validation.
        folds (`list[int | None]`): The data set's option `fold` in turn; None leaves it out. Everything is repeated for
            each fold, the selection within a grid included.
        jobs (`int`): Runs at a time, each in a process of its own with its share of the processors.
        reference (`str`): Name of the variant that the report gives the others' differences to, the first by default.
    """

    name: str
    folder: Path
    variants: list[Variant]
    seeds: list[int]
    selection_seeds: list[int]
    folds: list[int | None] = field(default_factory=lambda: [None])
    jobs: int = 1
    reference: str = ""

    def __post_init__(self):
        self.reference = self.reference or self.variants[0].name


@dataclass
class SweepOutcome:
    """What a sweep found.

    Attributes:
        folder (`Path`): Where report, plots and runs lie.
        results (`dict[str, Any]`): The content of `sweep.json`: `primary_metric`, `seeds`, and under `variants` for each
            what was `selected`, its `grid`, `scores` by split and metric, and its `difference` to the `reference`.
        table (`str`): The content of `sweep.md`, the report as people read it.
    """

    folder: Path
    results: dict[str, Any]
    table: str = field(repr=False)


def sweep(recipe: str | Path | Mapping[str, Any] | Recipe, /, *, jobs: int = 1, **keys: Any) -> SweepOutcome:
    """Train a grid or a comparison of variants, select on validation, report on test, as `hf-mmalign sweep` does.

    What a former call has finished is not run again; a run that was killed goes on from its last whole checkpoint.

    >>> from hf_mmalign import runs
    >>> outcome = runs.sweep("wma/smoke", wma_alpha=[0.1, 1.0], seed=[0, 1])
    >>> print(outcome.table)

    Args:
        recipe (`str`, `Path`, `Mapping[str, Any]` or `Recipe`): As for :func:`hf_mmalign.runs.train`; its section `sweep`
            names the variants.
        jobs (`int`): Runs at a time, each in a process of its own: a script that asks for more than one must do so below
            `if __name__ == "__main__":`.
        keys: Any key of a recipe, of every variant. A list of values spans a grid; `seed`, `selection_seeds`, `folds` and
            `reference` are those of the section.

    Raises:
        RecipeError: Before anything runs, for what cannot be a sweep, and where a folder holds another run.
        DataError, CheckpointError, OSError: As for :func:`hf_mmalign.runs.train`.
    """
    plan = read_sweep(given_recipe(recipe, {}), keys, jobs)
    results = run_sweep(plan)
    return SweepOutcome(plan.folder, results, (plan.folder / "sweep.md").read_text(encoding="utf-8"))


def read_sweep(recipe: Recipe, keys: Mapping[str, Any], jobs: int = 1) -> Sweep:
    """The sweep of a recipe's `sweep` section and of keys over the recipe's, in which lists span a grid.

    Raises RecipeError, before anything runs, for an unknown key or another shape in the section or in a variant, a variant
    whose name cannot be a folder's, a reference that is no variant, two cells that are one setting, or what no run could
    be trained with.
    """
    if jobs < 1:
        raise RecipeError(f"{where_keys_come_from()}: jobs is {jobs}; it is at least 1.")
    section, origin = dict(recipe.sweep), recipe.origins.get("sweep", str(recipe.path))
    unknown = set(section) - set(_SECTION_KEYS)
    if unknown:
        raise RecipeError(f"{origin}: sweep has the unknown keys {sorted(unknown)}; it takes {_SECTION_KEYS}.")
    overrides = plain_values(keys, where_keys_come_from())
    seeds = _listed(overrides.pop("seed", None), section.get("seeds"), recipe.values.get("seed"), 42)
    selection_seeds = _listed(overrides.pop("selection_seeds", None), section.get("selection_seeds"), seeds[:1])
    for key, found in (("seeds", seeds), ("selection_seeds", selection_seeds)):
        _check_seeds(key, found, origin)
    folds = _read_folds(overrides.pop("folds", section.get("folds")), origin)
    reference = overrides.pop("reference", section.get("reference"))
    grid = {key: value for key, value in overrides.items() if isinstance(value, list)}
    overrides = {key: value for key, value in overrides.items() if key not in grid}
    sides = section.get("variants")
    sides = {recipe.name: {}} if sides is None else sides
    if not isinstance(sides, dict) or not sides:
        raise RecipeError(f"{origin}: variants is {shown(sides)}; expected `name: {{key: value}}` lines.")
    check_variant_names(sides, origin)
    if reference is not None and reference not in list(sides):
        raise RecipeError(f"{origin}: reference is {reference!r}; expected one of the variants {list(sides)}.")
    variants = [_read_variant(recipe, name, values, overrides, grid) for name, values in sides.items()]
    folder = Path(overrides.get("output_dir", recipe.values["output_dir"]))
    return Sweep(recipe.name, folder, variants, seeds, selection_seeds, folds, jobs, reference or "")


def _listed(*candidates: Any) -> list[Any]:
    """The first that is given, as a list."""
    value = next(value for value in candidates if value is not None)
    return value if isinstance(value, list) else [value]


def _check_seeds(key: str, seeds: list[Any], origin: str) -> None:
    """A seed names a folder, and a repeated one would count twice."""
    if not seeds or any(type(seed) is not int for seed in seeds):
        raise RecipeError(f"{origin}: {key} is {seeds!r}; expected a list of whole numbers such as [0, 1, 2].")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"{origin}: {key} names one twice: {seeds}")


def _read_folds(value: Any, origin: str) -> list[int | None]:
    if value is None:
        return [None]
    folds = list(range(value)) if type(value) is int else value
    if not isinstance(folds, list) or not folds or any(type(fold) is not int for fold in folds):
        raise RecipeError(
            f"{origin}: folds is {value!r}; expected the number of folds, or a list of them such as [0, 1, 2]."
        )
    if len(set(folds)) < len(folds):
        raise RecipeError(f"{origin}: folds names one twice: {folds}")
    return folds


def _read_variant(recipe: Recipe, name: str, values: Any, overrides: dict[str, Any], grid: dict[str, Any]) -> Variant:
    origin = recipe.origins.get("sweep", str(recipe.path))
    if not isinstance(values or {}, dict):
        raise RecipeError(f"{origin}: the variant {name!r} is {values!r}; expected `key: value` pairs.")
    values = dict(values or {})
    base, drop = values.pop("base", None), values.pop("drop", None)
    if base is not None:
        recipe = load_recipe(str(base), Path(origin).parent)
    recipe = recipe.override({"drop": drop}, f"{origin}: variant {name}")
    recipe = recipe.override(overrides)
    misplaced = [key for key in _OF_THE_SWEEP if key in values | grid]
    if misplaced:
        raise RecipeError(
            f"{origin}: the variant {name!r} has {misplaced[0]!r}, which the sweep itself sets for every run."
        )
    where = f"{origin}: variant {name}"
    empty = [key for key, value in (values | grid).items() if value == []]
    if empty:
        raise RecipeError(f"{where}: {empty[0]} is an empty list; expected one or more values.")
    cells = _cells(values | grid)
    arguments = []
    for cell in cells:
        read = read_arguments(recipe.override(dict(cell.values), where))
        training_arguments(read)
        arguments.append(read.by_key())
    for place, (cell, values) in enumerate(zip(cells, arguments, strict=True)):
        if values in arguments[:place]:
            same = cells[arguments.index(values)]
            raise RecipeError(
                f"{where}: {cell_text(same.values)} and {cell_text(cell.values)} are one setting; leave one out."
            )
    return Variant(name, recipe, cells, base)


def _cells(values: dict[str, Any]) -> list[Cell]:
    lists = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    settings = [tuple(zip(lists, combination, strict=True)) for combination in itertools.product(*lists.values())]
    return [Cell(*pair) for pair in zip(settings, cell_folders(settings), strict=True)]


def run_sweep(sweep: Sweep) -> dict[str, Any]:
    """Run what is missing, select each variant's cell on validation, report it on test.

    With folds, a cell is selected for every fold on that fold's own validation split, so that no fold's test data have a
    part in the choice of the model they judge.

    Writes `sweep.json`, `sweep.md` and plots into the sweep's folder and returns what `sweep.json` holds. A run whose
    folder holds `results.json` is not run again; one that was killed goes on from its last whole checkpoint. Raises
    RecipeError, before anything runs, where a folder holds the run of another recipe.
    """
    pairs = list(itertools.product(sweep.variants, sweep.folds))
    for (variant, fold), seed in itertools.product(pairs, dict.fromkeys(sweep.selection_seeds + sweep.seeds)):
        for cell in variant.cells:
            run = Run(sweep, variant, cell, seed, fold)
            refuse_other_run(run.folder, run.recipe)
    _run_all(sweep, [run for pair in pairs for run in _selection_runs(sweep, *pair)])
    selected = {pair: _select(sweep, *pair) for pair in pairs}
    runs = {
        (variant, fold): [Run(sweep, variant, cell, seed, fold) for seed in sweep.seeds]
        for (variant, fold), (cell, _) in selected.items()
    }
    _run_all(sweep, list(itertools.chain(*runs.values())))
    outcome = {
        "primary_metric": runs[pairs[0]][0].results()["primary_metric"],
        "seeds": sweep.seeds,
        "selection_seeds": sweep.selection_seeds,
        "reference": sweep.reference,
        "variants": {},
    }
    for variant in sweep.variants:
        entries = {fold: _entry(*selected[variant, fold], runs[variant, fold]) for fold in sweep.folds}
        by_fold = {"folds": {str(fold): entry for fold, entry in entries.items()}}
        outcome["variants"][variant.name] = entries.get(None, by_fold) | (
            {"base": variant.base} if variant.base else {}
        )
    write_report(sweep.folder, sweep.name, outcome)
    return outcome


@dataclass(frozen=True)
class Run:
    """One training of a sweep: a cell, a seed and a fold. Cells that are only compared need no robustness evaluation."""

    sweep: Sweep
    variant: Variant
    cell: Cell
    seed: int
    fold: int | None
    robustness: bool = True

    @property
    def folder(self) -> Path:
        folder = self.sweep.folder / self.variant.name
        if len(self.variant.cells) > 1:
            folder /= self.cell.folder
        if self.fold is not None:
            folder /= f"fold={self.fold}"
        return folder / f"seed={self.seed}"

    @property
    def recipe(self) -> Recipe:
        recipe = self.variant.recipe.override(dict(self.cell.values), f"variant {self.variant.name}")
        if self.fold is not None:
            options = recipe.values.get("dataset_options", {}) | {"fold": self.fold}
            if not has_own_folds(recipe.values["dataset"]):
                options = {"folds": len(self.sweep.folds)} | options
            recipe = recipe.override({"dataset_options": options}, "the folds of the sweep")
        return recipe.override({"seed": self.seed, "output_dir": str(self.folder)}, "the sweep")

    @property
    def trained(self) -> bool:
        return (self.folder / RESULTS).exists()

    @property
    def finished(self) -> bool:
        wanted = self.robustness and self.recipe.values.get("robustness", True)
        return self.trained and (not wanted or (self.folder / "robustness.json").exists())

    def results(self) -> dict[str, Any]:
        """What the finished run reported."""
        return json.loads((self.folder / RESULTS).read_text(encoding="utf-8"))

    def execute(self) -> None:
        """Train, or go on with a training that was killed; of a trained one, evaluate what is still missing."""
        recipe = self.recipe
        if self.trained:
            # The data may have moved since.
            robustness(self.folder, **{key: recipe.values[key] for key in ("dataset_path",) if key in recipe.values})
            return
        # Written now too, so that a training that is killed does not go on with another recipe.
        write_recipe(self.folder, recipe)
        if checkpoints_in(self.folder):
            recipe = recipe.override({"resume_from_checkpoint": True}, "the sweep")
        train_recipe(recipe, with_robustness=self.robustness)
        remove_checkpoints(self.folder)

    def execute_logged(self) -> None:
        """:meth:`execute` with its output in `log.txt`, for runs side by side."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "log.txt", "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
            self.execute()

    def __str__(self) -> str:
        fold = "" if self.fold is None else f" fold {self.fold}"
        return f"{self.variant.name} {cell_text(self.cell.values)}{fold} seed {self.seed}"


def _run_all(sweep: Sweep, runs: list[Run]) -> None:
    pending = [run for run in runs if not run.finished]
    if sweep.jobs == 1:
        for number, run in enumerate(pending, 1):
            print(f"\n== Run {number} of {len(pending)}: {run} -> {run.folder}", flush=True)
            run.execute()
        return
    with process_per_task(sweep.jobs) as pool:
        futures = {pool.submit(run.execute_logged): run for run in pending}
        for number, future in enumerate(as_completed(futures), 1):
            run = futures[future]
            try:
                future.result()
            except BaseException:
                print(f"hf-mmalign: {run} failed, see {run.folder / 'log.txt'}", file=sys.stderr)
                pool.shutdown(cancel_futures=True)
                raise
            print(f"== {number} of {len(pending)} done: {run} -> {run.folder}", flush=True)


def _selection_runs(sweep: Sweep, variant: Variant, fold: int | None) -> list[Run]:
    """The runs that a grid's cells are compared by; a variant of one cell has nothing to select."""
    if len(variant.cells) == 1:
        return []
    return [
        Run(sweep, variant, cell, seed, fold, robustness=False)
        for cell in variant.cells
        for seed in sweep.selection_seeds
    ]


def _select(sweep: Sweep, variant: Variant, fold: int | None) -> tuple[Cell, dict[Cell, float]]:
    """The best cell on the validation split, and the mean over the selection seeds of each."""
    values: dict[Cell, list[float]] = {}
    metric = ""
    for run in _selection_runs(sweep, variant, fold):
        results = run.results()
        metric = results["primary_metric"]
        values.setdefault(run.cell, []).append(results["validation"][metric])
    if not values:
        return variant.cells[0], {}
    scores = {cell: fmean(cell_values) for cell, cell_values in values.items()}
    return (max if GREATER_IS_BETTER[metric] else min)(scores, key=scores.__getitem__), scores


def _entry(cell: Cell, scores: dict[Cell, float], runs: list[Run]) -> dict[str, Any]:
    """What `sweep.json` says about a variant, or about one of its folds."""
    return {
        "selected": dict(cell.values),
        "grid": [{**dict(cell.values), "validation": score} for cell, score in scores.items()],
        "runs": {str(run.seed): run.results() for run in runs},
        "folders": [str(run.folder) for run in runs],
    }
