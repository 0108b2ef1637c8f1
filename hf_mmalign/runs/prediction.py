"""Predictions for the rows of a table, by a saved model; nothing is kept, so that a table may be of any length."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, overload

import torch
from accelerate.utils import send_to_device
from tqdm.auto import tqdm
from transformers.utils import logging

from ..data.audio import LogMel
from ..data.errors import DataError
from ..data.prediction_rows import PredictionRows
from ..data.processor import MultimodalProcessor
from ..data.readers.table import audio_settings
from ..evaluation.decisions import decide
from ..reporting.files import atomic_path
from .build import build_collator
from .evaluation import load_model, recipe_of
from .recipe import RecipeError

logger = logging.get_logger(__name__)


@overload
def predict(
    folder: str | Path, rows: str | Path | Iterable[Mapping[str, Any]], /, output: None = None, **keys: Any
) -> Iterator[dict[str, Any]]: ...
@overload
def predict(
    folder: str | Path, rows: str | Path | Iterable[Mapping[str, Any]], /, output: str | Path, **keys: Any
) -> int: ...
def predict(
    folder: str | Path,
    rows: str | Path | Iterable[Mapping[str, Any]],
    /,
    output: str | Path | None = None,
    *,
    skip_bad_rows: bool = False,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: bool = True,
    **keys: Any,
) -> Iterator[dict[str, Any]] | int:
    """Predict rows, in order, as `hf-mmalign predict` does.

    >>> from hf_mmalign import runs
    >>> for line in runs.predict("runs/reviews", [{"text": "so happy today"}, {"face": [0.1, 0.7]}]):
    ...     print(line["prediction"], line["probabilities"])

    Args:
        folder (`str` or `Path`): A saved model: of a recipe, or one that a Trainer saved with its processor.
        rows (`str`, `Path` or an iterable of `Mapping`): A table as the format `table` reads it; `"-"` for JSON lines on
            standard input; or the rows themselves, with the values of such a table, PIL pictures, arrays and tensors.
            Columns are named as the modalities, or as the recipe's `columns` say. Any may be missing, in a row or
            altogether, but not all of a row's. Labels are not needed.
        output (`str` or `Path`, *optional*): A file for the predictions, a JSON object per line, all or none.
        skip_bad_rows (`bool`): Warn of a row that cannot be used and go on; else it is an error.
        batch_size (`int`): Rows at a time. No prediction depends on it.
        device (`str` or `torch.device`, *optional*): Where to run; by default an accelerator, if there is one.
        progress (`bool`): Show a progress bar on standard error while a file is written.
        keys: Values over those of the folder's recipe, such as `dataset_options`.

    Returns:
        An iterator over the predictions, which are made as it goes on; with `output` their number. Each is a dict of `id`;
        `prediction`, a class's name, a list of labels' names, a number, or a translation; `probabilities` by class, where
        there are classes; and `modalities`, those that were used.

    Raises:
        DataError: For a row that cannot be used, named by its number, and for a table that cannot be read.
        RecipeError: If the folder holds no model of ours.
    """
    if batch_size < 1:
        raise RecipeError(f"batch_size is {batch_size}; it is at least 1.")
    lines = Predictor(folder, keys, device)(rows, batch_size, skip_bad_rows)
    if output is None:
        return lines
    count = 0
    with atomic_path(output) as path, open(path, "w", encoding="utf-8") as file:
        for line in tqdm(lines, desc="Predicting", unit=" rows", disable=not progress, file=sys.stderr):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


class Predictor:
    """A saved model, ready for tables.

    Args:
        folder, keys, device: As for :func:`predict`.
    """

    def __init__(
        self,
        folder: str | Path,
        keys: Mapping[str, Any] | None = None,
        device: str | torch.device | None = None,
    ):
        values = recipe_of(Path(folder)).override(keys or {}).values
        # A recipe for another format names its columns as the modalities are named.
        options = values.get("dataset_options") or {} if values.get("dataset", "table") == "table" else {}
        model = load_model(folder)
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        self.model = model.to(device).eval()
        self.collator = build_collator(MultimodalProcessor.from_pretrained(folder), model.config)
        kinds = model.config.modality_kinds
        self.rows = PredictionRows(
            kinds,
            options.get("columns"),
            options.get("id") or "id",
            LogMel(**audio_settings(options.get("audio"))) if isinstance(kinds.get("audio"), int) else None,
            options.get("nonfinite") == "replace",
        )

    def __call__(
        self, rows: str | Path | Iterable[Mapping[str, Any]], batch_size: int = 64, skip_bad_rows: bool = False
    ) -> Iterator[dict[str, Any]]:
        """The predictions of :func:`predict`, one by one."""
        good = _without_errors(self._read(rows), skip_bad_rows)
        while batch := list(islice(good, batch_size)):
            batch, inputs = self._collated(batch, skip_bad_rows)
            if not batch:
                continue
            for row, decision in zip(batch, self._decide(inputs), strict=True):
                yield {"id": row["id"], **decision, "modalities": [name for name in row if name != "id"]}

    @torch.inference_mode()
    def _decide(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """What the model says of a batch."""
        predictions = self.model.predictions_of(**send_to_device(inputs, self.model.device)).cpu()
        if not self.model.config.generates:
            return decide(predictions.float().numpy(), self.model.config)
        texts = self.collator.processor.tokenizer.batch_decode(predictions, skip_special_tokens=True)
        return [{"prediction": text} for text in texts]

    def _read(self, rows: str | Path | Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any] | DataError]:
        if isinstance(rows, (str, Path)):
            return self.rows.of_lines(sys.stdin, "standard input") if rows == "-" else self.rows.of_table(rows)
        return self.rows.of_mappings(rows)

    def _collated(self, batch: list[dict[str, Any]], skip: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The rows that the processor takes, and their tensors."""
        while batch:
            try:
                return batch, self.collator(batch)
            except DataError as error:
                if not skip or error.row is None:
                    raise
                logger.warning(f"skipped: {error}")
                batch = [row for number, row in enumerate(batch) if number != error.row]
        return [], {}


def _without_errors(rows: Iterator[dict[str, Any] | DataError], skip: bool) -> Iterator[dict[str, Any]]:
    for row in rows:
        if not isinstance(row, DataError):
            yield row
        elif skip:
            logger.warning(f"skipped: {row}")
        else:
            raise row
