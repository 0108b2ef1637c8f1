"""From a recipe to the parts of a run: data, processor, model, trainer."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import torch
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ViltImageProcessor,
)
from transformers.utils import logging

from ..data.collator import MultimodalCollator
from ..data.errors import shown
from ..data.feature_statistics import FeatureStatistics
from ..data.kept import kept
from ..data.loading import check_options, load_multimodal_dataset
from ..data.processor import MultimodalProcessor
from ..data.schema import TARGET, label_names_of, modalities_of, num_labels_of, problem_type_of
from ..data.streams import StreamedDatasetDict, fingerprints_of
from ..data.tokenizers import (
    spaced_texts,
)
from ..data.validation import named_files, validate_dataset
from ..evaluation.metrics import compute_metrics_for, metric_names_for, primary_metric
from ..evaluation.metrics.translation import translation_metrics
from ..models.auto import config_class_of
from ..trainer.arguments import MultimodalTrainingArguments
from .arguments import Arguments, DataArguments, EvaluationArguments, ModelArguments
from .modality_encoders import encoder_configs, encoder_sources, modality_processors, of_checkpoint
from .recipe import Recipe, RecipeError, split_arguments
from .tasks import task_of
from .vocabulary import build_tokenizer

logger = logging.get_logger(__name__)

_Group = TypeVar("_Group")
_BUFFER_SIZE = 1000


def read_arguments(recipe: Recipe) -> Arguments:
    """Check every key and value of a recipe, without the data. Raises RecipeError, DataError for options of the data."""
    if "models" in recipe.values:
        raise RecipeError(f"{recipe.path} has `models`, as recipes of `hf-mmalign efficiency` do, which train none.")
    if recipe.values.get("model_type") is None:
        raise RecipeError(f"{recipe.path}: the key 'model_type' is missing; for example `model_type: vilt_wma`.")
    config_class = _config_class(recipe)
    if "dataset" not in recipe.values:
        raise RecipeError(f"{recipe.path}: the key 'dataset' is missing; see `hf-mmalign data inspect --help`.")
    groups = split_arguments(
        recipe,
        {
            "model": ModelArguments,
            "data": DataArguments,
            "evaluation": EvaluationArguments,
            "training": task_of(config_class).training_arguments,
            "config": config_class,
        },
    )
    arguments = Arguments(
        _made(recipe, ModelArguments, groups["model"]),
        _made(recipe, DataArguments, groups["data"]),
        _made(recipe, EvaluationArguments, groups["evaluation"]),
        groups["training"],
        groups["config"],
    )
    known, source = {field.name for field in fields(config_class)}, arguments.model.text_model_name_or_path
    if source is not None and "encoders" in known and "text_config" not in known:
        raise RecipeError(
            f"text_model_name_or_path: {config_class.model_type} names its encoders by modality; say `encoders: {{text: "
            f"{source}}}`."
        )
    check_options(arguments.data.dataset, arguments.data.dataset_options)
    return arguments


def _made(recipe: Recipe, group: type[_Group], values: dict[str, Any]) -> _Group:
    try:
        return group(**values)
    except ValueError as error:  # its first word is the key
        raise RecipeError(f"{recipe.origins.get(str(error).split()[0], recipe.path)}: {error}") from error


def load_data(arguments: DataArguments) -> DatasetDict | StreamedDatasetDict:
    """The data set of a recipe, shortened where it says so."""
    dataset = load_multimodal_dataset(
        arguments.dataset, arguments.dataset_path, streaming=arguments.streaming, **arguments.dataset_options
    )
    limits = {"train": arguments.max_train_samples}
    for split, data in dataset.items():
        limit = limits.get(split, arguments.max_eval_samples)
        if limit is not None and isinstance(data, Dataset):
            dataset[split] = data.select(range(min(limit, len(data))))
    if arguments.streaming and arguments.max_train_samples is not None:
        dataset = dataset.with_first_rows(arguments.max_train_samples)
    return dataset


def shuffled(
    data: Dataset | IterableDataset, arguments: DataArguments, training: MultimodalTrainingArguments
) -> Dataset | IterableDataset:
    """A streamed training split in random order, as far as its buffer reaches; others are shuffled by the sampler."""
    if not arguments.streaming:
        return data
    seed = training.seed if training.data_seed is None else training.data_seed
    return data.shuffle(seed=seed, buffer_size=arguments.shuffle_buffer_size or _BUFFER_SIZE)


def check_streaming(arguments: DataArguments, training: MultimodalTrainingArguments) -> None:
    """Refuse training arguments that count a stream's epochs. Raises RecipeError."""
    if not arguments.streaming:
        return
    if training.max_steps <= 0:
        raise RecipeError(
            "streaming: nobody knows how many steps an epoch of a stream has, so num_train_epochs does not say how long to "
            "train; max_steps does, for example `max_steps: 10000`."
        )
    for name in ("eval", "save"):
        if getattr(training, f"{name}_strategy") == "epoch":
            raise RecipeError(
                f"{name}_strategy is epoch, and a stream's epochs have no end that a run comes to; say "
                f"`{name}_strategy: steps` and `{name}_steps: 500`, for example."
            )


def build_config(arguments: Arguments, dataset: DatasetDict, processor: MultimodalProcessor):
    """The model's config: the recipe's fields over the checkpoint's, and what data and processor determine."""
    values = dict(arguments.config)
    available = modalities_of(dataset)
    names = values.get("modalities") or list(available)
    missing = [name for name in names if name not in available]
    if missing:
        raise RecipeError(f"modalities has {missing}, but the data set's are {list(available)}.")
    values["modalities"] = names
    values["feature_sizes"] = {name: available[name] for name in names if isinstance(available[name], int)}
    values |= _label_fields(arguments, dataset)
    if values.get("encoders") and arguments.model.model_name_or_path is None:
        values["encoders"] = encoder_configs(values["encoders"], processor.tokenizer)
    if processor.tokenizer is not None:
        values |= _text_fields(arguments, processor.tokenizer)
    elif arguments.model.text_model_name_or_path is not None:
        raise RecipeError(f"text_model_name_or_path is for raw text, but the modalities are {available}.")
    if arguments.model.model_name_or_path is not None:
        return arguments.config_class.from_pretrained(arguments.model.model_name_or_path, **values)
    return AutoConfig.for_model(arguments.model.model_type, **values)


def _check_task(arguments: Arguments, dataset: DatasetDict) -> None:
    """Raise RecipeError for a model that translates and data that do not, or the other way round."""
    problem_type, generates = problem_type_of(dataset), task_of(arguments.config_class).generates
    if generates != (problem_type == "translation"):
        raise RecipeError(
            f"model_type: {arguments.model.model_type} is for {'translation' if generates else 'labels'}, but the data set "
            f"{arguments.data.dataset} is for {problem_type}."
        )


def _label_fields(arguments: Arguments, dataset: DatasetDict) -> dict[str, Any]:
    """What the labels determine of the config."""
    problem_type = problem_type_of(dataset)
    if problem_type == "translation":
        return {}
    labels = label_names_of(dataset)
    if not labels:
        return {"problem_type": problem_type, "num_labels": num_labels_of(dataset)}
    ids = {label: index for index, label in enumerate(labels)}
    return {"problem_type": problem_type, "id2label": dict(enumerate(labels)), "label2id": ids}


def _text_fields(arguments: Arguments, tokenizer) -> dict[str, Any]:
    """What the tokenizer determines of the config: of the model's own, or of that of the text encoder inside it."""
    known = {field.name for field in fields(arguments.config_class)}
    from_scratch = arguments.model.model_name_or_path is None
    values = {name: getattr(tokenizer, name) for name in ("cls_token_id", "sep_token_id", "pad_token_id")}
    values = {name: value for name, value in values.items() if name in known}
    if task_of(arguments.config_class).generates:
        return values | ({"text_config": _seq2seq_config(arguments, tokenizer)} if from_scratch else {})
    if "encoders" in known and "text_config" not in known:
        return values
    if "text_config" not in known:
        if arguments.model.text_model_name_or_path is not None:
            raise RecipeError(f"text_model_name_or_path: {arguments.model.model_type} has no text encoder inside.")
        return values | ({"vocab_size": len(tokenizer)} if from_scratch else {})
    if arguments.model.text_model_name_or_path is not None:
        values["text_config"] = AutoConfig.from_pretrained(arguments.model.text_model_name_or_path)
    elif from_scratch:
        encoder = {"model_type": "bert"} | (arguments.config.get("text_config") or {})
        encoder |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        values["text_config"] = AutoConfig.for_model(**encoder)
    return values


def _seq2seq_config(arguments: Arguments, tokenizer: PreTrainedTokenizerBase):
    """Config of a translation's encoder–decoder: the checkpoint's, or the recipe's with the tokenizer's ids."""
    if arguments.model.text_model_name_or_path is not None:
        return AutoConfig.from_pretrained(arguments.model.text_model_name_or_path)
    start = tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    given = {"model_type": "marian"} | (arguments.config.get("text_config") or {})
    config = AutoConfig.for_model(**given | ids | {"vocab_size": len(tokenizer), "decoder_start_token_id": start})
    for name, value in {"forced_eos_token_id": tokenizer.eos_token_id, "decoder_vocab_size": len(tokenizer)}.items():
        if name in {field.name for field in fields(config)}:
            setattr(config, name, value)
    return config


def build_processor(arguments: Arguments, dataset: DatasetDict) -> MultimodalProcessor:
    """Tokenizer and image processor of the checkpoint, or new ones; only those that the used modalities need.

    Where the recipe says so, the processor also normalises feature sequences, as fitted on the training split.
    """
    _check_task(arguments, dataset)
    checkpoint = arguments.model.model_name_or_path
    encoders = arguments.config.get("encoders") or {}
    text_checkpoint = arguments.model.text_model_name_or_path or checkpoint or encoder_sources(encoders).get("text")
    available = modalities_of(dataset)
    used = arguments.config.get("modalities") or list(available)
    tokenizer = image_processor = None
    kinds = {name: available[name] for name in used if name in available}
    others = of_checkpoint(checkpoint) if checkpoint else modality_processors(kinds, encoders, arguments.data)
    if "text" in used and available.get("text") == "text":
        generates = task_of(arguments.config_class).generates
        tokenizer = build_tokenizer(arguments.data, text_checkpoint, dataset, generates)
    if "image" in used and available.get("image") == "image":
        if "image" in others:
            image_processor = others.pop("image")
        elif checkpoint is not None:
            image_processor = AutoImageProcessor.from_pretrained(checkpoint, **arguments.data.image_processor)
        else:
            image_processor = ViltImageProcessor(**arguments.data.image_processor)
    processor = MultimodalProcessor(tokenizer, image_processor, modality_processors=others)
    if arguments.data.normalize_features:
        sequences = [name for name in used if isinstance(available.get(name), int)]
        if not sequences:
            raise RecipeError(f"normalize_features is for feature sequences, but the modalities are {list(used)}.")
        _fit_features(processor, dataset, sequences)
    return processor


def _fit_features(processor: MultimodalProcessor, dataset: DatasetDict | StreamedDatasetDict, names: list[str]) -> None:
    """Mean and standard deviation of feature sequences, from an earlier run on the same data if there was one."""

    def fit() -> dict[str, list[list[float]]]:
        fitted = processor.fit_features(dataset["train"], names).feature_statistics
        return {name: [fitted[name].mean.tolist(), fitted[name].std.tolist()] for name in names}

    found = kept("statistics", {"data": fingerprints_of(dataset)["train"], "columns": names}, fit)
    processor.feature_statistics = {
        name: FeatureStatistics(*(torch.tensor(values) for values in found[name])) for name in names
    }
    processor.learn_feature_sizes({name: len(found[name][0]) for name in names})


def build_model(arguments: ModelArguments, config, sources: Mapping[str, str] | None = None) -> PreTrainedModel:
    """The model: from the checkpoint or at random (seed first!), with LoRA adapters where asked for.

    Args:
        arguments ([`ModelArguments`]): Of the recipe.
        config: Of :func:`build_config`.
        sources (`Mapping[str, str]`, *optional*): Of :func:`encoder_sources`: pretrained encoders by modality.
    """
    if arguments.model_name_or_path is None:
        model = task_of(config).auto_model.from_config(config)
        if arguments.text_model_name_or_path is not None:
            model.load_text_encoder(arguments.text_model_name_or_path)
        for name, source in (sources or {}).items():
            model.load_encoder(name, source)
    else:
        model_class = task_of(config).models[type(config)]
        model = model_class.from_pretrained(arguments.model_name_or_path, config=config)
    if not arguments.use_peft:
        return model
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=arguments.lora_target_modules or model.lora_targets,
        modules_to_save=model.modules_outside_backbone,
    )
    return get_peft_model(model, lora)


def build_collator(processor: MultimodalProcessor, config) -> MultimodalCollator:
    """The collator that makes a model's batches."""
    return MultimodalCollator(processor, config.modality_kinds, config.task, config.num_labels)


def check_data(dataset: DatasetDict | StreamedDatasetDict, config, processor: MultimodalProcessor) -> None:
    """Refuse data the model cannot train on, before training starts. Raises DataError.

    What was found good is not looked at again as long as rows, files, model and check are the same.
    """
    kinds = config.modality_kinds
    image_processors = processor.modality_processors | {"image": processor.image_processor}
    key = {
        "data": fingerprints_of(dataset),
        # A stream's are among its own files.
        "named_files": [named_files(data) for data in dataset.values() if isinstance(data, Dataset)],
        "modalities": kinds,
        "problem_type": config.task,
        "num_labels": config.num_labels,
        "image_processors": {name: part and part.to_dict() for name, part in image_processors.items()},
    }

    def check() -> bool:
        validate_dataset(dataset, kinds, config.task, config.num_labels, image_processors)
        return True

    kept("check", key, check)


def training_arguments(arguments: Arguments, **others: Any) -> MultimodalTrainingArguments:
    """The trainer's arguments of a recipe; `others` win over them."""
    # Pinning memory without an accelerator only warns.
    defaults = {"report_to": "none", "save_total_limit": 2, "dataloader_pin_memory": torch.accelerator.is_available()}
    try:
        return task_of(arguments.config_class).training_arguments(**defaults | arguments.training | others)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"The training arguments do not fit together: {error}") from error


def metrics_of(config, arguments: EvaluationArguments, processor: MultimodalProcessor, dataset: DatasetDict):
    """Trainer's `compute_metrics`; translations are scored against what validation and test splits really say."""
    if not config.generates:
        return compute_metrics_for(config.task, config.num_labels, metrics=arguments.metrics)
    splits = [dataset[split] for split in ("validation", "test") if split in dataset]
    texts = (text for data in splits for batch in spaced_texts(data, None, TARGET) for text in batch)
    return translation_metrics(processor, texts, metric_names_for(config.task, config.num_labels, arguments.metrics))


def primary_metric_of(config, arguments: Arguments) -> str:
    """The one metric that selects and heads tables: the recipe's `metric_for_best_model`, else the task's.

    Raises RecipeError for one that is neither a metric of the task nor a loss.
    """
    task = (config.task, config.num_labels, arguments.evaluation.metrics)
    chosen = (arguments.training.get("metric_for_best_model") or "loss").removeprefix("eval_")
    if chosen.startswith("loss"):
        return primary_metric(*task)[0]
    names = metric_names_for(*task)
    if chosen not in names:
        raise RecipeError(f"metric_for_best_model is {chosen}, and this task has the metrics {names} and the losses.")
    return chosen


def _config_class(recipe: Recipe) -> type:
    for key in ("model_type", "output_dir"):
        if not isinstance(recipe.values.get(key, ""), str):
            origin = recipe.origins.get(key, recipe.path)
            raise RecipeError(f"{origin}: {key} is {shown(recipe.values[key])}; expected text.")
    model_type = recipe.values.get("model_type", "vilt_wma")
    try:
        return config_class_of(model_type)
    except ValueError as error:
        raise RecipeError(f"{recipe.path}: model_type {model_type!r} is unknown: {error}") from None


def describe_arguments(recipe: Recipe) -> str:
    """Every key this recipe may hold, by group, with its default and meaning. Raises RecipeError for an unknown model."""
    config_class = _config_class(recipe)
    groups = {
        "model": ModelArguments,
        "data": DataArguments,
        "evaluation": EvaluationArguments,
        "training": task_of(config_class).training_arguments,
        f"config of {config_class.__name__}": config_class,
    }
    lines = []
    for group, target in groups.items():
        lines.append(f"{group}:")
        for field in sorted(fields(target), key=lambda field: field.name):
            if field.init and not field.name.startswith("_"):
                default = "" if field.default is MISSING else f" (default: {field.default})"
                text = " ".join(str(field.metadata.get("help", "")).split())
                lines.append(f"  {field.name}{default}" + (f": {text}" if text else ""))
    return "\n".join(lines)
