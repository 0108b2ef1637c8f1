"""How well a model translates where words of the source are unknown (Figure 6 of the Auto-Fusion paper)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from tqdm.auto import tqdm

from ..perturbation.protocols import UnknownWords

PROBABILITIES = tuple(step / 10 for step in range(10))


def translations(
    model: Any, dataset: Any, texts: Sequence[str | None], collator: Any, batch_size: int = 64
) -> Iterator[tuple[int, str]]:
    """What a model makes of the rows of a data set with other texts, each with the row's number; short texts first."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index] or ""))
    for first in range(0, len(order), batch_size):
        indices = order[first : first + batch_size]
        batch = collator([{**dataset[index], "text": texts[index]} for index in indices])
        with torch.inference_mode():
            ids = model.predictions_of(**send_to_device(batch, model.device)).cpu()
        yield from zip(indices, collator.processor.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True)


def word_drop_scores(
    model: Any,
    dataset: Any,
    texts: Sequence[str | None],
    references: Sequence[str],
    *,
    collator: Any,
    score: Callable[[Sequence[str], Sequence[str]], float],
    probabilities: Sequence[float] = PROBABILITIES,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = True,
    name: str = "word drop",
) -> list[float]:
    """The score of a model's translations for every probability that a word of the source is unknown.

    Which words they are is drawn for each sample from the seed and its number alone, and not from the model or its
    tokenizer: models are compared on the same words, and what is unknown at 0.1 is unknown at 0.2 too.

    Args:
        model ([`FusionForConditionalGeneration`]): It is left in eval mode.
        dataset: N rows by index, with a column per modality and no targets.
        texts (`Sequence[str | None]`): Their column `text`.
        references (`Sequence[str]`): Their translations.
        collator ([`MultimodalCollator`]): Makes the model's batches. Its tokenizer has an unknown token.
        score (`Callable`): A score of predictions and references.
        probabilities (`Sequence[float]`, *optional*): From 0 to 1, each of them for the whole data set.
        seed (`int`, *optional*, defaults to 0): Of the words.
        batch_size (`int`, *optional*, defaults to 64): Of the model.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar, with `name`.

    Raises:
        ValueError: If the tokenizer has no unknown token, or a probability lies outside [0, 1].
    """
    token = collator.processor.tokenizer.unk_token
    if token is None:
        raise ValueError("The model's tokenizer has no unknown token, which could stand for words.")
    noises = [UnknownWords(float(probability), token) for probability in probabilities]
    model.eval()
    scores = []
    with tqdm(total=len(noises) * len(texts), desc=name, unit=" sentences", disable=not progress) as bar:
        for noise in noises:
            found = [""] * len(texts)
            for index, text in translations(model, dataset, _disturbed(texts, noise, seed), collator, batch_size):
                found[index] = text
                bar.update()
            scores.append(score(found, references))
    return scores


def _disturbed(texts: Sequence[str | None], noise: UnknownWords, seed: int) -> list[str | None]:
    rows = (noise.disturb({"text": text}, {"text": "text"}, index, seed) for index, text in enumerate(texts))
    return [text if row is None else row["text"] for text, row in zip(texts, rows, strict=True)]
