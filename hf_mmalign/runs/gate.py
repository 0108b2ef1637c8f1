"""What the gates of saved models do when a modality is corrupted: pictures, and their figures beside them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..evaluation.gate import GateCurve, GateWeights, NoGateError, measure_gate
from ..evaluation.scores import Score, null
from ..perturbation.corruption import Corruption
from ..reporting.files import write_text
from ..reporting.gate import GateSample, plot_gate, plot_gate_samples
from ..reporting.plots import save_figure
from .build import build_collator
from .evaluation import check_split, load_run
from .recipe import RecipeError
from .repetitions import listed, repetitions

SNRS = (20.0, 10.0, 5.0, 0.0, -5.0, -10.0)
EPSILONS = (2.0, 4.0, 6.0, 8.0, 10.0)
_SAMPLES = 4


def draw_gate(
    folders: str | Path | Sequence[str | Path],
    /,
    split: str = "test",
    *,
    output: str | Path | None = None,
    corrupt: Sequence[str] | None = None,
    snrs: Sequence[float] = SNRS,
    epsilons: Sequence[float] = EPSILONS,
    samples: Sequence[str | int] | None = None,
    noise_seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    **keys: Any,
) -> list[Path]:
    """Mean gate weights of saved models against the noise on one modality after the other.

    Args:
        folders (`str`, `Path` or a sequence of them): Runs of models with a gate and the same modalities. Those whose
            recipes differ in nothing but seed or fold are one row of panels: their mean, with the standard deviation.
        split (`str`): Split whose samples are weighed.
        output (`str` or `Path`, *optional*): Where the picture goes, into the first folder by default. The figures go
            beside it, in a `.json` of the same name.
        corrupt (`Sequence[str]`, *optional*): The modalities to corrupt, one at a time; by default all.
        snrs (`Sequence[float]`, *optional*): Strengths of white noise on waveforms and feature sequences, in decibels below
            the signal; 20, 10, 5, 0, −5, −10 by default.
        epsilons (`Sequence[float]`, *optional*): Strengths ε of the clean protocol on pictures and texts; 2, 4, … 10 by
            default.
        samples (`Sequence[str | int]`, *optional*): Also draw the weights of these samples of the first run, by id or by
            number, before and after the strongest noise; an empty sequence takes four, evenly spaced.
        noise_seed (`int`, *optional*): Of the noise, which is the same for all models.
        device (`str` or `torch.device`, *optional*): Where to run; by default an accelerator, if there is one.
        progress (`bool`): Show a progress bar for each run.
        keys: Values over those of the runs' recipes.

    Returns:
        The picture's path, the figures', and that of the picture of samples, `<name>-samples.png`, if they are asked for.

    Raises:
        RecipeError: For a folder whose model has no gate, a modality, a level or a sample that is none.
    """
    folders = listed(folders)
    groups = repetitions(folders, over_folds=True)
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    found: dict[Path, GateWeights] = {}
    chosen: list[GateSample] = []
    for folder in folders:
        model, processor, arguments, dataset = load_run(folder, keys)
        check_split(dataset, split)
        kinds, data = model.config.modality_kinds, dataset[split]
        if found and tuple(kinds) != found[folders[0]].modalities:
            raise RecipeError(
                f"{folder} has the modalities {list(kinds)}, and {folders[0]} {list(found[folders[0]].modalities)}; runs "
                "in one picture have the same."
            )
        try:
            units, fitted = arguments.evaluation.noise_units, processor.feature_statistics
            corruptions = _corruptions(kinds, corrupt, snrs, epsilons, units, fitted)
            found[folder] = measure_gate(
                model.to(device),
                data,
                collator=build_collator(processor, model.config),
                corruptions=corruptions,
                seed=noise_seed,
                batch_size=arguments.training.get("per_device_eval_batch_size", 64),
                progress=progress,
                name=str(folder),
            )
        except NoGateError as error:
            raise RecipeError(f"{folder}: {error} {_fusion_of(model.config)}") from error
        except ValueError as error:
            raise RecipeError(f"{folder}: {error}") from error
        if samples is not None and folder == folders[0]:
            chosen = _samples(data, samples, found[folder], folder, split)
    return _write(folders, groups, found, chosen, split, noise_seed, output)


def _fusion_of(config) -> str:
    fusion = getattr(config, "fusion", None)
    told = config.model_type if fusion is None else f"{config.model_type} with fusion: {fusion}"
    early = " and early_fusion, which joins them first" if fusion == "def_aaf" else ""
    return f"It is {told}{early}; fusion: def_aaf has a gate."


def _corruptions(
    kinds: Mapping[str, str | int], corrupt: Sequence[str] | None, snrs, epsilons, units: str, fitted
) -> list[Corruption]:
    """Of each modality, the weakest noise first."""
    chosen = list(kinds) if corrupt is None else list(dict.fromkeys(corrupt))
    unknown = [name for name in chosen if name not in kinds]
    if unknown or not chosen:
        raise ValueError(f"The modalities to corrupt are some of {list(kinds)}, not {unknown or chosen}.")
    steps = []
    for name in chosen:
        decibels = kinds[name] not in ("text", "image")
        levels = sorted({float(level) for level in (snrs if decibels else epsilons)}, reverse=decibels)
        if not levels:
            raise ValueError(f"{'snrs' if decibels else 'epsilons'} is empty; {name!r} is corrupted by at least one.")
        steps += [Corruption(name, kinds[name], level, units, fitted) for level in levels]
    return steps


def _samples(
    data: Dataset, asked: Sequence[str | int], found: GateWeights, folder: Path, split: str
) -> list[GateSample]:
    """The samples asked for, under the strongest noise on each modality."""
    ids = [str(name) for name in data.with_format(None)["id"][:]] if "id" in data.column_names else []
    rows = []
    for name in asked:
        if str(name) in ids:
            rows.append(ids.index(str(name)))
        elif str(name).isdecimal() and int(name) < len(data):
            rows.append(int(name))
        else:
            raise RecipeError(
                f"{folder}: {name!r} is no sample of {split!r}: neither an id{' such as ' if ids else ''}"
                f"{', '.join(ids[:3])}, nor a number from 0 to {len(data) - 1}."
            )
    if not asked:
        whole = np.flatnonzero((found.clean > 0).all(axis=1))
        candidates = whole if len(whole) else np.arange(len(data))
        picked = np.linspace(0, len(candidates) - 1, min(_SAMPLES, len(candidates))).round().astype(int)
        rows = candidates[picked].tolist()
    strongest = {step.modality: step for step in found.corrupted}

    def by_name(weights: np.ndarray) -> dict[str, float]:
        return dict(zip(found.modalities, weights.tolist(), strict=True))

    return [
        GateSample(
            ids[row] if ids else f"sample {row}",
            by_name(found.clean[row]),
            {
                name: by_name(found.corrupted[step][row])
                for name, step in strongest.items()
                if np.isfinite(found.corrupted[step][row]).all()
            },
        )
        for row in rows
    ]


def _write(
    folders: list[Path],
    groups: Mapping[str, list[Path]],
    found: Mapping[Path, GateWeights],
    chosen: list[GateSample],
    split: str,
    noise_seed: int,
    output: str | Path | None,
) -> list[Path]:
    path = Path(output) if output is not None else folders[0] / f"gate-{split}.png"
    first = found[folders[0]]
    strongest = {step.modality: step for step in first.corrupted}
    try:
        models = {
            name: [GateCurve.of([found[folder] for folder in group], modality) for modality in strongest]
            for name, group in groups.items()
        }
    except ValueError as error:
        raise RecipeError(f"{split!r}: {error}") from error
    told = {
        "split": split,
        "noise_seed": noise_seed,
        "modalities": list(first.modalities),
        "num_samples": {str(folder): len(one.clean) for folder, one in found.items()},
        "models": {
            name: {
                "runs": [str(folder) for folder in groups[name]],
                "corrupted": {curve.modality: _told(curve) for curve in curves},
            }
            for name, curves in models.items()
        },
    }
    written = [
        save_figure(plot_gate(models, f"{len(first.clean)} samples of {split}"), path),
        path.with_suffix(".json"),
    ]
    if chosen:
        told["samples"] = [{"name": one.name, "clean": one.clean, "corrupted": one.corrupted} for one in chosen]
        noises = {
            name: f"{step.level:g} dB" if step.in_decibels else f"ε = {step.level:g}"
            for name, step in strongest.items()
        }
        figure = plot_gate_samples(chosen, noises, f"{next(iter(models))}: samples of {split}")
        written.append(save_figure(figure, path.with_name(f"{path.stem}-samples{path.suffix}")))
    write_text(path.with_suffix(".json"), json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    return written


def _told(curve: GateCurve) -> dict[str, Any]:
    """A curve as plain types; `levels` begin with the clean samples, `falls` and `change` with the first noise."""
    return {
        "noise": curve.corruptions[0].noise,
        "levels": ["clean", *(step.level for step in curve.corruptions)],
        "weights": {name: _plain(scores) for name, scores in curve.weights.items()},
        "falls": _plain(curve.falls),
        "change": _plain(curve.changes)
        | {
            "over_samples": [
                [{key: value for key, value in one.to_dict().items() if key != "values"} for one in run]
                for run in curve.within
            ]
        },
    }


def _plain(scores: Sequence[Score]) -> dict[str, list]:
    """Means and standard deviations over runs, level by level, and the values of each run."""
    return {
        "mean": [score.mean for score in scores],
        "std": [null(score.std) for score in scores],
        "runs": [list(run) for run in zip(*(score.values for score in scores), strict=True)],
    }
