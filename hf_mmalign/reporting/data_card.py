"""The card of a data set of features: what made it, and how to train on it."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import yaml
from datasets import Array2D, DatasetDict, Features
from huggingface_hub import DatasetCardData

from ..data.schema import TARGET
from .files import write_text
from .tables import markdown_table

_LIBRARIES = ("hf-mmalign", "transformers", "timm", "torch", "datasets")


def write_data_card(
    folder: Path, name: Path, dataset: DatasetDict, settings: Mapping[str, Any], left_out: Sequence[str]
) -> Path:
    """Write `README.md` into the folder of a data set that :func:`hf_mmalign.runs.extract` made.

    Args:
        folder (`Path`): Where the card goes.
        name (`Path`): The data set's folder as its users will name it.
        dataset (`DatasetDict`): Its splits.
        settings (`Mapping[str, Any]`): Source and encoders, as in its `extraction.json`.
        left_out (`Sequence[str]`): Raw modalities that it lacks.
    """
    encoders = settings["encoders"]
    models = sorted({encoder["model"] for encoder in encoders.values() if "files" not in encoder})
    metadata = DatasetCardData(tags=["hf-mmalign", "features"])
    source = settings["source"]
    options = source["options"]
    origin = " ".join(f"`{part}`" for part in (source["format"], source["path"]) if part)
    lines = ["---", metadata.to_yaml().strip(), "---", "", f"# {name.name}", ""]
    lines += [f"Features of {origin}, made by `hf-mmalign data extract`.", ""]
    lines += [f"Options of the reader: `{json.dumps(options, ensure_ascii=False)}`.", ""] if options else []
    lines += [_encoder_table(dataset, encoders), ""]
    if "noise" in settings:
        lines += [f"Noise on the raw inputs: `{json.dumps(settings['noise'])}`, see `noisy_copies`.", ""]
    lines += [f"Left out: raw {' and '.join(left_out)}.", ""] if left_out else []
    lines += [f"The encoders are under the licences of {', '.join(models)}.", ""] if models else []
    lines += ["## Rows", "", _row_table(dataset), "", "A missing modality is a sequence of length 0.", ""]
    if "train" in dataset:
        lines += ["## Training on it", "", "```yaml", _recipe(name, dataset), "```", ""]
    lines += [f"Made with {_environment()}."]
    return write_text(folder / "README.md", "\n".join(lines) + "\n")


def _encoder_table(dataset: DatasetDict, encoders: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, column in _columns(dataset).items():
        if not isinstance(column, Array2D):
            continue
        made = encoders.get(name)
        limit = f", at most {made['max_text_length']} tokens" if made and made.get("max_text_length") else ""
        model = f"`{made['model']}` ({made['class']}{limit})" if made else "as read"
        revision = (made or {}).get("revision")
        model += f", revision {revision}" if revision else ""
        rows.append([name, model, made["pooling"] if made else "–", str(column.shape[1])])
    return markdown_table(["modality", "made by", "pooling", "width"], rows).rstrip()


def _columns(dataset: DatasetDict) -> Features:
    return next(iter(dataset.values())).features


def _row_table(dataset: DatasetDict) -> str:
    sequences = [name for name, column in _columns(dataset).items() if isinstance(column, Array2D)]
    rows = []
    for split, data in dataset.items():
        missing = [str(_missing(data, name)) for name in sequences]
        rows.append([split, str(len(data)), *missing])
    return markdown_table(["split", "rows", *(f"{name} missing" for name in sequences)], rows).rstrip()


def _missing(data: Any, name: str) -> int:
    """Rows whose sequence is of length 0, counted without reading a feature."""
    chunks = data.data.column(name).chunks
    return sum(int(pc.sum(pc.equal(pc.list_value_length(chunk.storage), 0)).as_py() or 0) for chunk in chunks)


def _recipe(name: Path, dataset: DatasetDict) -> str:
    options = {key: key for key in ("id", "group", TARGET) if key in _columns(dataset)}
    model = "mmalign_fusion_seq2seq" if TARGET in options else "mmalign_fusion"
    recipe = {"dataset": "table", "dataset_path": str(name), "dataset_options": options, "model_type": model}
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).strip()


def _environment() -> str:
    found = []
    for library in _LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:  # hf-mmalign run from a checkout that was not installed
            continue
    return ", ".join(found)
