"""Several methods under the same conditions."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.differences import FEWEST_PAIRS, Difference, holds_among, paired_difference
from ..evaluation.scores import Condition, Score, null
from .files import write_text
from .robustness import RobustnessReport, direction
from .tables import markdown_table, metric_label


@dataclass
class RobustnessComparison:
    """Several methods, each trained with several seeds or on several folds, under the same conditions.

    Args:
        metric (`str`): The metric compared.
        greater_is_better (`bool`, *optional*): Which end is better; None leaves the better ones unmarked.
        scores (`dict[str, dict[Condition, Score]]`): By method and condition, with one value per training seed or fold;
            those at one place belong together.
        reference (`str`, *optional*): The method that the others are compared with, the first by default.
        repetitions (`str`, *optional*, defaults to `"training seeds"`): What the values are, in words.

    Raises:
        ValueError: If `reference` is none of the methods.
    """

    metric: str
    greater_is_better: bool | None
    scores: dict[str, dict[Condition, Score]]
    reference: str | None = None
    repetitions: str = "training seeds"

    def __post_init__(self):
        if self.reference is None:
            self.reference = next(iter(self.scores))
        if self.reference not in self.scores:
            raise ValueError(f"The reference is one of {list(self.scores)}, not {self.reference!r}.")

    def difference(self, method: str, condition: Condition) -> Difference:
        """The method's score minus the reference's, seed by seed or fold by fold."""
        return paired_difference(self.scores[method][condition], self.scores[self.reference][condition])

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, one entry per method and condition, with its difference to the reference."""
        entries = [
            {"method": method, **asdict(condition), "mean": null(s.mean), "std": null(s.std)}
            | {"values": [null(v) for v in s.values]}
            | ({} if method == self.reference else {"difference": self.difference(method, condition).to_dict()})
            for method, condition, s in self._entries()
        ]
        head = {"metric": self.metric, "greater_is_better": self.greater_is_better, "reference": self.reference}
        return head | {"scores": entries}

    def to_json(self, path: str | os.PathLike) -> Path:
        """Write the comparison atomically as JSON."""
        return write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")

    def to_markdown(self) -> str:
        """One row per method, one column per condition, and a second table of the differences to the reference.

        Bold is what :func:`bold_rule` says below the first table.
        """
        conditions = list(next(iter(self.scores.values())))
        levels = {(c.kind, c.level) for c in conditions if c.kind != "clean"}
        with_level = len(levels) > len({kind for kind, _ in levels})
        labels = [condition.label(with_level) for condition in conditions]
        differences = {
            method: [self.difference(method, condition) for condition in conditions]
            for method in self.scores
            if method != self.reference
        }
        rows = []
        for method, scores in self.scores.items():
            marks = [is_better(found, self.greater_is_better) for found in differences.get(method, [])]
            cells = zip(map(scores.get, conditions), marks or [False] * len(conditions), strict=True)
            rows.append([method, *(bold(score, mark) for score, mark in cells)])
        table = markdown_table([metric_label(self.metric, self.greater_is_better), *labels], rows)
        if not differences:
            return table
        rule = bold_rule(itertools.chain(*differences.values()), self.reference, self.repetitions)
        return f"{table}\n{rule}\n\n{difference_table(differences, labels, self.reference)}"

    def _entries(self) -> Iterator[tuple[str, Condition, Score]]:
        for method, scores in self.scores.items():
            for condition, score in scores.items():
                yield method, condition, score


def bold(value: Any, mark: bool) -> str:
    """Markdown of a table's cell."""
    return f"**{value}**" if mark else str(value)


def is_better(difference: Difference, greater_is_better: bool | None) -> bool:
    """Whether the interval of a paired difference lies on the better side of 0, as a whole."""
    return greater_is_better is not None and difference.direction == (1 if greater_is_better else -1)


def bold_rule(differences: Iterable[Difference], reference: str, repetitions: str) -> str:
    """What bold means in a table with these differences to `reference`, in words for below it."""
    differences = list(differences)
    pairs = max((difference.n for difference in differences), default=0)
    if pairs < FEWEST_PAIRS:
        return (
            f"Nothing is bold: a difference to {reference} is told from chance by {FEWEST_PAIRS} shared {repetitions} or "
            f"more, and there are {pairs}."
        )
    beware = {
        "folds": " Folds share training data, which makes the interval somewhat too narrow.",
        "training seeds": " Seeds speak of the training's randomness, not of another test split.",
    }
    return (
        f"Bold: better than {reference}, 0 lying outside the 95 % confidence interval (Student's t) of the paired "
        f"difference over n = {pairs} {repetitions}; a difference is bold on either side of 0. By chance one in 40 scores "
        f"and one in 20 differences is bold; a star marks those that hold among all {len(differences)} comparisons (Holm)."
        f"{beware.get(repetitions, '')}"
    )


def difference_table(differences: Mapping[str, Sequence[Difference]], labels: Sequence[str], reference: str) -> str:
    """Markdown: mean ± standard deviation of paired differences, with the number of pairs; bold on either side of 0, and
    starred where they hold among all in the table."""
    everything = list(itertools.chain(*differences.values()))
    pairs = max(difference.n for difference in everything)
    stars = iter(holds_among(everything))

    def cell(difference: Difference) -> str:
        fewer = f" (n = {difference.n})" if 0 < difference.n < pairs else ""
        return bold(difference, difference.direction != 0) + ("\\*" if next(stars) else "") + fewer

    rows = [[method, *map(cell, row)] for method, row in differences.items()]
    return markdown_table([f"difference to {reference}, n = {pairs}", *labels], rows)


def compare(
    reports: Mapping[str, Sequence[RobustnessReport]],
    metric: str | None = None,
    *,
    reference: str | None = None,
    repetitions: str = "training seeds",
) -> RobustnessComparison:
    """Compare methods by their mean ± std over training seeds; each report counts with its mean over noise seeds.

    Args:
        reports (`Mapping[str, Sequence[RobustnessReport]]`): For each method, the reports of its training seeds, in the
            same order for all: differences are taken between those at one place. Methods with different numbers of
            reports have no paired difference.
        metric (`str`, *optional*): The metric to compare, the primary one of the reports by default.
        reference (`str`, *optional*): The method that the others are compared with, the first by default.
        repetitions (`str`, *optional*, defaults to `"training seeds"`): What a method's reports are, in words: `"folds"`,
            for example.

    Raises:
        ValueError: If a method has no report, the reports were not made with the same settings, or lack the metric, or
            `reference` is none of the methods.
    """
    everything = [report for group in reports.values() for report in group]
    empty = [name for name, group in reports.items() if not group]
    if empty or not everything:
        raise ValueError(f"No report for {', '.join(empty) or 'any method'}.")
    first = everything[0]
    for name, group in reports.items():
        for report in group:
            differing = [k for k, v in asdict(first.settings).items() if asdict(report.settings)[k] != v]
            if differing:
                raise ValueError(f"Reports are comparable with equal settings only; {name!r} differs in {differing}.")
    metric = metric or first.settings.primary_metric
    if metric not in first.metric_names:
        raise ValueError(f"The reports have the metrics {first.metric_names}, not {metric!r}.")
    scores = {
        name: {
            condition: Score(tuple(report.scores[condition][metric].mean for report in group))
            for condition in first.table_conditions()
        }
        for name, group in reports.items()
    }
    return RobustnessComparison(metric, direction(metric, first.settings), scores, reference, repetitions)
