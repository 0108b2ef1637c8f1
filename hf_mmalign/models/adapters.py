"""Adapters of peft on our models: modules that no pretrained backbone brought are trained and saved with them.

peft freezes everything but its adapters and saves nothing else. New modules (heads, feature embeddings, WMA's reference
distances) would stay at what their initialisation drew, and a model built anew for reloading draws something else: they
must be in the adapter's `modules_to_save`. peft asks a model for no such list, so the one method that every adapter passes
on its way into a model is wrapped, whether it comes by `get_peft_model`, `add_adapter`, `load_adapter` or
`from_pretrained`.
"""

import functools
import re
from types import ModuleType
from typing import Any

ALL_LINEAR = "all-linear"


def save_new_modules_with_adapters(tuners_utils: ModuleType) -> None:
    """Wrap `BaseTuner.inject_adapter` of `peft.tuners.tuners_utils`: it sees to our models first."""
    inject = tuners_utils.BaseTuner.inject_adapter

    @functools.wraps(inject)
    def completing(tuner, model, adapter_name, *args, **kwargs):
        from .modeling_base import LOADING, MultimodalModelMixin

        if isinstance(model, MultimodalModelMixin) and not LOADING.get():
            complete_adapter(model, tuner.peft_config[adapter_name])
        return inject(tuner, model, adapter_name, *args, **kwargs)

    tuners_utils.BaseTuner.inject_adapter = completing


def complete_adapter(model: Any, config: Any) -> None:
    """Add to an adapter's config, in place, what it must train and save of our model, and LoRA's targets if it has none.

    Args:
        model (`MultimodalModelMixin`): The model that is about to get the adapter.
        config (`peft.PeftConfig`): Left as it is where its kind of adapter knows no `modules_to_save`.

    Raises:
        ValueError: If the adapter is loaded for inference and new modules are not in it.
    """
    from transformers.utils import logging

    if not hasattr(config, "modules_to_save"):
        return
    if config.peft_type == "LORA" and not (config.target_modules or getattr(config, "target_parameters", None)):
        config.target_modules = set(model.lora_targets)
    new = unsaved_modules(model, config)
    targets = _targets(model, config)
    inside = [name for name in new if any(_is_inside(key, name) for key in targets)]
    if inside and all(any(_is_inside(key, name) for name in inside) for key in targets):
        # Nothing else is asked for, so it is meant; an adapter then stands on weights that it does not hold.
        logging.get_logger(__name__).warning(
            f"The adapter changes {inside}, whose own weights are from no checkpoint and are not saved with it. Save this "
            "base model with save_pretrained, and load it from there, here and wherever the adapter is to be used."
        )
        new = [name for name in new if name not in inside]
    if new and config.inference_mode:
        raise ValueError(
            f"The adapter has modules_to_save {config.modules_to_save}, and so nothing for {new}, which no checkpoint of "
            f"this {type(model).__name__} holds: they would be random. Load the base model from a folder that holds them, "
            "or train the adapter again."
        )
    if new:
        config.modules_to_save = [*(config.modules_to_save or []), *new]


def unsaved_modules(model: Any, config: Any) -> list[str]:
    """The model's new modules that an adapter does not save, by peft's rule, which compares the ends of names."""
    named = tuple(config.modules_to_save or ())
    return [name for name in model.new_modules if not name.endswith(named)]


def _targets(model: Any, config: Any) -> list[str]:
    """Names of the modules that get an adapter, by peft's rule. None for "all-linear", which means no one in particular."""
    targets = config.target_modules
    if not targets or targets == ALL_LINEAR:
        return []
    if isinstance(targets, str):
        return [key for key, _ in model.named_modules() if re.fullmatch(targets, key)]
    return [key for key, _ in model.named_modules() if any(key == t or key.endswith(f".{t}") for t in targets)]


def _is_inside(key: str, module: str) -> bool:
    return key == module or key.startswith(f"{module}.")
