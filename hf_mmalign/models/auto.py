"""Teach transformers' Auto classes our models.

Registering needs the config and model classes, hence torch and seconds of import time, which ``import hf_mmalign`` and
``hf-mmalign --help`` must not pay. So it happens on the first call of an Auto class: as soon as transformers' Auto
modules are imported, their loading methods are wrapped to register our classes first.
"""

import functools
import importlib.abc
import importlib.machinery
import sys

# The loading methods that meet a model or processor type before any other does.
_ENTRIES = {
    "transformers.models.auto.configuration_auto": ("AutoConfig", ("from_pretrained", "for_model")),
    "transformers.models.auto.processing_auto": ("AutoProcessor", ("from_pretrained",)),
}


@functools.cache
def register() -> None:
    """Register every config, model and processor of the package with the Auto classes. Idempotent."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoProcessor

    from ..data.processor import MultimodalProcessor
    from .decalign.modeling_decalign import DecAlignForSequenceClassification
    from .fusion.modeling_fusion import FusionForSequenceClassification
    from .wma.modeling_bert_wma import BertWmaForSequenceClassification
    from .wma.modeling_vilt_wma import ViltWmaForSequenceClassification

    for model in (
        ViltWmaForSequenceClassification,
        BertWmaForSequenceClassification,
        DecAlignForSequenceClassification,
        FusionForSequenceClassification,
    ):
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModelForSequenceClassification.register(model.config_class, model, exist_ok=True)
        AutoProcessor.register(model.config_class, MultimodalProcessor, exist_ok=True)


def _register_before(owner: type, method: str) -> None:
    function = owner.__dict__[method].__func__

    @functools.wraps(function)
    def registering(*args, **kwargs):
        register()
        return function(*args, **kwargs)

    setattr(owner, method, type(owner.__dict__[method])(registering))  # a class or static method as before


def _wrap_entries(module_name: str) -> None:
    class_name, methods = _ENTRIES[module_name]
    for method in methods:
        _register_before(getattr(sys.modules[module_name], class_name), method)


class _AutoModuleFinder(importlib.abc.MetaPathFinder):
    """Finds the Auto modules where Python does, and has their loading methods wrapped right after their execution."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in _ENTRIES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _wrap_entries(fullname)

        spec.loader.exec_module = exec_module
        return spec


def register_on_first_use() -> None:
    """Make ``AutoConfig``, ``AutoModelForSequenceClassification`` and ``AutoProcessor`` know our model types when asked."""
    sys.meta_path.insert(0, _AutoModuleFinder())
    for name in _ENTRIES:
        if name in sys.modules:
            _wrap_entries(name)
