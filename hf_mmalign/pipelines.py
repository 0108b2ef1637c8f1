"""Predictions from raw samples, transformers-style: `pipeline("multimodal-classification", folder)(sample)`."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, Pipeline
from transformers.image_utils import load_image
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import GenericTensor

from .data.collator import MultimodalCollator
from .data.errors import DataError
from .data.processor import MultimodalProcessor
from .evaluation.decisions import probabilities

TASK = "multimodal-classification"


class MultimodalClassificationPipeline(Pipeline):
    """Classifies or regresses samples of several modalities with any model of the package.

    >>> from transformers import pipeline
    >>> import hf_mmalign
    >>> classify = pipeline("multimodal-classification", "runs/memes")
    >>> classify({"text": "so happy today", "image": "photo.jpg"})  # a path, a URL or a PIL image
    [{'label': 'positive', 'score': 0.93}]

    A sample is a dict from modalities to values: a string for `text`; a path, a URL, a PIL image or an array for `image`;
    an array (T, D), or a vector (D,) as one step, for feature sequences; for raw sound a path, bytes, an array (S,) at the
    model's own rate, or `{"array": …, "sampling_rate": …}`. A missing key, or None, is a missing modality.
    """

    # Ours is no ProcessorMixin, which transformers insists on where it loads one itself.
    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model: Any, *args: Any, processor: Any = None, **kwargs: Any):
        if processor is None:
            processor = model.name_or_path
            if not processor:
                raise ValueError(
                    "A model that was not loaded from a folder needs its MultimodalProcessor: pass processor=…"
                )
        if isinstance(processor, str):
            # Of the revision that the weights are of.
            revision = getattr(model.config, "_commit_hash", None)
            processor = MultimodalProcessor.from_pretrained(processor, **({"revision": revision} if revision else {}))
        super().__init__(model.eval(), *args, processor=processor, **kwargs)
        config = self.model.config
        problem_type = config.problem_type or (
            "regression" if config.num_labels == 1 else "single_label_classification"
        )
        self._problem_type = problem_type
        self._collator = MultimodalCollator(self.processor, config.modality_kinds, problem_type, config.num_labels)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Predict one sample or several.

        Args:
            inputs (`dict`, or a list, generator or data set of them): See the class.
            top_k (`int`, *optional*, defaults to 1): How many classes to name, the most probable first; None for all.
            batch_size (`int`, *optional*, defaults to 1): Samples at a time. No prediction depends on it.

        Returns:
            For each sample a list of `{"label", "score"}`: probabilities, or, of a regression, the values, of which there
            are always all. One list for one sample, a list of lists for a list, an iterator for anything else.
        """
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, top_k: int | None = 1, **unknown: Any) -> tuple[dict, dict, dict]:
        if unknown:
            raise TypeError(f"{type(self).__name__} takes top_k and batch_size, not {', '.join(unknown)}.")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k is at least 1, or None for all classes; not {top_k!r}.")
        return {}, {}, {"top_k": top_k}

    def preprocess(self, input_: Any, **parameters: Any) -> dict[str, GenericTensor]:
        return self._collator([self._row(input_)])

    def _row(self, sample: Any) -> dict[str, Any]:
        kinds = self._collator.modalities
        if not isinstance(sample, Mapping):
            raise DataError(
                f"a sample is a dict with some of the modalities {list(kinds)}, not {type(sample).__name__}"
            )
        unknown = sorted(set(sample) - set(kinds) - {"id", "label"})
        if unknown:
            raise DataError(f"this model's modalities are {list(kinds)}, and the sample has {unknown[0]!r}")
        row = {name: sample[name] for name in kinds if sample.get(name) is not None}
        if not row:
            raise DataError(f"the sample has none of the modalities {list(kinds)}")
        for name, value in row.items():
            if kinds[name] == "image" and isinstance(value, str):
                row[name] = load_image(value)
            elif isinstance(kinds[name], int):
                sequence = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
                row[name] = sequence[None] if sequence.ndim == 1 else sequence
        return row

    def _forward(self, model_inputs: dict[str, Any], **parameters: Any) -> dict[str, torch.Tensor]:
        return {"logits": self.model(**model_inputs).logits}

    def postprocess(self, model_outputs: Mapping[str, torch.Tensor], top_k: int | None = 1) -> list[dict[str, Any]]:
        config = self.model.config
        scores = probabilities(model_outputs["logits"][0].float().numpy(), self._problem_type)
        entries = [{"label": config.id2label[index], "score": float(score)} for index, score in enumerate(scores)]
        if self._problem_type == "regression":
            return entries
        return sorted(entries, key=lambda entry: entry["score"], reverse=True)[:top_k]

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[list[dict[str, Any]]]:
        # Samples of a batch are padded together by the model's own collator; the stock one knows no feature sequences.
        samples = iter(inputs)
        while batch := list(islice(samples, batch_size)):
            rows = [self._row(sample) for sample in batch]
            logits = self.forward(self._collator(rows), **forward_params)["logits"]
            for row in logits.split(1):
                yield self.postprocess({"logits": row}, **postprocess_params)


PIPELINE_REGISTRY.register_pipeline(
    TASK, MultimodalClassificationPipeline, pt_model=AutoModelForSequenceClassification, type="multimodal"
)
