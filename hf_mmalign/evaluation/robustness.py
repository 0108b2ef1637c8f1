"""How well a model does when a modality is noisy or missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import EvalPrediction

from ..data.feature_statistics import statistics_of
from ..data.rows import rows_by_batch
from ..losses.task import infer_problem_type
from ..models.modeling_base import ModalityHook
from ..perturbation.modalities import (
    MissingModality,
    MissingMode,
    ModalityNoise,
    NoiseDistribution,
    NoiseUnit,
    choose_missing,
    perturbed,
)
from ..perturbation.protocols import NoiseUnits, ProtocolName
from .embedding_scale import embedding_stds
from .inference import concatenated
from .metric_names import GREATER_IS_BETTER
from .metrics import compute_metrics_for, primary_metric
from .raw_noise import RawNoisePlan, predict_under_raw_noise
from .scores import CLEAN, Condition, RobustnessScores, RobustnessSettings, Score

ComputeMetrics = Callable[[EvalPrediction], dict[str, float]]


def measure_robustness(
    model: torch.nn.Module,
    dataset: Any,
    *,
    data_collator: Callable[[list], dict[str, Any]],
    compute_metrics: ComputeMetrics | None = None,
    primary: str | None = None,
    modalities: Sequence[str] | None = None,
    noise: NoiseDistribution = "uniform",
    noise_amplitude: float | Sequence[float] = 3.0,
    noise_unit: NoiseUnit = "one",
    missing_ratio: float = 0.5,
    missing_ratios: Sequence[float] | None = None,
    missing_mode: MissingMode = "zero",
    protocol: ProtocolName | None = None,
    epsilons: Sequence[float] = (5.0, 10.0),
    noise_units: NoiseUnits = "mvsa",
    snrs: Sequence[float] = (),
    noisy_copies: Mapping[Condition, Sequence[Any]] | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    batch_size: int = 64,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> RobustnessScores:
    """Score a model on clean data, with noise on each modality, and with each modality missing.

    The defaults are the two robustness tests of the WMA paper (section 4.1): noise U(−3, 3) on one modality's
    embeddings, and one modality's embeddings set to 0 for half of the samples, both here repeated over seeds.

    A sample's prediction depends only on whether *it* misses the modality, so one pass in which every sample misses it,
    together with the clean pass, holds the predictions for every ratio and every choice of samples: curves over
    `missing_ratios` cost no further passes, and are exact. Each batch is loaded and collated once and goes through the
    model ``1 + modalities × (1 + amplitudes × seeds)`` times. Everything runs in the calling process.

    Args:
        model (`torch.nn.Module`): A model of this package. It is evaluated without gradient in eval mode and given back
            as it was. Hooks already registered on it stay active.
        dataset: A dataset with a length (`datasets.Dataset`, `torch.utils.data.Dataset`) with labels.
        data_collator (`Callable`): Makes a batch for the model from a list of samples; `labels` included.
        compute_metrics (`Callable[[EvalPrediction], dict[str, float]]`, *optional*): By default the metrics of the
            problem type of the model's config, see :func:`hf_mmalign.evaluation.metrics.compute_metrics_for`. Where that
            is None, as in a model that has seen no labels, the first sample's labels tell.
        primary (`str`, *optional*): The metric for curves, plots and comparisons. By default that of
            :func:`hf_mmalign.evaluation.metrics.primary_metric`, or the first one a given `compute_metrics` returns.
        modalities (`Sequence[str]`, *optional*): The modalities to disturb, one at a time; all of the model by default.
        noise (`str`, *optional*, defaults to `"uniform"`): `"uniform"` or `"gaussian"`.
        noise_amplitude (`float` or `Sequence[float]`, *optional*, defaults to 3.0): Bound of the uniform noise,
            standard deviation of the Gaussian one. An empty sequence leaves the noise test out.
        noise_unit (`str`, *optional*, defaults to `"one"`): What these are multiples of: `"one"`, as they are, or `"std"`,
            the standard deviation of the modality's embeddings in this data set, so that they mean the same for modalities,
            and models, of different scales. It takes a pass of the embeddings more.
        missing_ratio (`float`, *optional*, defaults to 0.5): Share of the samples that miss the modality in the table.
        missing_ratios (`Sequence[float]`, *optional*): Shares for the curves, 0, 0.1, … 1 by default. An empty sequence
            leaves the curves out.
        missing_mode (`str`, *optional*, defaults to `"zero"`): `"zero"` or `"mask"`, see
            :class:`hf_mmalign.perturbation.modalities.MissingModality`.
        protocol (`str`, *optional*): Also put noise on the raw inputs, `"qmf"` (as published) or `"clean"`, on each
            modality and on all at once; see :class:`hf_mmalign.perturbation.protocols.NoiseProtocol`. `dataset` must then
            give rows with a column per modality.
        epsilons (`Sequence[float]`, *optional*): Strengths of that noise; 0 is the clean row.
        noise_units (`str`, *optional*, defaults to `"mvsa"`): Its units on pictures, `"mvsa"` or `"nyud2"`.
        snrs (`Sequence[float]`, *optional*): Also put white noise on the raw waveforms and feature sequences, each of them
            in turn, so many decibels below the signal.
        noisy_copies (`Mapping[Condition, Sequence]`, *optional*): Also copies of `dataset` that were disturbed before they
            came here, by what was done to them; one for each draw. Their rows are those of `dataset`, in its order.
        seeds (`Sequence[int]`, *optional*): One repetition each, of the noise and of the choice of incomplete samples.
        batch_size, num_workers (`int`, *optional*, default to 64 and 0): Of the data loader. No number depends on them.
        device (`str` or `torch.device`, *optional*): Where to run, the model's device by default.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar.

    Returns:
        Scores per condition. :func:`hf_mmalign.evaluate_robustness` returns them as a [`RobustnessReport`], whose
        `to_markdown()` and `save(folder)` give table, JSON and plot.

    Raises:
        ValueError: If the data are a stream, empty or have no labels, or an argument is out of its range (it is named).
    """
    config = model.config
    if not hasattr(dataset, "__len__"):
        raise ValueError("The data set to evaluate on is a stream; it is read many times, so pass a datasets.Dataset.")
    if len(dataset) == 0:
        raise ValueError("The data set to evaluate on is empty.")
    if compute_metrics is None:
        labels = None if config.task else _labels_of(data_collator([dataset[0]]))
        problem_type = config.task or infer_problem_type(labels, config.num_labels)
        compute_metrics = compute_metrics_for(problem_type, config.num_labels)
        primary = primary or primary_metric(problem_type, config.num_labels)[0]
    plan = _Plan(
        modalities=_known_modalities(config.modalities, modalities),
        noise=noise,
        amplitudes=_as_floats(noise_amplitude),
        missing_mode=missing_mode,
        seeds=tuple(int(seed) for seed in seeds),
    )
    if noise_unit not in get_args(NoiseUnit):
        raise ValueError(f"noise_unit is one of {get_args(NoiseUnit)}, not {noise_unit!r}.")
    raw = None
    if protocol is not None or snrs:
        kinds = config.modality_kinds
        fitted = statistics_of(data_collator)
        raw = RawNoisePlan.of(protocol, noise_units, epsilons, snrs, kinds, plan.modalities, plan.seeds, fitted)
    table_ratio, curve_ratios = _ratios(missing_ratio, missing_ratios)
    if not plan.seeds or min(plan.seeds) < 0 or len(set(plan.seeds)) < len(plan.seeds):
        raise ValueError(f"seeds are one or more different integers of at least 0, not {seeds}.")
    loader = DataLoader(
        rows_by_batch(dataset), batch_size=batch_size, collate_fn=data_collator, num_workers=num_workers
    )
    with _evaluation_mode(model, device), torch.no_grad():
        if noise_unit == "std" and plan.amplitudes:
            batches = (_to_device(dict(batch), model.device, model.dtype) for batch in loader)
            plan = replace(plan, units=embedding_stds(model, batches, plan.modalities))
        predictions = _predict(model, loader, plan, progress)
        if raw is not None:
            predictions.raw = predict_under_raw_noise(
                raw,
                dataset,
                data_collator,
                partial(_logits_of, model),
                predictions.clean,
                batch_size,
                num_workers,
                progress,
            )
        for condition, copies in (noisy_copies or {}).items():
            predictions.raw[condition] = [
                _predict_copy(model, copy, data_collator, batch_size, num_workers) for copy in copies
            ]

    scores = _score(predictions, plan, sorted({table_ratio, *curve_ratios}), compute_metrics)
    primary = primary or next(iter(scores[CLEAN]))
    if primary not in scores[CLEAN]:
        raise ValueError(f"primary is one of the computed metrics {list(scores[CLEAN])}, not {primary!r}.")
    settings = RobustnessSettings(
        modalities=plan.modalities,
        noise=noise,
        noise_amplitudes=plan.amplitudes,
        noise_unit=noise_unit,
        missing_ratio=table_ratio,
        missing_ratios=curve_ratios,
        missing_mode=missing_mode,
        seeds=plan.seeds,
        num_samples=len(predictions.labels),
        primary_metric=primary,
        greater_is_better=GREATER_IS_BETTER.get(primary),
        protocol=protocol,
        noise_units=None if protocol is None else noise_units,
        epsilons=() if raw is None else raw.epsilons,
        snrs=() if raw is None else raw.snrs,
        noisy_copies=bool(noisy_copies),
    )
    return RobustnessScores(settings, scores, model_name=type(model).__name__)


@dataclass(frozen=True)
class _Plan:
    """The forward passes every batch takes beside the clean one."""

    modalities: tuple[str, ...]
    noise: NoiseDistribution
    amplitudes: tuple[float, ...]
    missing_mode: MissingMode
    seeds: tuple[int, ...]
    units: dict[str, float] = field(default_factory=dict)

    def hooks(self, sample_indices: range) -> Iterator[tuple[tuple, ModalityHook]]:
        """Name and hook of each pass: `("noise", modality, amplitude, seed)` or `("missing", modality)`."""
        for modality in self.modalities:
            for amplitude in self.amplitudes:
                for seed in self.seeds:
                    hook = ModalityNoise(
                        modality, sample_indices, amplitude, seed, self.noise, self.units.get(modality, 1.0)
                    )
                    yield ("noise", modality, amplitude, seed), hook
            yield ("missing", modality), MissingModality(modality, mode=self.missing_mode)


@dataclass
class _Predictions:
    labels: np.ndarray
    clean: np.ndarray
    perturbed: dict[tuple, np.ndarray] = field(default_factory=dict)
    raw: dict[Condition, list[np.ndarray]] = field(default_factory=dict)


def _predict(model: torch.nn.Module, loader: DataLoader, plan: _Plan, progress: bool) -> _Predictions:
    """Logits of the whole data set under every pass of the plan, `(N, num_labels)` float32 each."""
    device, dtype = model.device, model.dtype
    labels: list[np.ndarray] = []
    logits: dict[tuple, list[np.ndarray]] = {}
    passes = 1 + len(list(plan.hooks(range(0))))
    start = 0
    with tqdm(total=passes * len(loader), desc="robustness", unit="pass", disable=not progress) as bar:
        for batch in loader:
            batch = dict(batch)
            batch_labels = _labels_of(batch)
            del batch["labels"]
            labels.append(np.asarray(batch_labels))
            batch = _to_device(batch, device, dtype)
            # Results stay on the device until the batch is through, so that drawing noise overlaps with the forwards.
            outputs = {("clean",): model.predictions_of(**batch)}
            bar.update()
            for name, hook in plan.hooks(range(start, start + len(batch_labels))):
                with perturbed(model, hook):
                    outputs[name] = model.predictions_of(**batch)
                bar.update()
            for name, output in outputs.items():
                logits.setdefault(name, []).append(output.float().cpu().numpy())
            start += len(batch_labels)
    whole = {name: np.concatenate(parts) for name, parts in logits.items()}
    return _Predictions(concatenated(labels), whole.pop(("clean",)), whole)


def _predict_copy(
    model: torch.nn.Module, copy: Any, collate: Callable[[list], dict[str, Any]], batch_size: int, num_workers: int
) -> np.ndarray:
    loader = DataLoader(rows_by_batch(copy), batch_size=batch_size, collate_fn=collate, num_workers=num_workers)
    return np.concatenate([_logits_of(model, dict(batch)) for batch in loader])


def _logits_of(model: torch.nn.Module, batch: dict[str, Any]) -> np.ndarray:
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    return model.predictions_of(**_to_device(inputs, model.device, model.dtype)).float().cpu().numpy()


def _labels_of(batch: dict[str, Any]) -> torch.Tensor:
    if batch.get("labels") is None:
        raise ValueError("Robustness is measured against labels, but the collated batches hold no 'labels'.")
    return batch["labels"]


def _score(
    predictions: _Predictions, plan: _Plan, ratios: Sequence[float], compute_metrics: ComputeMetrics
) -> dict[Condition, dict[str, Score]]:
    """Metrics of every condition; those of missing modalities come from mixing whole passes (see above)."""
    labels = predictions.labels

    def metrics(logits: np.ndarray) -> dict[str, float]:
        return compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))

    clean = metrics(predictions.clean)
    scores = {CLEAN: _over_seeds([clean])}
    for modality in plan.modalities:
        for amplitude in plan.amplitudes:
            passes = [predictions.perturbed["noise", modality, amplitude, seed] for seed in plan.seeds]
            scores[Condition("noise", modality, amplitude)] = _over_seeds([metrics(logits) for logits in passes])
    for condition, passes in predictions.raw.items():
        scores[condition] = _over_seeds([metrics(logits) for logits in passes])
    for modality in plan.modalities:
        without = predictions.perturbed["missing", modality]
        all_missing = metrics(without) if ratios[-1] == 1 else None
        for ratio in ratios:
            per_seed = []
            for seed in plan.seeds:
                missing = choose_missing(len(labels), ratio, seed, modality)
                if not missing.any():
                    per_seed.append(clean)
                elif missing.all() and all_missing is not None:
                    per_seed.append(all_missing)
                else:
                    per_seed.append(metrics(np.where(missing[:, None], without, predictions.clean)))
            scores[Condition("missing", modality, ratio)] = _over_seeds(per_seed)
    return scores


def _over_seeds(per_seed: list[dict[str, float]]) -> dict[str, Score]:
    return {name: Score(tuple(float(values[name]) for values in per_seed)) for name in per_seed[0]}


@contextmanager
def _evaluation_mode(model: torch.nn.Module, device: str | torch.device | None = None) -> Iterator[None]:
    """Put a model into eval mode, on `device` if given, and restore device and each submodule's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    home = model.device
    try:
        model.eval()
        if device is not None:
            model.to(device)
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        if model.device != home:
            model.to(home)


def _to_device(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a batch; its floating-point inputs take the model's dtype, so that bf16 and fp16 models can be evaluated."""
    if isinstance(value, dict):
        return {key: _to_device(entry, device, dtype) for key, entry in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def _known_modalities(known: Sequence[str], asked: Sequence[str] | None) -> tuple[str, ...]:
    asked = tuple(known) if asked is None else tuple(asked)
    unknown = [name for name in asked if name not in known]
    if unknown or not asked or len(set(asked)) < len(asked):
        raise ValueError(f"modalities are some of {list(known)}, each at most once; got {list(asked)}.")
    return asked


def _as_floats(values: float | Sequence[float]) -> tuple[float, ...]:
    values = (values,) if isinstance(values, int | float) else values
    return tuple(dict.fromkeys(float(value) for value in values))


def _ratios(table: float, curve: Sequence[float] | None) -> tuple[float, tuple[float, ...]]:
    curve = [step / 10 for step in range(11)] if curve is None else curve
    for ratio in (table, *curve):
        if not 0 <= ratio <= 1:
            raise ValueError(f"missing_ratio and missing_ratios lie between 0 and 1; got {ratio}.")
    return float(table), tuple(sorted({float(ratio) for ratio in curve}))
