"""BERT as a one-tower with Wasserstein Modality Alignment."""

from collections.abc import Iterator

import torch
from torch import nn
from transformers import BertModel, BertPreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils.output_capturing import capture_outputs

from .configuration_wma import BertWmaConfig
from .modeling_one_tower import OneTowerModelMixin


class BertWmaForSequenceClassification(OneTowerModelMixin, BertPreTrainedModel):
    """BERT that classifies or regresses from text and feature sequences in one tower, regularised by WMA (Zhi et al.).

    The backbone keeps BERT's parameter names: a stock BERT checkpoint loads here and ours loads in stock [`BertModel`].
    The head is that of [`BertForSequenceClassification`]; with `classifier_pooling="mean"`, without BERT's pooler.

    Args:
        config ([`BertWmaConfig`]): The configuration.
    """

    config_class = BertWmaConfig
    config: BertWmaConfig

    def __init__(self, config: BertWmaConfig):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=config.classifier_pooling == "cls")
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self._build_one_tower()
        self.post_init()

    @property
    def _text_embedding(self) -> nn.Module:
        return self.bert.embeddings

    def _embed_native(self, input_ids, attention_mask, token_type_ids, pixel_values, pixel_mask):
        if input_ids is None:
            return {}
        return {"text": self._embed_text(input_ids, attention_mask, token_type_ids)}

    @capture_outputs
    def _encode_sequence(self, tokens, attention_mask, **kwargs) -> BaseModelOutput:
        return self.bert.encoder(tokens, attention_mask=attention_mask, **kwargs)

    def _pool(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.bert.pooler(hidden_states)

    def _decide(self, representation: torch.Tensor) -> torch.Tensor:
        return super()._decide(self.dropout(representation))

    def _native_parameters(self, name: str) -> Iterator[nn.Parameter]:
        return self.bert.embeddings.parameters()
