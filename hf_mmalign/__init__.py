"""Fine-tune multimodal transformers that are aligned, balanced and robust to noisy or missing modalities.

Public names are imported on first use, so ``import hf_mmalign`` costs milliseconds; the Auto classes of transformers
learn our model types on their first call (see :mod:`hf_mmalign.models.auto`).
"""

import importlib

from .models.auto import register_on_first_use

__version__ = "0.1.0"

_PUBLIC = {
    "ot": "hf_mmalign.ot",
    "runs": "hf_mmalign.runs",
    "BertWmaConfig": "hf_mmalign.models.wma.configuration_wma",
    "BertWmaForSequenceClassification": "hf_mmalign.models.wma.modeling_bert_wma",
    "DecAlignConfig": "hf_mmalign.models.decalign.configuration_decalign",
    "DecAlignForSequenceClassification": "hf_mmalign.models.decalign.modeling_decalign",
    "FusionConfig": "hf_mmalign.models.fusion.configuration_fusion",
    "FusionForConditionalGeneration": "hf_mmalign.models.fusion.modeling_fusion_seq2seq",
    "FusionSeq2SeqConfig": "hf_mmalign.models.fusion.configuration_fusion_seq2seq",
    "FusionForSequenceClassification": "hf_mmalign.models.fusion.modeling_fusion",
    "LstmTextConfig": "hf_mmalign.models.fusion.lstm_text",
    "LstmTextModel": "hf_mmalign.models.fusion.lstm_text",
    "ViltWmaConfig": "hf_mmalign.models.wma.configuration_wma",
    "ViltWmaForSequenceClassification": "hf_mmalign.models.wma.modeling_vilt_wma",
    "ModalityEmbedding": "hf_mmalign.models.modeling_base",
    "MultimodalOutput": "hf_mmalign.models.modeling_base",
    "MultimodalCollator": "hf_mmalign.data.collator",
    "MultimodalClassificationPipeline": "hf_mmalign.pipelines",
    "FeatureStatistics": "hf_mmalign.data.feature_statistics",
    "MultimodalProcessor": "hf_mmalign.data.processor",
    "load_multimodal_dataset": "hf_mmalign.data.loading",
    "MultimodalSeq2SeqTrainer": "hf_mmalign.trainer.seq2seq",
    "MultimodalSeq2SeqTrainingArguments": "hf_mmalign.trainer.seq2seq",
    "MultimodalTrainer": "hf_mmalign.trainer.trainer",
    "MultimodalTrainingArguments": "hf_mmalign.trainer.arguments",
    "evaluate_robustness": "hf_mmalign.reporting.robustness",
}

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hf_mmalign' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    value = module if _PUBLIC[name] == f"hf_mmalign.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


register_on_first_use()
