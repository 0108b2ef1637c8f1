"""Mean and standard deviation of feature sequences: fitted on the training split, kept with the processor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .errors import DataError
from .schema import modalities_of
from .validation import check_finite, row_batches, steps_of


@dataclass(frozen=True)
class FeatureStatistics:
    """What brings one modality to zero mean and unit variance, per feature dimension.

    Attributes:
        mean (`Tensor`): (D,) float32.
        std (`Tensor`): (D,) float32, above 0; 1 for a dimension that was as good as constant, which is centred only.
    """

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(value.shape) for value in (self.mean, self.std)]
        if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
            raise DataError(f"mean and std must be (D,) both, not {shapes[0]} and {shapes[1]}", field="mean, std")
        if not (self.mean.isfinite().all() and self.std.isfinite().all() and (self.std > 0).all()):
            raise DataError("the mean must be finite, the standard deviation finite and above 0", field="mean, std")

    @classmethod
    def fit(cls, data: Dataset | IterableDataset, column: str) -> "FeatureStatistics":
        """Fit to all steps of a feature-sequence column, in one pass; a missing sequence has no steps and does not count.

        Raises:
            DataError: If there is no step at all, or NaN or Inf among them.
        """
        return cls.fit_all(data, [column])[column]

    @classmethod
    def fit_all(cls, data: Dataset | IterableDataset, columns: Sequence[str]) -> "dict[str, FeatureStatistics]":
        """As :meth:`fit`, of several columns in one pass."""
        kinds, scalers = modalities_of(data), {column: StandardScaler() for column in columns}
        for first_row, table in row_batches(data, list(columns)):
            for column, scaler in scalers.items():
                _, steps = steps_of(table.column(column).combine_chunks(), kinds[column], first_row, column)
                if not np.isfinite(steps).all():
                    check_finite(data, column)
                if len(steps):
                    scaler.partial_fit(steps)
        return {column: cls._of_scaler(scaler, column) for column, scaler in scalers.items()}

    @classmethod
    def _of_scaler(cls, scaler: StandardScaler, column: str) -> "FeatureStatistics":
        if not hasattr(scaler, "scale_"):
            raise DataError("missing in every row, so there is nothing to fit", field=column)
        # A spread below what float32 resolves at the mean is rounding, and dividing by it would blow it up. One that is
        # nothing beside the other dimensions', as the 1e-32 where an encoder has switched a dimension off, would make 1e+31
        # of noise that is as strong as the features.
        eps, spread = np.finfo(np.float32).eps, np.sqrt(scaler.var_)
        constant = (spread <= eps * np.abs(scaler.mean_)) | (spread <= eps**2 * spread.max())
        std = np.where(constant, 1.0, np.maximum(scaler.scale_, np.finfo(np.float32).tiny))
        return cls(torch.from_numpy(scaler.mean_).float(), torch.from_numpy(std).float())

    def apply(self, values: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) features and (B, T) mask → normalised features; steps that the mask leaves out are exactly 0."""
        if values.shape[-1] != len(self.mean):
            raise DataError(f"fitted to features of width {len(self.mean)}, but got {values.shape[-1]}")
        normalised = (values - self.mean.to(values.device)).div_(self.std.to(values.device))
        return normalised.masked_fill_(mask.unsqueeze(-1) == 0, 0.0)


def statistics_of(data_collator: Any) -> dict[str, FeatureStatistics]:
    """Those that a collator's processor normalises by, by modality; none of any other callable."""
    return getattr(getattr(data_collator, "processor", None), "feature_statistics", {})


def save_feature_statistics(statistics: Mapping[str, FeatureStatistics], path: Path) -> None:
    """Write the statistics of all modalities as safetensors: `<modality>.mean` and `<modality>.std`."""
    tensors = {}
    for name, fitted in statistics.items():
        tensors |= {f"{name}.mean": fitted.mean.contiguous(), f"{name}.std": fitted.std.contiguous()}
    save_file(tensors, path)


def load_feature_statistics(path: Path, modalities: list[str]) -> dict[str, FeatureStatistics]:
    """Read what :func:`save_feature_statistics` wrote.

    Raises:
        DataError: If the file is damaged, lacks one of the modalities, or holds values that cannot be a mean or a
            standard deviation.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"no readable safetensors file: {error}", file=path) from error
    statistics = {}
    for name in modalities:
        missing = [key for key in (f"{name}.mean", f"{name}.std") if key not in tensors]
        if missing:
            raise DataError(f"missing; the file has only {sorted(tensors)}", file=path, field=missing[0])
        try:
            statistics[name] = FeatureStatistics(tensors[f"{name}.mean"].float(), tensors[f"{name}.std"].float())
        except DataError as error:
            raise DataError(str(error), file=path, field=name) from error
    return statistics
