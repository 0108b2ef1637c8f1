"""Grids and comparisons: many runs of one recipe, selected on validation, reported on test, resumable after a kill."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..evaluation.metrics import GREATER_IS_BETTER
from ..evaluation.report import RobustnessComparison, RobustnessReport, compare
from ..reporting.files import write_text
from ..reporting.plots import plot_heat_map, plot_robustness, save_figure
from ..reporting.tables import format_score, markdown_table, metric_label
from .recipe import Recipe, RecipeError
from .run import RESULTS, remove_checkpoints, train

_SECTION_KEYS = ("variants", "seeds", "selection_seeds")


@dataclass(frozen=True)
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
    """

    recipe: Recipe
    variants: dict[str, list[Cell]]
    seeds: list[int]
    selection_seeds: list[int]

    @property
    def folder(self) -> Path:
        return Path(self.recipe.values["output_dir"])


def read_sweep(recipe: Recipe, overrides: dict[str, Any]) -> Sweep:
    """The sweep of a recipe's `sweep` section and of command-line lists, which span a grid.

    Raises RecipeError for an unknown key in the section.
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
    return Sweep(recipe, cells, seeds, selection_seeds if isinstance(selection_seeds, list) else [selection_seeds])


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
    outcome: dict[str, Any] = {"variants": {}}
    for variant, cells in sweep.variants.items():
        scores = {}
        if len(cells) > 1:
            for cell in cells:
                results = [_run(sweep, cell, seed, robustness=seed in sweep.seeds) for seed in sweep.selection_seeds]
                scores[cell] = fmean(result["validation"][result["primary_metric"]] for result in results)
                metric = results[0]["primary_metric"]
            best = (max if GREATER_IS_BETTER[metric] else min)(scores, key=scores.get)
        else:
            best = cells[0]
        results = {seed: _run(sweep, best, seed, robustness=True) for seed in sweep.seeds}
        outcome["variants"][variant] = {
            "selected": dict(best.values),
            "grid": [{**dict(cell.values), "validation": score} for cell, score in scores.items()],
            "runs": {str(seed): result for seed, result in results.items()},
            "folders": [str(_folder(sweep, best, seed)) for seed in sweep.seeds],
        }
        outcome["primary_metric"] = next(iter(results.values()))["primary_metric"]
    _report(sweep, outcome)
    return outcome


def _folder(sweep: Sweep, cell: Cell, seed: int) -> Path:
    return sweep.folder / cell.variant / cell.name / f"seed={seed}"


def _run(sweep: Sweep, cell: Cell, seed: int, robustness: bool) -> dict[str, Any]:
    folder = _folder(sweep, cell, seed)
    finished = folder / RESULTS
    if finished.exists() and (not robustness or (folder / "robustness.json").exists() or not _wants_robustness(sweep)):
        return json.loads(finished.read_text(encoding="utf-8"))
    print(f"\n== {cell.variant}: {cell.name}, seed {seed} -> {folder}", flush=True)
    values = dict(cell.values) | {"seed": seed, "output_dir": str(folder), "resume_from_checkpoint": "true"}
    if not robustness:
        values["robustness"] = False
    results = train(sweep.recipe.override(values, f"variant {cell.variant}"))
    remove_checkpoints(folder)
    return results


def _wants_robustness(sweep: Sweep) -> bool:
    return sweep.recipe.values.get("robustness", True)


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
    from ..evaluation.report import Score

    rows = []
    for name, variant in outcome["variants"].items():
        runs = variant["runs"].values()
        cells = [str(Score(tuple(run[split][metric] for run in runs))) for split in ("validation", "test")]
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
