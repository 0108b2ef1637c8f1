"""How far one method is from another: differences over the seeds or folds that both were run with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtr, stdtrit

from .scores import Score, format_score, null

CONFIDENCE = 0.95
# Two pairs that agree by chance have a spread of 0.
FEWEST_PAIRS = 3


@dataclass(frozen=True)
class Difference(Score):
    """What a method has more of a metric than another, over the repetitions that they share.

    Args:
        values (`tuple[float, ...]`): One difference per shared repetition; none is NaN.
    """

    @property
    def n(self) -> int:
        """How many repetitions are shared."""
        return len(self.values)

    @property
    def mean(self) -> float:
        return super().mean if self.values else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean difference: mean ± t(n − 1) · std / √n, with Student's t.

        It leaves out 0 where the two-sided paired t-test has p < 0.05. NaN for fewer than two pairs.
        """
        if self.n < 2:
            return math.nan, math.nan
        half = float(stdtrit(self.n - 1, (1 + CONFIDENCE) / 2)) * self.std / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    @property
    def p_value(self) -> float:
        """Of the two-sided paired t-test that the mean difference is 0; NaN for fewer than three pairs."""
        if self.n < FEWEST_PAIRS:
            return math.nan
        if self.std == 0:
            return 1.0 if self.mean == 0 else 0.0
        return 2 * float(stdtr(self.n - 1, -abs(self.mean) * math.sqrt(self.n) / self.std))

    @property
    def direction(self) -> int:
        """1 or −1 where at least three pairs put the whole interval above or below 0, and else 0."""
        low, high = self.interval
        if self.n < FEWEST_PAIRS or not (low > 0 or high < 0):
            return 0
        return 1 if low > 0 else -1

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; what is not defined is None."""
        return {
            "mean": null(self.mean),
            "std": null(self.std),
            "n": self.n,
            "interval": [null(bound) for bound in self.interval],
            "p_value": null(self.p_value),
            "values": list(self.values),
        }

    def __str__(self) -> str:
        if not self.values:
            return "–"
        return ("−" if self.mean < 0 else "+") + format_score(abs(self.mean), self.std)


def holds_among(differences: Sequence[Difference]) -> list[bool]:
    """Which of several differences are none by chance with 95 % confidence in all of them together (Holm 1979).

    The k-th smallest of m p-values is held against 0.05 / (m + 1 − k), as long as those before it hold. Differences without
    a p-value hold nothing and count for nothing.
    """
    tested = sorted((one.p_value, place) for place, one in enumerate(differences) if not math.isnan(one.p_value))
    holds = [False] * len(differences)
    for rank, (p_value, place) in enumerate(tested):
        if p_value > (1 - CONFIDENCE) / (len(tested) - rank):
            break
        holds[place] = True
    return holds


def paired_difference(score: Score, reference: Score) -> Difference:
    """`score` − `reference`, repetition by repetition.

    The values at one place belong to one repetition, a seed or a fold. A repetition in which either is NaN is left out;
    scores of different lengths share none.
    """
    if len(score.values) != len(reference.values):
        return Difference(())
    differences = (one - other for one, other in zip(score.values, reference.values, strict=True))
    return Difference(tuple(difference for difference in differences if math.isfinite(difference)))
