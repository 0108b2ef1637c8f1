"""What all readers of feature arrays do alike: NaN and Inf, and padding."""

import logging
from pathlib import Path

import numpy as np

from ..errors import DataError

logger = logging.getLogger(__name__)

NONFINITE_POLICIES = ("error", "replace")


class FiniteGate:
    """Lets the float32 arrays of one modality of one split through, and deals with NaN and Inf.

    Arrays pass one chunk after the other, so memory stays flat; hence the error comes with :meth:`close`, when the count
    is known. With the policy `replace`, each such value becomes 0.

    Args:
        policy (`str`): `error` or `replace`.
        file (`Path`), field (`str`): The place that errors name.
    """

    def __init__(self, policy: str, file: Path, field: str):
        if policy not in NONFINITE_POLICIES:
            raise DataError(f"one of {NONFINITE_POLICIES} is expected, not {policy!r}", field="nonfinite")
        self._policy = policy
        self._file = file
        self._field = field
        self._count = 0
        self._first: tuple[int, ...] = ()

    def __call__(self, values: np.ndarray, first_row: int) -> np.ndarray:
        """Return `values` (n, …) as finite float32; `first_row` is the row number of `values[0]`."""
        with np.errstate(over="ignore"):  # float64 beyond float32's range turns into Inf, which is counted below
            values = values.astype(np.float32)
        finite = np.isfinite(values)
        if finite.all():
            return values
        if not self._count:
            row, *rest = (int(index) for index in np.argwhere(~finite)[0])
            self._first = (first_row + row, *rest)
        self._count += int(values.size - np.count_nonzero(finite))
        return np.where(finite, values, np.float32(0))

    def close(self) -> None:
        """Report what was found in the whole split."""
        if not self._count:
            return
        found = f"{self._count} NaN or Inf values, the first at index {list(self._first)}"
        if self._policy == "error":
            raise DataError(
                f"{found}; the option nonfinite='replace' puts 0 in their place",
                file=self._file,
                row=self._first[0],
                field=self._field,
            )
        logger.warning("%s, %s: %s; each is replaced by 0", self._file, self._field, found)


def strip_front_padding(sequence: np.ndarray) -> np.ndarray:
    """Drop the all-zero steps in front of a sequence (T, D); an all-zero sequence becomes (0, D), a missing modality."""
    used = (sequence != 0).any(axis=1)
    return sequence[int(used.argmax()) :] if used.any() else sequence[:0]


def strip_back_padding(sequence: np.ndarray) -> np.ndarray:
    """Drop the all-zero steps behind a sequence (T, D); an all-zero sequence becomes (0, D), a missing modality."""
    used = (sequence != 0).any(axis=1)
    return sequence[: len(used) - int(used[::-1].argmax())] if used.any() else sequence[:0]
