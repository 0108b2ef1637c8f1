"""From rows of a data set to a batch of a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .errors import DataError
from .processor import MultimodalProcessor
from .schema import TARGET, AnyDataset, modalities_of, num_labels_of, problem_type_of

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification", "regression", "translation")
_IGNORED = -100


class MultimodalCollator:
    """Collates rows as :func:`load_multimodal_dataset` gives them.

    A modality missing from a row is None, a sequence of length 0, or an absent column; its mask is 0 throughout the row.
    A picture may also be the path of its file. Columns other than the modalities and `label` are ignored.

    Args:
        processor (`MultimodalProcessor`): Makes the tensors. It is told the widths of the feature sequences.
        modalities (`Mapping[str, str | int]`): The columns to use, each with its kind, as :func:`modalities_of` says:
            `"text"`, `"image"`, `"audio"`, or the feature width D.
        problem_type (`str`): `single_label_classification`, `multi_label_classification`, `regression` or `translation`,
            whose labels are the token ids of the column `target`.
        num_labels (`int`): Number of classes; for `multi_label_classification` the width of the label vector.

    Raises:
        DataError: If the processor has statistics of feature sequences of another width.
    """

    def __init__(
        self,
        processor: MultimodalProcessor,
        modalities: Mapping[str, str | int],
        problem_type: str,
        num_labels: int,
    ):
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"problem_type must be one of {PROBLEM_TYPES}, not {problem_type!r}")
        if not isinstance(modalities, Mapping) or not modalities:
            raise TypeError(
                "modalities must map at least one column to 'text', 'image', 'audio' or its feature width, as "
                f"modalities_of() does; got {modalities!r}"
            )
        # Who has the processor later, in the folder of a trained model say, need not know the widths.
        processor.learn_feature_sizes({name: kind for name, kind in modalities.items() if isinstance(kind, int)})
        self.processor = processor
        self.modalities = dict(modalities)
        self.problem_type = problem_type
        self.num_labels = num_labels

    @classmethod
    def from_dataset(cls, processor: MultimodalProcessor, dataset: AnyDataset) -> "MultimodalCollator":
        """A collator for a data set, of which it finds out modalities, task and number of labels.

        Args:
            processor (`MultimodalProcessor`): Makes the tensors.
            dataset (`datasets.Dataset`, `IterableDataset`, or a dict of such splits): As
                :func:`load_multimodal_dataset` gives it, or made by hand: `text` a string, pictures as `datasets.Image`,
                feature sequences as `Array2D((None, D))`, lists of lists, or lists (one step); `label` a `ClassLabel`,
                integers, floats, or a list of `ClassLabel`; or no `label` and a `target` of strings, to translate into.

        Raises:
            DataError: If it has no modality or no label of a known task.
        """
        modalities = modalities_of(dataset)
        if not modalities:
            raise DataError("none of the columns is a modality: a text, a picture or lists of numbers are")
        return cls(processor, modalities, problem_type_of(dataset), num_labels_of(dataset))

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch of B rows.

        Returns:
            The keys of :meth:`MultimodalProcessor.__call__` for the modalities in use, and `labels` unless no row has any:
            (B,) int64, (B, num_labels) float32 of zeros and ones, or (B,) float32, by problem type; of translations (B, T)
            int64, padded with -100.

        Raises:
            DataError: For a row that the processor refuses: with its number in the batch, and its `id` if it has one. For
                a row with none of the modalities' columns, and where some rows have a label and others have not.
        """
        for index, row in enumerate(rows):
            if not any(name in row for name in self.modalities):
                message = (
                    f"none of the columns {', '.join(self.modalities)}, only {', '.join(map(str, row)) or 'nothing'}"
                )
                raise DataError(f"{message}; a Trainer must have remove_unused_columns=False", row=index)
        inputs: dict[str, Any] = {}
        features, others = {}, {}
        for name, kind in self.modalities.items():
            values = [row.get(name) for row in rows]
            if kind == "text":
                inputs["text"] = values
            elif kind == "image" and name == "image":
                inputs["images"] = values
            elif isinstance(kind, str):
                others[name] = values
            else:
                features[name] = [_sequence(value, kind) for value in values]
        if others:
            inputs["modality_inputs"] = others
        if features:
            inputs["features"] = features
        try:
            batch = dict(self.processor(**inputs))
        except DataError as error:
            identifier = None if error.row is None else rows[error.row].get("id")
            if identifier is None:
                raise
            message = f"{error.message} (the row's id is {identifier!r})"
            raise DataError(message, file=error.file, row=error.row, field=error.field) from error
        labels = self._labels([row.get(self._label_column) for row in rows])
        if labels is not None:
            batch["labels"] = labels
        return batch

    @property
    def _label_column(self) -> str:
        return TARGET if self.problem_type == "translation" else "label"

    def _labels(self, labels: list[Any]) -> Tensor | None:
        missing = sum(label is None for label in labels)
        if missing == len(labels):
            return None
        if missing:
            raise DataError(f"{missing} of the batch's {len(labels)} rows have no label", field=self._label_column)
        if self.problem_type == "translation":
            ids = [torch.tensor(row, dtype=torch.long) for row in self.processor.target_ids(labels)]
            return pad_sequence(ids, batch_first=True, padding_value=_IGNORED)
        if self.problem_type == "regression":
            return torch.tensor(labels, dtype=torch.float32)
        if self.problem_type == "single_label_classification":
            return torch.tensor(labels, dtype=torch.long)
        multi_hot = torch.zeros(len(labels), self.num_labels)
        for row, classes in enumerate(labels):
            multi_hot[row, torch.as_tensor(classes, dtype=torch.long)] = 1
        return multi_hot


def _sequence(value: Any, width: int) -> Any:
    """A cell as a sequence; where a data set holds a null, its NumPy format says NaN."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        # The empty sequence carries the width, for a batch in which every row lacks the modality.
        return np.zeros((0, width), np.float32)
    if isinstance(value, list) and value and not isinstance(value[0], (list, np.ndarray)):
        return [value]
    return value[None] if isinstance(value, (np.ndarray, Tensor)) and value.ndim == 1 and len(value) else value
