"""What an evaluation found, as plain values: scores over repetitions, and those of a robustness evaluation."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ..perturbation.protocols import RawNoiseKind

_FORMAT = 1


def format_score(mean: float, std: float | None = None) -> str:
    """`0.741`, or `0.741 ± 0.012` with a standard deviation; `–` where the mean is not defined.

    Three decimals below 10, fewer above: four digits in all, which is what test sets of some thousand samples carry.

    >>> format_score(0.7411), format_score(0.7411, 0.0123), format_score(123.456, 0.1)
    ('0.741', '0.741 ± 0.012', '123.5 ± 0.1')
    """
    if math.isnan(mean):
        return "–"
    whole_digits = len(str(int(abs(mean))))
    decimals = max(0, 4 - whole_digits)
    if std is None or math.isnan(std):
        return f"{mean:.{decimals}f}"
    return f"{mean:.{decimals}f} ± {std:.{decimals}f}"


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
        kind (`str`): `"clean"`, `"noise"` (on embeddings), `"missing"`, or a kind of noise on raw inputs.
        modality (`str`, *optional*): The modality disturbed, or `"all"`; none for `"clean"`.
        level (`float`, *optional*): Amplitude of the noise, ε of that on raw inputs, the signal-to-noise ratio of white
            noise, or the ratio of samples that miss the modality.
    """

    kind: Literal["clean", "noise", "missing", "white-noise"] | RawNoiseKind
    modality: str | None = None
    level: float | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """In words: `("clean",)`, `("text", "noise", "3")`, `("image", "missing", "50 %")`, `("all", "gaussian", "ε=5")`"""
        if self.kind == "clean":
            return ("clean",)
        levels = {"noise": f"{self.level:g}", "missing": f"{100 * self.level:g} %"}
        levels["white-noise"] = f"{self.level:g} dB"
        return (self.modality, self.kind, levels.get(self.kind, f"ε={self.level:g}"))

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
    protocol: str | None = None
    noise_units: str | None = None
    epsilons: tuple[float, ...] = ()
    snrs: tuple[float, ...] = ()
    noisy_copies: bool = False
    noise_unit: str = "one"


@dataclass
class RobustnessScores:
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
                    name: {"mean": null(s.mean), "std": null(s.std), "values": [null(v) for v in s.values]}
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

    @classmethod
    def from_dict(cls, data: dict[str, Any]):
        """What :meth:`to_dict` returned, as an object again. Raises ValueError if it is nothing of the kind."""
        try:
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
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(repr(error)) from error


def null(value: float) -> float | None:
    """NaN and Inf as JSON can hold them."""
    return value if math.isfinite(value) else None
