"""What a robustness evaluation found: scores, tables, files, and the comparison of several models."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..reporting.files import write_text
from ..reporting.tables import format_score, markdown_table, metric_label
from .metric_names import GREATER_IS_BETTER

_FORMAT = 1


@dataclass(frozen=True)
class Score:
    """A metric over repetitions.

    Args:
        values (`tuple[float, ...]`): One value per seed; NaN where the metric is not defined.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """Sample standard deviation (n − 1); NaN for a single value, which says nothing about spread."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else float("nan")

    def __str__(self) -> str:
        return format_score(self.mean, self.std)


@dataclass(frozen=True)
class Condition:
    """One way of testing a model.

    Args:
        kind (`str`): `"clean"`, `"noise"` or `"missing"`.
        modality (`str`, *optional*): The modality disturbed; none for `"clean"`.
        level (`float`, *optional*): Amplitude of the noise, or the ratio of samples that miss the modality.
    """

    kind: Literal["clean", "noise", "missing"]
    modality: str | None = None
    level: float | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """In words: `("clean",)`, `("text", "noise", "3")` or `("image", "missing", "50 %")`."""
        if self.kind == "clean":
            return ("clean",)
        level = f"{self.level:g}" if self.kind == "noise" else f"{100 * self.level:g} %"
        return (self.modality, self.kind, level)

    def label(self, with_level: bool = True) -> str:
        """For table heads, e.g. `text noise 3` and `image missing 50 %`, or without the level `text noise`."""
        return " ".join(self.parts if with_level else self.parts[:2])


CLEAN = Condition("clean")


@dataclass(frozen=True)
class RobustnessSettings:
    """Everything that, beside model and data, decides the numbers of a report."""

    modalities: tuple[str, ...]
    noise: str
    noise_amplitudes: tuple[float, ...]
    missing_ratio: float
    missing_ratios: tuple[float, ...]
    missing_mode: str
    seeds: tuple[int, ...]
    num_samples: int
    primary_metric: str
    greater_is_better: bool | None


@dataclass
class RobustnessReport:
    """Scores of one model on clean, noisy and incomplete data.

    Args:
        settings (`RobustnessSettings`): What was evaluated and how.
        scores (`dict[Condition, dict[str, Score]]`): The metrics under each condition, in the order of evaluation.
            Clean data have one value, the others one per noise seed.
        model_name (`str`, *optional*): For headings; no number depends on it.
    """

    settings: RobustnessSettings
    scores: dict[Condition, dict[str, Score]] = field(repr=False)
    model_name: str = ""

    @property
    def metric_names(self) -> list[str]:
        return list(self.scores[CLEAN])

    def table_conditions(self) -> list[Condition]:
        """The conditions of the table: clean, noise at every amplitude, missing at the one ratio of the settings."""
        return [c for c in self.scores if c.kind != "missing" or c.level == self.settings.missing_ratio]

    def curve(self, modality: str, metric: str | None = None) -> tuple[list[float], list[Score]]:
        """Missing ratios in increasing order, and the metric at each (the primary one by default)."""
        metric = metric or self.settings.primary_metric
        points = {c.level: s[metric] for c, s in self.scores.items() if (c.kind, c.modality) == ("missing", modality)}
        ratios = sorted(points)
        return ratios, [points[ratio] for ratio in ratios]

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; NaN becomes None, which JSON can hold."""
        conditions = [
            asdict(condition)
            | {
                "metrics": {
                    name: {"mean": _null(s.mean), "std": _null(s.std), "values": [_null(v) for v in s.values]}
                    for name, s in scores.items()
                }
            }
            for condition, scores in self.scores.items()
        ]
        return {
            "format": _FORMAT,
            "model_name": self.model_name,
            "settings": asdict(self.settings),
            "conditions": conditions,
        }

    def to_json(self, path: str | os.PathLike) -> Path:
        """Write the report atomically as JSON, which :meth:`from_json` reads back."""
        return write_text(path, json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> "RobustnessReport":
        """Read a report written by :meth:`to_json`.

        Raises:
            ValueError: If the file is no such report.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["format"] != _FORMAT:
                raise ValueError(f"format {data['format']}, where this version reads format {_FORMAT}")
            settings = {key: tuple(v) if isinstance(v, list) else v for key, v in data["settings"].items()}
            scores = {
                Condition(entry["kind"], entry["modality"], entry["level"]): {
                    name: Score(tuple(math.nan if v is None else float(v) for v in score["values"]))
                    for name, score in entry["metrics"].items()
                }
                for entry in data["conditions"]
            }
            return cls(RobustnessSettings(**settings), scores, data["model_name"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a robustness report of hf-mmalign: {error!r}.") from error

    def description(self) -> str:
        """How the numbers came about, in three sentences."""
        s = self.settings
        noise = "U(−a, a)" if s.noise == "uniform" else "N(0, a²)"
        amplitudes = ", ".join(f"{amplitude:g}" for amplitude in s.noise_amplitudes)
        gone = "set to 0" if s.missing_mode == "zero" else "masked out of attention"
        seeds = f"Mean ± standard deviation over {len(s.seeds)} seeds" if len(s.seeds) > 1 else f"Seed {s.seeds[0]}"
        parts = [f"{s.num_samples} samples."]
        if s.noise_amplitudes:
            parts.append(f"Noise {noise}, a = {amplitudes}, on the embeddings of one modality's content tokens.")
        parts.append(f"Missing: the embeddings of one modality {gone} for a share of the samples. {seeds}.")
        return " ".join(parts)

    def table(self) -> str:
        """Markdown: one row per condition, one column per metric."""
        names = self.metric_names
        header = ["test", *(metric_label(name, _direction(name, self.settings)) for name in names)]
        rows = [[c.label(), *(str(self.scores[c][name]) for name in names)] for c in self.table_conditions()]
        return markdown_table(header, rows)

    def to_markdown(self) -> str:
        """A heading, the description, the table of all metrics, and the curves of the primary one."""
        settings = self.settings
        parts = [f"# Robustness of {self.model_name or 'the model'}", self.description(), self.table()]
        if settings.missing_ratios:
            label = metric_label(settings.primary_metric)
            parts.append(f"## {label[0].upper()}{label[1:]} by share of samples that miss a modality")
            ratios = self.curve(settings.modalities[0])[0]
            curves = [self.curve(modality)[1] for modality in settings.modalities]
            rows = [[f"{100 * r:g} %", *map(str, scores)] for r, *scores in zip(ratios, *curves, strict=True)]
            parts.append(markdown_table(["missing", *settings.modalities], rows))
        return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"

    def save(self, folder: str | os.PathLike) -> None:
        """Write `robustness.json`, `robustness.md` and `robustness.png` into `folder`, each of them atomically."""
        from ..reporting.plots import plot_report, save_figure

        folder = Path(folder)
        self.to_json(folder / "robustness.json")
        write_text(folder / "robustness.md", self.to_markdown())
        save_figure(plot_report(self), folder / "robustness.png")


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
            {"method": method, **asdict(condition), "mean": _null(s.mean), "std": _null(s.std)}
            | {"values": [_null(v) for v in s.values]}
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
    return RobustnessComparison(metric, _direction(metric, first.settings), scores)


def _direction(metric: str, settings: RobustnessSettings) -> bool | None:
    return settings.greater_is_better if metric == settings.primary_metric else GREATER_IS_BETTER.get(metric)


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None
