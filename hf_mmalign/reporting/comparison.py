"""Several methods under the same conditions."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.scores import Condition, Score, null
from .files import write_text
from .robustness import RobustnessReport, direction
from .tables import markdown_table, metric_label


@dataclass
class RobustnessComparison:
    """Several methods, each trained with several seeds, under the same conditions.

    Args:
        metric (`str`): The metric compared.
        greater_is_better (`bool`, *optional*): Which end is better; None leaves the best ones unmarked.
        scores (`dict[str, dict[Condition, Score]]`): By method and condition, with one value per training seed.
    """

    metric: str
    greater_is_better: bool | None
    scores: dict[str, dict[Condition, Score]]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, one entry per method and condition."""
        entries = [
            {"method": method, **asdict(condition), "mean": null(s.mean), "std": null(s.std)}
            | {"values": [null(v) for v in s.values]}
            for method, condition, s in self._entries()
        ]
        return {"metric": self.metric, "greater_is_better": self.greater_is_better, "scores": entries}

    def to_json(self, path: str | os.PathLike) -> Path:
        """Write the comparison atomically as JSON."""
        return write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")

    def to_markdown(self) -> str:
        """One row per method, one column per condition, the best mean of each column in bold."""
        conditions = list(next(iter(self.scores.values())))
        levels = {(c.kind, c.level) for c in conditions if c.kind != "clean"}
        with_level = len(levels) > len({kind for kind, _ in levels})
        header = [metric_label(self.metric, self.greater_is_better), *(c.label(with_level) for c in conditions)]
        best = {condition: self._best(condition) for condition in conditions}
        rows = []
        for method, scores in self.scores.items():
            cells = [f"**{scores[c]}**" if scores[c].mean == best[c] else str(scores[c]) for c in conditions]
            rows.append([method, *cells])
        return markdown_table(header, rows)

    def _best(self, condition: Condition) -> float | None:
        means = [scores[condition].mean for scores in self.scores.values()]
        means = [mean for mean in means if not math.isnan(mean)]
        if self.greater_is_better is None or len(means) < 2:
            return None
        return max(means) if self.greater_is_better else min(means)

    def _entries(self) -> Iterator[tuple[str, Condition, Score]]:
        for method, scores in self.scores.items():
            for condition, score in scores.items():
                yield method, condition, score


def compare(reports: Mapping[str, Sequence[RobustnessReport]], metric: str | None = None) -> RobustnessComparison:
    """Compare methods by their mean ± std over training seeds; each report counts with its mean over noise seeds.

    Args:
        reports (`Mapping[str, Sequence[RobustnessReport]]`): For each method, the reports of its training seeds.
        metric (`str`, *optional*): The metric to compare, the primary one of the reports by default.

    Raises:
        ValueError: If a method has no report, the reports were not made with the same settings, or lack the metric.
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
    return RobustnessComparison(metric, direction(metric, first.settings), scores)
