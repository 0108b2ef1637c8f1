"""Pipelines of transformers give a model one modality; a model of ours that takes more must not be asked that way.

A missing modality is legal for every model, so that `pipeline("text-classification", folder)({"text": …, "image": …})`
would score the text alone and say nothing: neither the model nor its processor ever sees the picture that is dropped.
"""

import functools
from types import ModuleType
from typing import Any


def refuse_partial_samples(base: ModuleType) -> None:
    """Has transformers' own pipelines refuse our models of several modalities, however these were loaded.

    Pipelines of others may know how to feed them.

    Args:
        base (`ModuleType`): `transformers.pipelines.base`.
    """
    initialise = base.Pipeline.__init__

    @functools.wraps(initialise)
    def checked(self, model, *args, **kwargs):
        if type(self).__module__.startswith("transformers."):
            _check(type(self).__name__, model)
        initialise(self, model, *args, **kwargs)

    base.Pipeline.__init__ = checked


def _check(pipeline: str, model: Any) -> None:
    from .modeling_base import MultimodalModelMixin  # torch is there by now

    model = model.get_base_model() if hasattr(model, "get_base_model") else model  # inside peft's wrapper
    if not isinstance(model, MultimodalModelMixin) or len(model.config.modalities) == 1:
        return
    sizes = model.config.feature_sizes
    # The processor's arguments; a raw modality of another name stands under its own in `modality_inputs`.
    known = {"text": "text=[…]", "image": "images=[…]", "audio": "audio=[…]"}
    arguments = [known[name] for name in model.config.modalities if name not in sizes and name in known]
    others = [name for name in model.config.modalities if name not in sizes and name not in known]
    if others:
        arguments.append(f"modality_inputs={{{', '.join(f'{name!r}: […]' for name in others)}}}")
    if sizes:
        arguments.append(f"features={{{', '.join(f'{name!r}: […]' for name in sizes)}}}")
    raise ValueError(
        f"{pipeline} would give this {type(model).__name__} one modality of each sample, and it takes "
        f"{', '.join(model.config.modalities)}. Predict with processor and model: inputs = "
        f"hf_mmalign.MultimodalProcessor.from_pretrained(…)({', '.join(arguments)}); model(**inputs).logits"
    )
