"""Grids and comparisons: many runs of one recipe, selected on validation, reported on test, resumable after a kill."""

import itertools
import json
import math
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..evaluation.metrics import GREATER_IS_BETTER
from ..evaluation.report import RobustnessComparison, RobustnessReport, Score, compare
from ..reporting.files import write_text
from ..reporting.plots import plot_heat_map, plot_robustness, save_figure
from ..reporting.tables import format_score, markdown_table, metric_label
from .build import read_arguments
from .recipe import Recipe, RecipeError
from .run import RESULTS, remove_checkpoints, robustness, train

_SECTION_KEYS = ("variants", "seeds", "selection_seeds")


@dataclass(frozen=True, eq=False)
class Cell:
    """One setting of a variant: its argument values."""

    variant: str
    values: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """A folder name, unique within the variant."""
        return ",".join(f"{key}={value}" for key, value in self.values).replace("/", "_") or "default"


@dataclass
class Sweep:
    """What a sweep runs.

    Args:
        recipe (`Recipe`): The recipe all runs share.
        variants (`dict[str, list[Cell]]`): The cells of each variant; more than one make a grid to select from.
        seeds (`list[int]`): Training seeds of each variant's selected cell.
        selection_seeds (`list[int]`): Training seeds with which the cells of a grid are compared on validation.
        jobs (`int`): Runs at a time, each in a process of its own with its share of the processors.
    """

    recipe: Recipe
    variants: dict[str, list[Cell]]
    seeds: list[int]
    selection_seeds: list[int]
    jobs: int = 1

    @property
    def folder(self) -> Path:
        return Path(self.recipe.values["output_dir"])


def read_sweep(recipe: Recipe, overrides: dict[str, Any], jobs: int = 1) -> Sweep:
    """The sweep of a recipe's `sweep` section and of command-line lists, which span a grid.

    Raises RecipeError, before anything runs, for an unknown key in the section or in a variant.
    """
    section = dict(recipe.sweep)
    unknown = set(section) - set(_SECTION_KEYS)
    if unknown:
        raise RecipeError(f"{recipe.path}: sweep has the unknown keys {sorted(unknown)}; it takes {_SECTION_KEYS}.")
    seeds = overrides.pop("seed", None) or section.get("seeds") or recipe.values.get("seed", 42)
    seeds = seeds if isinstance(seeds, list) else [seeds]
    selection_seeds = overrides.pop("selection_seeds", None) or section.get("selection_seeds") or seeds[:1]
    grid = {key: value for key, value in overrides.items() if isinstance(value, list)}
    recipe = recipe.override({k: v for k, v in overrides.items() if k not in grid}, "the command line")
    variants = section.get("variants") or {recipe.path.stem: {}}
    cells = {name: _cells(name, (values or {}) | grid) for name, values in variants.items()}
    selection_seeds = selection_seeds if isinstance(selection_seeds, list) else [selection_seeds]
    for cell in itertools.chain(*cells.values()):
        read_arguments(recipe.override(dict(cell.values), f"{recipe.path}: variant {cell.variant}"))
    return Sweep(recipe, cells, seeds, selection_seeds, jobs)


def _cells(variant: str, values: dict[str, Any]) -> list[Cell]:
    lists = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    return [
        Cell(variant, tuple(zip(lists, combination, strict=True))) for combination in itertools.product(*lists.values())
    ]


def run_sweep(sweep: Sweep) -> dict[str, Any]:
    """Run what is missing, select each variant's cell on validation, report it on test.

    Writes `sweep.json`, `sweep.md` and plots into the sweep's folder and returns what `sweep.json` holds. A run whose
    folder holds `results.json` is not run again; one that was killed goes on from its last whole checkpoint.
    """
    grids = [cell for cells in sweep.variants.values() if len(cells) > 1 for cell in cells]
    _run_all(sweep, [Run(sweep, cell, seed, robustness=False) for cell in grids for seed in sweep.selection_seeds])
    selected = {variant: _select(sweep, cells) for variant, cells in sweep.variants.items()}
    _run_all(sweep, [Run(sweep, cell, seed) for cell, _ in selected.values() for seed in sweep.seeds])
    outcome: dict[str, Any] = {"variants": {}}
    for variant, (cell, scores) in selected.items():
        runs = {seed: Run(sweep, cell, seed) for seed in sweep.seeds}
        outcome["variants"][variant] = {
            "selected": dict(cell.values),
            "grid": [{**dict(cell.values), "validation": score} for cell, score in scores.items()],
            "runs": {str(seed): run.results() for seed, run in runs.items()},
            "folders": [str(run.folder) for run in runs.values()],
        }
        outcome["primary_metric"] = runs[sweep.seeds[0]].results()["primary_metric"]
    _report(sweep, outcome)
    return outcome


@dataclass(frozen=True)
class Run:
    """One training of a sweep: a cell and a seed. Cells that are only compared need no robustness evaluation."""

    sweep: Sweep
    cell: Cell
    seed: int
    robustness: bool = True

    @property
    def folder(self) -> Path:
        folder = self.sweep.folder / self.cell.variant
        if len(self.sweep.variants[self.cell.variant]) > 1:
            folder /= self.cell.name
        return folder / f"seed={self.seed}"

    @property
    def trained(self) -> bool:
        return (self.folder / RESULTS).exists()

    @property
    def finished(self) -> bool:
        wanted = self.robustness and self.sweep.recipe.values.get("robustness", True)
        return self.trained and (not wanted or (self.folder / "robustness.json").exists())

    def results(self) -> dict[str, Any]:
        """What the finished run reported."""
        return json.loads((self.folder / RESULTS).read_text(encoding="utf-8"))

    def execute(self) -> None:
        """Train, or go on with a training that was killed; of a trained one, evaluate what is still missing."""
        if self.trained:
            robustness(self.folder, "test")
            return
        values = {"seed": self.seed, "output_dir": str(self.folder), "resume_from_checkpoint": "true"}
        recipe = self.sweep.recipe.override(dict(self.cell.values) | values, f"variant {self.cell.variant}")
        train(recipe, with_robustness=self.robustness)
        remove_checkpoints(self.folder)

    def execute_logged(self) -> None:
        """:meth:`execute` with its output in `log.txt`, for runs side by side."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "log.txt", "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), sys.stdout.fileno())
            os.dup2(log.fileno(), sys.stderr.fileno())
            self.execute()

    def __str__(self) -> str:
        return f"{self.cell.variant} {self.cell.name} seed {self.seed}"


def _run_all(sweep: Sweep, runs: list[Run]) -> None:
    pending = [run for run in runs if not run.finished]
    if sweep.jobs == 1:
        for number, run in enumerate(pending, 1):
            print(f"\n== Run {number} of {len(pending)}: {run} -> {run.folder}", flush=True)
            run.execute()
        return
    threads = max(1, (os.cpu_count() or 1) // sweep.jobs)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the new processes when they import torch
    # A process per run: nothing of one run, its random state or its caches, can reach the next.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(sweep.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        futures = {pool.submit(run.execute_logged): run for run in pending}
        for number, future in enumerate(as_completed(futures), 1):
            run = futures[future]
            try:
                future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                print(f"hf-mmalign: {run} failed, see {run.folder / 'log.txt'}", file=sys.stderr)
                raise
            print(f"== {number} of {len(pending)} done: {run} -> {run.folder}", flush=True)


def _select(sweep: Sweep, cells: list[Cell]) -> tuple[Cell, dict[Cell, float]]:
    """The best cell on validation, and the score of each; a variant of one cell has nothing to select."""
    if len(cells) == 1:
        return cells[0], {}
    scores, metric = {}, ""
    for cell in cells:
        results = [Run(sweep, cell, seed).results() for seed in sweep.selection_seeds]
        metric = results[0]["primary_metric"]
        scores[cell] = fmean(result["validation"][metric] for result in results)
    return (max if GREATER_IS_BETTER[metric] else min)(scores, key=scores.__getitem__), scores


def _report(sweep: Sweep, outcome: dict[str, Any]) -> None:
    metric = outcome["primary_metric"]
    lines = [f"# {sweep.recipe.path.stem}", "", _selection_text(sweep, outcome), "", _score_table(outcome, metric)]
    comparison = _compare(outcome)
    if comparison is not None:
        lines += ["## Robustness on the test split", "", comparison.to_markdown()]
        outcome["robustness"] = comparison.to_dict()
        reports = {name: _reports(variant) for name, variant in outcome["variants"].items()}
        save_figure(plot_robustness(reports), sweep.folder / "robustness.png")
    for name, variant in outcome["variants"].items():
        if variant["grid"]:
            lines += [
                f"## Grid of {name}: {metric_label(metric)} on validation",
                "",
                _grid_table(variant["grid"], metric),
            ]
            _heat_map(sweep.folder / f"grid-{name}.png", variant["grid"], metric, name)
    write_text(sweep.folder / "sweep.md", "\n".join(lines))
    write_text(sweep.folder / "sweep.json", json.dumps(outcome, indent=2) + "\n")


def _selection_text(sweep: Sweep, outcome: dict[str, Any]) -> str:
    texts = []
    for name, variant in outcome["variants"].items():
        setting = ", ".join(f"{key} = {value}" for key, value in variant["selected"].items()) or "as in the recipe"
        how = ""
        if variant["grid"]:
            how = f" (best of {len(variant['grid'])} on validation, seed {', '.join(map(str, sweep.selection_seeds))})"
        texts.append(f"- **{name}**: {setting}{how}")
    seeds = ", ".join(map(str, sweep.seeds))
    return "\n".join(texts) + f"\n\nMean ± standard deviation over the training seeds {seeds}."


def _score_table(outcome: dict[str, Any], metric: str) -> str:
    rows = []
    for name, variant in outcome["variants"].items():
        runs = variant["runs"].values()
        cells = [
            str(Score(tuple(run[split].get(metric, math.nan) for run in runs))) for split in ("validation", "test")
        ]
        seconds = fmean(run["train"]["seconds"] for run in runs)
        rows.append([name, *cells, f"{seconds:.0f} s"])
    label = metric_label(metric, GREATER_IS_BETTER.get(metric))
    return markdown_table(["variant", f"{label}, validation", f"{label}, test", "training"], rows)


def _reports(variant: dict[str, Any]) -> list[RobustnessReport]:
    files = [Path(folder) / "robustness.json" for folder in variant["folders"]]
    return [RobustnessReport.from_json(file) for file in files if file.exists()]


def _compare(outcome: dict[str, Any]) -> RobustnessComparison | None:
    reports = {name: _reports(variant) for name, variant in outcome["variants"].items()}
    return compare(reports) if all(reports.values()) else None


def _grid_table(grid: list[dict[str, Any]], metric: str) -> str:
    keys = [key for key in grid[0] if key != "validation"]
    rows = [[*(str(entry[key]) for key in keys), format_score(entry["validation"])] for entry in grid]
    return markdown_table([*keys, metric_label(metric, GREATER_IS_BETTER.get(metric))], rows)


def _heat_map(path: Path, grid: list[dict[str, Any]], metric: str, name: str) -> None:
    """Draw the grid where exactly two arguments vary."""
    values = {key: list(dict.fromkeys(entry[key] for entry in grid)) for key in grid[0] if key != "validation"}
    varying = [key for key, options in values.items() if len(options) > 1]
    if len(varying) != 2:
        return
    row, column = varying
    score = {(entry[row], entry[column]): entry["validation"] for entry in grid}
    cells = [[score.get((r, c), float("nan")) for c in values[column]] for r in values[row]]
    figure = plot_heat_map(
        cells,
        values[row],
        values[column],
        row_name=row,
        column_name=column,
        metric=metric,
        greater_is_better=GREATER_IS_BETTER.get(metric),
        title=f"{name}: validation",
    )
    save_figure(figure, path)
