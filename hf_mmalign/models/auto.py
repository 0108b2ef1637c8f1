"""Teach transformers' Auto classes, and peft, our models.

Registering needs the config and model classes, hence torch and seconds of import time, which ``import hf_mmalign`` and
``hf-mmalign --help`` must not pay. So it happens on the first call of an Auto class: as soon as transformers' Auto
modules are imported, their loading methods are wrapped to register our classes first.
"""

import difflib
import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable
from types import ModuleType

from .adapters import save_new_modules_with_adapters
from .stock_pipelines import refuse_partial_samples


@functools.cache
def register() -> None:
    """Register every config, model and processor of the package with the Auto classes. Idempotent.

    `AutoModel` gives the same class as `AutoModelForSequenceClassification`, or `AutoModelForSeq2SeqLM`: a model type of
    ours has one class, and what others take from a model without head is in its output (`output_modality_features`,
    `output_hidden_states`). A stock backbone, which would load too, could not take all modalities.
    """
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForImageClassification,
        AutoModelForSeq2SeqLM,
        AutoModelForSequenceClassification,
        AutoProcessor,
    )

    from ..data.processor import MultimodalProcessor
    from .decalign.modeling_decalign import DecAlignForSequenceClassification
    from .fusion.modeling_fusion import FusionForSequenceClassification
    from .fusion.modeling_fusion_seq2seq import FusionForConditionalGeneration
    from .wma.modeling_bert_wma import BertWmaForSequenceClassification
    from .wma.modeling_vilt_wma import ViltWmaForSequenceClassification

    for model in (
        ViltWmaForSequenceClassification,
        BertWmaForSequenceClassification,
        DecAlignForSequenceClassification,
        FusionForSequenceClassification,
        FusionForConditionalGeneration,
    ):
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModel.register(model.config_class, model, exist_ok=True)
        head = AutoModelForSeq2SeqLM if model.config_class.generates else AutoModelForSequenceClassification
        head.register(model.config_class, model, exist_ok=True)
        AutoProcessor.register(model.config_class, MultimodalProcessor, exist_ok=True)
    # Loaded, an image-classification pipeline refuses it with our words; else transformers says that it is no such model.
    vilt = ViltWmaForSequenceClassification
    AutoModelForImageClassification.register(vilt.config_class, vilt, exist_ok=True)


def config_class_of(model_type: str) -> type:
    """The config class of a model type, ours or transformers'. Raises ValueError for an unknown one."""
    from transformers import CONFIG_MAPPING

    register()
    if model_type not in CONFIG_MAPPING:
        close = difflib.get_close_matches(str(model_type), CONFIG_MAPPING, n=1)
        raise ValueError(
            f"did you mean {close[0]!r}?" if close else "transformers has no such model type, nor have we."
        )
    return CONFIG_MAPPING[model_type]


def _registering(**entries: tuple[str, ...]) -> Callable[[ModuleType], None]:
    """Has the named class methods of a module's classes register our models before they do anything."""

    def wrap(module: ModuleType) -> None:
        for class_name, methods in entries.items():
            for method in methods:
                _register_before(getattr(module, class_name), method)

    return wrap


def _register_before(owner: type, method: str) -> None:
    function = owner.__dict__[method].__func__

    @functools.wraps(function)
    def registering(*args, **kwargs):
        register()
        return function(*args, **kwargs)

    setattr(owner, method, type(owner.__dict__[method])(registering))  # a class or static method as before


def _register_pipeline(module: ModuleType) -> None:
    """Adds our task to those of transformers' `pipeline`; if the import came from there, it will do so at its end."""
    importlib.import_module("hf_mmalign.pipelines")


# What is done with a module of a library right after its import.
_AFTER_IMPORT: dict[str, Callable[[ModuleType], None]] = {
    # The methods that meet a model or processor type before any other does.
    "transformers.models.auto.configuration_auto": _registering(AutoConfig=("from_pretrained", "for_model")),
    "transformers.models.auto.processing_auto": _registering(AutoProcessor=("from_pretrained",)),
    "transformers.models.auto.modeling_auto": _registering(
        AutoModel=("from_config", "from_pretrained"),
        AutoModelForSequenceClassification=("from_config", "from_pretrained"),
        AutoModelForSeq2SeqLM=("from_config", "from_pretrained"),
    ),
    "transformers.pipelines": _register_pipeline,
    "transformers.pipelines.base": refuse_partial_samples,
    "peft.tuners.tuners_utils": save_new_modules_with_adapters,
}


class _ModuleFinder(importlib.abc.MetaPathFinder):
    """Finds these modules where Python does, and adds to their execution what is to be done after it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in _AFTER_IMPORT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            _AFTER_IMPORT[fullname](module)

        spec.loader.exec_module = exec_module
        return spec


def register_on_first_use() -> None:
    """Make the Auto classes know our model types when asked, and peft our new modules, whenever they are imported."""
    sys.meta_path.insert(0, _ModuleFinder())
    for name, after_import in _AFTER_IMPORT.items():
        if name in sys.modules:
            after_import(sys.modules[name])
