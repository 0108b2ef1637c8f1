"""The model card: what a saved model is, how to load it, how it was made and how well it does."""

import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation.metric_names import GREATER_IS_BETTER, METRICS
from ..evaluation.scores import format_score
from .files import write_text
from .methods import METHODS, method_of
from .robustness import RobustnessReport
from .tables import markdown_table, metric_label

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_TASKS = {
    "single_label_classification": "classification",
    "multi_label_classification": "multi-label classification",
    "regression": "regression",
    "translation": "translation",
}
_LIBRARIES = ("hf-mmalign", "torch", "transformers", "accelerate", "datasets", "peft")


def write_model_card(
    folder: str | os.PathLike,
    model: torch.nn.Module,
    *,
    results: Mapping[str, Any],
    dataset_name: str | None = None,
    dataset_ids: Sequence[str] = (),
    license: str | None = None,
    model_title: str | None = None,
    language: str | Sequence[str] | None = None,
    tags: Sequence[str] = (),
    robustness: RobustnessReport | None = None,
    robustness_split: str = "test",
    recipe: Mapping[str, Any] | None = None,
    training_arguments: Mapping[str, Any] | None = None,
    method: str | None = None,
    base_model: str | None = None,
    repo_id: str | None = None,
) -> Path:
    """Write `README.md` into a saved model's folder, with metadata that the Hub accepts (`model-index` included).

    The card claims what it is told here and what the model's config says; what is left out is not in the card.

    Args:
        folder: The folder `save_pretrained` wrote. A `robustness.png` in it is shown in the card.
        model (`torch.nn.Module`): The model saved there; its config tells task, modalities and method.
        results (`Mapping[str, Any]`): As in `results.json`: each split's clean metrics under its name, e.g.
            `{"test": {"auroc": 0.74}}`. Losses, `"train"` and entries that are no mapping are not for the card.
        dataset_name (`str`, *optional*): The data, as people call them, e.g. `"Hateful Memes"`. Without a name the results
            stay out of the metadata, where the Hub takes none without.
        dataset_ids (`Sequence[str]`, *optional*): The data's ids on the Hub; by default made from their name.
        license (`str`, *optional*): The licence of the weights, by the Hub's identifier, e.g. `"apache-2.0"`. It is for the
            owners of the base model and the data to allow.
        model_title (`str`, *optional*): The heading, by default the model's name.
        language (`str` or `Sequence[str]`, *optional*): Languages of the texts, e.g. `"en"`.
        tags (`Sequence[str]`, *optional*): Tags beside those of the package, the method and the modalities.
        robustness ([`RobustnessReport`], *optional*): Its table goes into the card, its primary metric into the
            metadata.
        robustness_split (`str`, *optional*, defaults to `"test"`): The split the report was made on.
        recipe (`Mapping[str, Any]`, *optional*): Settings of the training run, printed in full, with absolute paths cut
            to their last part, as they mean nothing elsewhere.
        training_arguments (`Mapping[str, Any]`, *optional*): Where there is no recipe, the Trainer's arguments to print.
        method (`str`, *optional*): A key of :data:`hf_mmalign.reporting.methods.METHODS`; read from the config by
            default.
        base_model (`str`, *optional*): Hub id of the checkpoint that training started from, by default the recipe's
            `model_name_or_path`. A local folder is left out, as nobody else has it.
        repo_id (`str`, *optional*): Where the model will be on the Hub; the folder's name stands for it otherwise.

    Raises:
        ValueError: If the method or the problem type is unknown, or a result is no number.
    """
    folder, config = Path(folder), model.config
    method = METHODS[_checked_method(method, config)]
    scores = _scores(results, config.modalities)
    name = (repo_id or folder.resolve().name).rsplit("/", 1)[-1]
    base_model = _hub_id(base_model or (recipe or {}).get("model_name_or_path"))
    ids = list(dataset_ids) or ([_hub_name(dataset_name)] if dataset_name else [])
    metrics = list(dict.fromkeys(metric for split in scores.values() for metric in split))
    own_tags = ["hf-mmalign", "multimodal", method.tag, *map(_hub_name, config.modalities)]
    named = (dataset_name, ids[0]) if dataset_name else None
    card_data = ModelCardData(
        model_name=name,
        base_model=base_model,
        library_name="hf-mmalign",
        license=license,
        language=language,
        pipeline_tag=_pipeline_tag(config),
        datasets=ids or None,
        metrics=metrics or None,
        tags=list(dict.fromkeys([*own_tags, *tags])),
        eval_results=(named and _eval_results(config, *named, scores, robustness, robustness_split)) or None,
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(_TEMPLATE),
        title=model_title or name,
        class_name=type(model).__name__,
        task=_TASKS[config.task],
        modalities=_listed(config.modalities),
        dataset_name=dataset_name,
        method=method,
        base_model=base_model,
        settings=_listed([f"`{field}` = {getattr(config, field)}" for field in method.settings]),
        usage=usage_snippet(config, repo_id or name),
        results=_results_table(scores),
        robustness=robustness and _robustness_section(folder, robustness),
        definitions=_definitions(
            [*metrics, *(robustness.metric_names if robustness else [])], results.get("signatures", {})
        ),
        recipe=recipe and _as_yaml(recipe),
        training_arguments=training_arguments and _as_yaml(training_arguments),
        environment=_environment(),
        unnamed_classes=config.task not in ("regression", "translation") and config.id2label.get(0) == "LABEL_0",
    )
    return write_text(folder / "README.md", str(card).rstrip() + "\n")


def usage_snippet(config: Any, repository: str) -> str:
    """Python that predicts for one sample by a saved model, ready to run."""
    cells = {
        "text": '"a sentence",',
        "image": 'Image.new("RGB", (224, 224)),  # a picture, its path or URL',
        "audio": "np.zeros(16000),  # samples at the model's rate, or the path of a file",
    }
    sizes = config.feature_sizes
    sample = [
        f'"{name}": ' + (cells[kind] if isinstance(kind, str) else f"np.zeros((20, {kind})),  # (time, width)")
        for name, kind in config.modality_kinds.items()
    ]
    kinds = config.modality_kinds.values()
    if config.generates:
        return "\n".join(
            [
                *(["import numpy as np"] if sizes or "audio" in kinds else []),
                *(["from PIL import Image"] if "image" in kinds else []),
                "from hf_mmalign import runs",
                "",
                "sample = {  # a modality that is left out is missing",
                *(f"    {cell}" for cell in sample),
                "}",
                f'for line in runs.predict("{repository}", [sample]):  # the folder, downloaded',
                '    print(line["prediction"])',
            ]
        )
    return "\n".join(
        [
            *(["import numpy as np"] if sizes or "audio" in kinds else []),
            *(["from PIL import Image"] if "image" in kinds else []),
            "from transformers import pipeline",
            "",
            "import hf_mmalign  # makes transformers know this model and its pipeline",
            "",
            f'classify = pipeline("multimodal-classification", "{repository}")',
            "sample = {  # a modality that is left out is missing",
            *(f"    {cell}" for cell in sample),
            "}",
            "print(classify(sample))",
        ]
    )


def _checked_method(method: str | None, config: Any) -> str:
    if config.task not in _TASKS:
        raise ValueError(f"config.problem_type is one of {list(_TASKS)}, not {config.task!r}.")
    method = method or method_of(config)
    if method not in METHODS:
        raise ValueError(f"method is one of {list(METHODS)}, not {method!r}.")
    return method


def _definitions(metrics: list[str], signatures: Mapping[str, str]) -> list[tuple[str, str]]:
    """What each metric is, by its name for readers, once; with sacreBLEU's signature where it has one."""
    return [
        (METRICS[name].label, METRICS[name].definition + (f" (`{signatures[name]}`)" if name in signatures else ""))
        for name in dict.fromkeys(metrics)
        if name in METRICS
    ]


def _scores(results: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, dict[str, float]]:
    """The clean metrics by split. A loss is no score to compare models by, nor how compact classes are, nor the score of a
    head beside the prediction."""
    beside = tuple(f"_{name}" for name in modalities)
    scores: dict[str, dict[str, float]] = {}
    for split, values in results.items():
        if split in ("train", "signatures") or not isinstance(values, Mapping):
            continue
        scores[split] = {
            name: value
            for name, value in values.items()
            if name != "loss" and not name.startswith(("loss_", "intra_class_")) and not name.endswith(beside)
        }
        for name, value in scores[split].items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"results[{split!r}][{name!r}] is no number but {value!r}.")
    return scores


def _hub_id(name: str | None) -> str | None:
    """A repository id; None for a local folder, or for what can be no id."""
    if name is None or Path(name).exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, flags=re.ASCII):
        return None
    return name


def _as_yaml(settings: Mapping[str, Any]) -> str:
    def portable(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: portable(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [portable(entry) for entry in value]
        return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value

    return yaml.safe_dump(portable(settings), sort_keys=False, allow_unicode=True, width=100).rstrip()


def _eval_results(
    config: Any,
    dataset_name: str,
    dataset_id: str,
    scores: Mapping[str, Mapping[str, float]],
    robustness: RobustnessReport | None,
    robustness_split: str,
) -> list[EvalResult]:
    def result(split: str, metric: str, value: float, test: str = "") -> EvalResult:
        return EvalResult(
            task_type=_pipeline_tag(config) or "other",
            task_name=_TASKS[config.task],
            dataset_type=dataset_id,
            dataset_name=dataset_name,
            dataset_split=split,
            metric_type=metric,
            metric_name=f"{metric_label(metric)}{test}",
            metric_value=round(float(value), 6),
        )

    found = [result(split, metric, value) for split, metrics in scores.items() for metric, value in metrics.items()]
    if robustness:
        primary = robustness.settings.primary_metric
        disturbed = [condition for condition in robustness.table_conditions() if condition.kind != "clean"]
        means = [(condition, robustness.scores[condition][primary].mean) for condition in disturbed]
        found += [result(robustness_split, primary, mean, f" ({condition.label()})") for condition, mean in means]
    # An undefined value is no result, and NaN in the metadata would make the Hub refuse the card.
    return [entry for entry in found if math.isfinite(entry.metric_value)]


def _results_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    metrics = dict.fromkeys(metric for values in scores.values() for metric in values)
    if not metrics:
        return ""
    header = ["split", *(metric_label(metric, GREATER_IS_BETTER.get(metric)) for metric in metrics)]
    rows = [[split, *(format_score(v.get(metric, math.nan)) for metric in metrics)] for split, v in scores.items()]
    return markdown_table(header, rows).rstrip()


def _robustness_section(folder: Path, report: RobustnessReport) -> dict[str, str | None]:
    return {
        "description": report.description(),
        "table": report.table().rstrip(),
        "picture": "robustness.png" if (folder / "robustness.png").is_file() else None,
        "picture_text": f"{metric_label(report.settings.primary_metric)} with noisy and missing modalities",
    }


def _pipeline_tag(config: Any) -> str | None:
    """The Hub's task whose stock pipeline the model serves, which is that of texts alone."""
    alone = config.modalities == ["text"] and config.is_native("text")
    if config.generates:
        return "translation" if alone else None
    return "text-classification" if alone and config.problem_type != "regression" else None


def _hub_name(name: str) -> str:
    """A name in the Hub's alphabet for data sets and tags: `Hateful Memes` becomes `hateful-memes`."""
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-").lower() or "unnamed"


def _environment() -> str:
    parts = [f"Python {platform.python_version()}"]
    for library in _LIBRARIES:
        try:
            parts.append(f"{library} {version(library)}")
        except PackageNotFoundError:  # hf-mmalign run from a checkout that was not installed
            continue
    return ", ".join(parts)


def _listed(names: list[str]) -> str:
    return " and ".join(", ".join(part) for part in (names[:-1], names[-1:]) if part)
