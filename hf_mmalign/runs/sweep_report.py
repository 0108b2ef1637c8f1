"""What a sweep found: `sweep.json`, `sweep.md` and the plots beside them.

Scores are repeated over the folds of the data where there are any, each with the mean over its training seeds, and over
the training seeds otherwise.
"""

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ..evaluation.differences import Difference, paired_difference
from ..evaluation.metric_names import GREATER_IS_BETTER, METRICS
from ..evaluation.scores import Score
from ..reporting.comparison import bold, bold_rule, compare, difference_table, is_better
from ..reporting.files import write_text
from ..reporting.plots import plot_robustness, save_figure
from ..reporting.robustness import RobustnessReport
from ..reporting.sweep_grid import plot_sweep_grid
from ..reporting.tables import markdown_table, metric_label


def write_report(folder: Path, title: str, outcome: dict[str, Any]) -> None:
    """Write `sweep.json`, `sweep.md` and plots of an outcome, after adding scores and robustness to it.

    Args:
        folder (`Path`): Where to.
        title (`str`): Heading.
        outcome (`dict[str, Any]`): `primary_metric`, `seeds`, `selection_seeds`, `reference`, the name of the variant
            that the others are compared with, and under `variants` for each its `selected`, `grid`, `runs` and `folders`,
            or these for every fold under `folds`; then the variant's own `grid` will be that of the mean over the folds.
    """
    metric, variants = outcome["primary_metric"], outcome["variants"]
    for variant in variants.values():
        variant["grid"] = [cell | {"validation": score.mean} for cell, score in _grid(variant)]
        variant["cells"] = max(1, len(variant["grid"]))
        variant["scores"] = _scores(variant)
    for name, variant in variants.items():
        if name != outcome["reference"]:
            metrics = variant["scores"]["test"]
            variant["difference"] = {key: _difference(outcome, name, key).to_dict() for key in metrics}
    lines = [f"# {title}", "", _selection_text(outcome), "", *_score_tables(outcome)]
    reports = {name: _reports(variant) for name, variant in variants.items()}
    reports = {name: found for name, found in reports.items() if found}
    if outcome["reference"] in reports:
        lines += ["## Robustness on the test split", "", *_robustness(folder, reports, outcome)]
    for name, variant in variants.items():
        if variant["grid"]:
            head = f"## Grid of {name}: {metric_label(metric)} on validation"
            lines += [head + (", over the folds" if "folds" in variant else ""), "", _grid_table(variant, metric)]
            _heat_map(folder / f"grid-{name}.png", variant["grid"], metric, f"{name}: validation")
    write_text(folder / "sweep.md", "\n".join(lines))
    write_text(folder / "sweep.json", json.dumps(outcome, indent=2) + "\n")


def _entries(variant: dict[str, Any]) -> list[dict[str, Any]]:
    """What was selected and run, for every fold."""
    return list(variant["folds"].values()) if "folds" in variant else [variant]


def _repetitions(variant: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The results that scores are repeated over; those of one repetition are averaged."""
    if "folds" in variant:
        return [list(entry["runs"].values()) for entry in _entries(variant)]
    return [[run] for run in variant["runs"].values()]


def _score(variant: dict[str, Any], split: str, metric: str) -> Score:
    return Score(tuple(fmean(run[split].get(metric, math.nan) for run in runs) for runs in _repetitions(variant)))


def _scores(variant: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every metric on each split, as plain types."""
    first = _repetitions(variant)[0][0]
    return {
        split: {metric: _plain(_score(variant, split, metric)) for metric in first[split]}
        for split in ("validation", "test")
    }


def _plain(score: Score) -> dict[str, Any]:
    mean, std, *values = (None if math.isnan(value) else value for value in (score.mean, score.std, *score.values))
    return {"mean": mean, "std": std, "values": values}


def _selection_text(outcome: dict[str, Any]) -> str:
    seeds, selection_seeds = (", ".join(map(str, outcome[key])) for key in ("seeds", "selection_seeds"))
    texts = []
    for name, variant in outcome["variants"].items():
        how = ""
        if variant["grid"]:
            where = "each fold's own validation split" if "folds" in variant else "validation"
            how = f" (best of {len(variant['grid'])} on {where}, seed {selection_seeds})"
        texts.append(f"- **{name}**: {'; '.join(_settings(variant))}{how}")
    folds = next((list(variant["folds"]) for variant in outcome["variants"].values() if "folds" in variant), None)
    if folds is None:
        spread = f"Mean ± standard deviation over the training seeds {seeds}."
    else:
        within = f"trained with seed {seeds}" if len(outcome["seeds"]) == 1 else f"the mean of training seeds {seeds}"
        spread = f"Mean ± standard deviation over the folds {', '.join(folds)}; each fold is {within}."
    return "\n".join(texts) + f"\n\n{spread}"


def _settings(variant: dict[str, Any]) -> Iterator[str]:
    """Each setting that was selected in words, with its folds where it is not that of all."""
    recipe = [f"recipe {variant['base']}"] if "base" in variant else []
    folds: dict[str, list[str]] = {}
    for fold, entry in variant.get("folds", {"": variant}).items():
        values = [f"{key} = {value}" for key, value in entry["selected"].items()]
        folds.setdefault(", ".join(recipe + values) or "as in the recipe", []).append(fold)
    for text, where in folds.items():
        yield text if len(folds) == 1 else f"{text} in fold {', '.join(where)}"


def _difference(outcome: dict[str, Any], name: str, metric: str) -> Difference:
    """How far a variant is from the reference on test, over the folds or the training seeds."""
    variants = outcome["variants"]
    return paired_difference(*(_score(variants[side], "test", metric) for side in (name, outcome["reference"])))


def _repeated_over(variants: dict[str, Any]) -> str:
    return "folds" if any("folds" in variant for variant in variants.values()) else "training seeds"


def _score_tables(outcome: dict[str, Any]) -> list[str]:
    """The primary metric with its differences and what each variant took; then all metrics of the task on test."""
    metric, variants, reference = outcome["primary_metric"], outcome["variants"], outcome["reference"]
    first = _repetitions(variants[reference])[0][0]["test"]  # empty where a data set's test labels are not public
    compared = [name for name in variants if name != reference and first]
    names = [metric, *(key for key in first if key in METRICS and key != metric)]
    differences = {name: {key: _difference(outcome, name, key) for key in names} for name in compared}

    def test_score(name: str, key: str) -> str:
        better = name in differences and is_better(differences[name][key], GREATER_IS_BETTER.get(key))
        return bold(_score(variants[name], "test", key), better)

    rows = []
    for name, variant in variants.items():
        seconds = fmean(run["train"]["seconds"] for runs in _repetitions(variant) for run in runs)
        scores = [str(_score(variant, "validation", metric)), test_score(name, metric)]
        rows.append([name, *scores, str(variant["cells"]), f"{seconds:.0f} s"])
    label = metric_label(metric, GREATER_IS_BETTER.get(metric))
    header = ["variant", f"{label}, validation", f"{label}, test", "cells tried", "training"]
    lines = [markdown_table(header, rows), *_budget_note(variants)]
    labels = [metric_label(key, GREATER_IS_BETTER.get(key)) for key in names]
    if len(names) > 1:
        rows = [[name, *(test_score(name, key) for key in names)] for name in variants]
        lines += ["## All metrics on the test split", "", markdown_table(["variant", *labels], rows)]
    lines += _unimodal_table(variants, metric)
    if compared:
        values = {name: list(row.values()) for name, row in differences.items()}
        rule = bold_rule(itertools.chain(*values.values()), reference, _repeated_over(variants))
        lines += [rule, "", difference_table(values, labels, reference)]
    return lines


def _unimodal_table(variants: dict[str, Any], metric: str) -> list[str]:
    """The primary metric of each modality's own head; nothing where no variant has such heads."""
    found = [key for of in variants.values() for key in _repetitions(of)[0][0]["test"] if key.startswith(f"{metric}_")]
    names = [key for key in dict.fromkeys(found) if key not in METRICS]  # as bleu_1 is
    if not names:
        return []
    rows = [[name, *(str(_score(of, "test", key)) for key in names)] for name, of in variants.items()]
    label = metric_label(metric, GREATER_IS_BETTER.get(metric))
    header = [f"{label} of the head on", *(key.removeprefix(f"{metric}_") for key in names)]
    return ["## Each modality's own head on the test split", "", markdown_table(header, rows)]


def _budget_note(variants: dict[str, Any]) -> list[str]:
    """A warning where some variants had more settings to be picked from than others."""
    if len({variant["cells"] for variant in variants.values()}) == 1:
        return []
    budgets = ", ".join(f"{name} {variant['cells']}" for name, variant in variants.items())
    return [
        f"**Unequal tuning budgets** (cells tried: {budgets}): the variants with more had more chances to do well.",
        "",
    ]


def _reports(variant: dict[str, Any]) -> list[RobustnessReport]:
    """The robustness reports, one per repetition; none where a run has none."""
    files = [[Path(folder) / "robustness.json" for folder in entry["folders"]] for entry in _entries(variant)]
    if not all(file.exists() for group in files for file in group):
        return []
    reports = [[RobustnessReport.from_json(file) for file in group] for group in files]
    return _over_folds(reports) if "folds" in variant else reports[0]


def _over_folds(folds: list[list[RobustnessReport]]) -> list[RobustnessReport]:
    """One report per fold, with the mean over its training seeds; their sample is the test splits of all folds."""
    num_samples = sum(reports[0].settings.num_samples for reports in folds)
    merged = []
    for reports in folds:
        scores = {
            condition: {
                metric: Score((fmean(r.scores[condition][metric].mean for r in reports),)) for metric in metrics
            }
            for condition, metrics in reports[0].scores.items()
        }
        merged.append(RobustnessReport(replace(reports[0].settings, num_samples=num_samples), scores))
    return merged


def _robustness(folder: Path, reports: dict[str, list[RobustnessReport]], outcome: dict[str, Any]) -> list[str]:
    try:
        repetitions = _repeated_over(outcome["variants"])
        comparison = compare(reports, reference=outcome["reference"], repetitions=repetitions)
    except ValueError as error:  # variants with other modalities, for example
        return [f"The variants have no common conditions. {error}", ""]
    outcome["robustness"] = comparison.to_dict()
    save_figure(plot_robustness(reports), folder / "robustness.png")
    return [comparison.to_markdown()]


def _grid(variant: dict[str, Any]) -> list[tuple[dict[str, Any], Score]]:
    """The cells of the grid, each with its validation score over the folds."""
    grids = [entry["grid"] for entry in _entries(variant)]
    return [(cells[0], Score(tuple(cell["validation"] for cell in cells))) for cells in zip(*grids, strict=True)]


def _grid_table(variant: dict[str, Any], metric: str) -> str:
    keys = [key for key in variant["grid"][0] if key != "validation"]
    rows = [[*(str(cell[key]) for key in keys), str(score)] for cell, score in _grid(variant)]
    return markdown_table([*keys, metric_label(metric, GREATER_IS_BETTER.get(metric))], rows)


def _heat_map(path: Path, grid: list[dict[str, Any]], metric: str, title: str) -> None:
    """Draw the grid where exactly two arguments vary."""
    varying = [key for key in grid[0] if key != "validation" and len({str(cell[key]) for cell in grid}) > 1]
    if len(varying) == 2:
        save_figure(plot_sweep_grid(grid, metric, title=title), path)
