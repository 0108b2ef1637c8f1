"""The word-drop curve of saved translation models: a picture, and its figures beside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from ..data.schema import TARGET
from ..evaluation.metrics.translation import Bleu
from ..evaluation.scores import Score
from ..evaluation.word_drop import PROBABILITIES, word_drop_scores
from ..reporting.files import write_text
from ..reporting.plots import save_figure
from ..reporting.word_drop import plot_word_drop
from .build import build_collator
from .evaluation import check_split, load_run
from .recipe import RecipeError
from .repetitions import listed, repetitions

_METRIC = "bleu"


def draw_word_drop(
    folders: str | Path | Sequence[str | Path],
    /,
    split: str = "test",
    *,
    output: str | Path | None = None,
    probabilities: Sequence[float] = PROBABILITIES,
    words_seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    **keys: Any,
) -> Path:
    """sacreBLEU of saved translation models against the probability that a word of the source is unknown to them.

    Args:
        folders (`str`, `Path` or a sequence of them): Runs of translations, with the same sentences in `split`. Those whose
            recipes differ in nothing but the seed are one line: their mean, with the standard deviation.
        split (`str`): Split to translate.
        output (`str` or `Path`, *optional*): Where the picture goes, into the first folder by default. The figures go
            beside it, in a `.json` of the same name.
        probabilities (`Sequence[float]`, *optional*): 0, 0.1, … 0.9 by default.
        words_seed (`int`, *optional*): Of the choice of words, which is the same for all models.
        device (`str` or `torch.device`, *optional*): Where to run; by default an accelerator, if there is one.
        progress (`bool`): Show a progress bar for each run.
        keys: Values over those of the runs' recipes.

    Returns:
        The picture's path.

    Raises:
        RecipeError: For a folder that holds no translation model of ours, splits with other sentences, or probabilities
            that are none.
    """
    folders = listed(folders)
    if not probabilities or not all(0 <= probability <= 1 for probability in probabilities):
        raise RecipeError(f"probabilities is {list(probabilities)}; numbers from 0 to 1 are expected.")
    probabilities = sorted(dict.fromkeys(map(float, probabilities)))
    groups = repetitions(folders)
    if device is None:
        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    metric, found, sentences = Bleu(), {}, None
    for folder in folders:
        model, processor, arguments, dataset = load_run(folder, keys)
        if not model.config.generates:
            raise RecipeError(f"{folder} is a run of {model.config.task}; words are dropped in translations.")
        check_split(dataset, split)
        data, its_own = _labelled(dataset[split], split)
        if sentences not in (None, its_own):
            raise RecipeError(
                f"{folder} has other sentences in {split!r} than {folders[0]}; models are compared on the same ones."
            )
        sentences = its_own
        try:
            found[folder] = word_drop_scores(
                model.to(device),
                data,
                *its_own,
                collator=build_collator(processor, model.config),
                score=lambda *texts: metric.score(*texts)[_METRIC],
                probabilities=probabilities,
                seed=words_seed,
                batch_size=arguments.training.get("per_device_eval_batch_size", 64),
                progress=progress,
                name=str(folder),
            )
        except ValueError as error:
            raise RecipeError(f"{folder}: {error}") from error
    curves = {
        name: [Score(values) for values in zip(*(found[folder] for folder in group), strict=True)]
        for name, group in groups.items()
    }
    path = Path(output) if output is not None else folders[0] / f"word-drop-{split}.png"
    told = {
        "split": split,
        "num_samples": len(sentences[1]),
        "words_seed": words_seed,
        "metric": _METRIC,
        "signature": metric.signatures[_METRIC],
        "probabilities": probabilities,
        "models": {
            name: {
                "runs": [str(folder) for folder in groups[name]],
                "mean": [score.mean for score in scores],
                "std": [None if len(score.values) == 1 else score.std for score in scores],
                "values": {str(folder): found[folder] for folder in groups[name]},
            }
            for name, scores in curves.items()
        },
    }
    figure = plot_word_drop(probabilities, curves, _METRIC, f"{len(sentences[1])} sentences of {split}")
    write_text(path.with_suffix(".json"), json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    return save_figure(figure, path)


def _labelled(data: Dataset, split: str) -> tuple[Dataset, tuple[list[str | None], list[str]]]:
    """The rows that have a translation, without it; their texts and their translations."""
    targets = data.with_format(None)[TARGET][:]
    rows = [row for row, target in enumerate(targets) if target is not None]
    if not rows:
        raise RecipeError(f"The split {split!r} has no translations to compare with.")
    data = data.select(rows).remove_columns(TARGET)
    return data, (data.with_format(None)["text"][:], [targets[row] for row in rows])
