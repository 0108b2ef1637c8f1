"""Predictions for the rows of a table, by a saved model; nothing is kept, so that a table may be of any length."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import torch
from accelerate.utils import send_to_device
from tqdm.auto import tqdm
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from ..data.audio import LogMel
from ..data.errors import DataError
from ..data.prediction_rows import PredictionRows
from ..data.processor import MultimodalProcessor
from ..data.readers.table import audio_settings
from ..evaluation.decisions import decide
from ..reporting.files import atomic_path
from .build import build_collator
from .evaluation import recipe_of
from .recipe import RecipeError

logger = logging.get_logger(__name__)


def predict(
    folder: str | Path,
    source: str | Path,
    output: str | Path | None = None,
    *,
    skip_bad_rows: bool = False,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    overrides: dict[str, Any] | None = None,
    progress: bool = True,
) -> int:
    """Predict every row of a table, in order, and write a JSON object per line.

    Args:
        folder (`str` or `Path`): A saved model: of a recipe, or one that a Trainer saved with its processor.
        source (`str` or `Path`): A table as the format `table` reads it, or `"-"` for JSON lines on standard input. Its
            columns are named as the modalities, or as the recipe's `columns` say. Any may be missing, in a row or
            altogether, but not all of a row's. Labels are not needed.
        output (`str` or `Path`, *optional*): Where the lines go, all or none; to standard output by default.
        skip_bad_rows (`bool`): Warn of a row that cannot be used and go on; else it is an error.
        batch_size (`int`): Rows at a time. No prediction depends on it.
        device (`str` or `torch.device`, *optional*): Where to run; by default an accelerator, if there is one.
        overrides (`dict[str, Any]`, *optional*): Values over those of the folder's recipe, such as `dataset_options`.
        progress (`bool`): Show a progress bar on standard error.

    Returns:
        The number of lines. Each holds `id`; `prediction`, a class's name, a list of labels' names, or a number;
        `probabilities` by class, unless it is a regression; and `modalities`, those that were used.

    Raises:
        DataError: For a row that cannot be used, named by its number, and for a table that cannot be read.
        RecipeError: If the folder holds no model of ours.
    """
    if batch_size < 1:
        raise RecipeError(f"batch_size is {batch_size}; it is at least 1.")
    predictor = Predictor(folder, overrides, device)
    count = 0
    with _opened(output) as file:
        lines = predictor(source, batch_size, skip_bad_rows)
        for line in tqdm(lines, desc="Predicting", unit=" rows", disable=not progress, file=sys.stderr):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


class Predictor:
    """A saved model, ready for tables.

    Args:
        folder, overrides, device: As for :func:`predict`.
    """

    def __init__(
        self,
        folder: str | Path,
        overrides: dict[str, Any] | None = None,
        device: str | torch.device | None = None,
    ):
        values = recipe_of(Path(folder)).override(overrides or {}, "the command line").values
        # A recipe for another format names its columns as the modalities are named.
        options = values.get("dataset_options") or {} if values.get("dataset", "table") == "table" else {}
        model = AutoModelForSequenceClassification.from_pretrained(folder)
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
        self, source: str | Path, batch_size: int = 64, skip_bad_rows: bool = False
    ) -> Iterator[dict[str, Any]]:
        """The lines of :func:`predict` as dicts, one by one."""
        rows = self.rows.of_lines(sys.stdin, "standard input") if source == "-" else self.rows.of_table(source)
        good = _without_errors(rows, skip_bad_rows)
        while batch := list(islice(good, batch_size)):
            batch, inputs = self._collated(batch, skip_bad_rows)
            if not batch:
                continue
            with torch.inference_mode():
                logits = self.model(**send_to_device(inputs, self.model.device)).logits.float().cpu().numpy()
            for row, decision in zip(batch, decide(logits, self.model.config), strict=True):
                yield {"id": row["id"], **decision, "modalities": [name for name in row if name != "id"]}

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


@contextmanager
def _opened(output: str | Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        return
    with atomic_path(output) as path, open(path, "w", encoding="utf-8") as file:
        yield file
