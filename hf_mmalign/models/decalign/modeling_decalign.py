"""DecAlign for classification and regression."""

import inspect
import math
from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init

from ...layers.cross_modal_transformer import CrossModalLayer, CrossModalTransformer
from ...layers.feature_embedding import sinusoidal_positions
from ...layers.kernels.dropout import dropout
from ...layers.pooling import masked_mean
from ...layers.temporal_projection import TemporalProjection
from ...losses.contrastive import label_positives, supervised_contrastive_loss
from ...losses.polarity import polarity_loss
from ...losses.task import task_loss
from ..modeling_base import ModalityEmbedding, MultimodalModelMixin, MultimodalOutput, combine_losses
from .alignment import DecoupledModalities, HierarchicalAlignment
from .configuration_decalign import DecAlignConfig


class DecAlignForSequenceClassification(MultimodalModelMixin, PreTrainedModel):
    """Classifies or regresses from two or more modalities, decoupled and hierarchically aligned (DecAlign, Qian et al.).

    Prediction needs the encoders, the cross-modal transformers and the head; prototypes, transport and latent encoders
    serve the loss only. Every modality may be missing from any sample or from a whole batch, in training and afterwards:
    what is missing takes part in no term and no attention, and its features are 0 in front of the head.

    Args:
        config ([`DecAlignConfig`]): The configuration.
    """

    config_class = DecAlignConfig
    config: DecAlignConfig
    base_model_prefix = "decalign"
    supports_gradient_checkpointing = True  # of the text encoder
    _supports_sdpa = True

    def __init__(self, config: DecAlignConfig):
        super().__init__(config)
        self.text_model = None
        if config.is_native("text"):
            self._set_text_model(AutoModel.from_config(config.text_config))
        kernels, attention_dropout = config.per_modality("conv_kernel_size"), config.per_modality("attention_dropout")
        self.projections = nn.ModuleDict(
            {
                name: TemporalProjection(size, config.hidden_size, kernels[name], config.conv_padding)
                for name, size in self._input_sizes().items()
            }
        )
        self.unique_encoders = nn.ModuleDict(
            {name: nn.Linear(config.hidden_size, config.hidden_size, bias=False) for name in config.modalities}
        )
        self.common_encoder = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.cross_modal_transformers = nn.ModuleDict(
            {
                name: CrossModalTransformer(
                    config.hidden_size,
                    config.num_hidden_layers,
                    config.num_attention_heads,
                    attention_dropout[name],
                    config.activation_dropout,
                    config.residual_dropout,
                    config.layer_norm_eps,
                )
                for name in config.modalities
            }
        )
        self.alignment = HierarchicalAlignment(config)
        parts = len(config.modalities) + (1 if config.common_head == "mean" else len(config.modalities))
        self.classifier = nn.Linear(parts * config.hidden_size, config.num_labels)
        self._feature_dropout = config.per_modality("feature_dropout")
        self.post_init()

    @classmethod
    def from_text_pretrained(cls, text_model: str, **config_fields: Any) -> "DecAlignForSequenceClassification":
        """A new model around a pretrained text encoder.

        Args:
            text_model (`str`): Folder or Hub name of an encoder that [`AutoModel`] loads.
            config_fields: Fields of [`DecAlignConfig`] beside `text_config`.
        """
        encoder = AutoModel.from_pretrained(text_model)
        model = cls(cls.config_class(text_config=encoder.config, **config_fields))
        model._set_text_model(encoder)
        return model

    def load_text_encoder(self, text_model: str) -> None:
        """Take the text encoder's weights from a pretrained one of the same config, a folder or Hub name."""
        if self.text_model is None:
            raise ValueError(f"This {type(self).__name__} has no text encoder: its config has no text_config.")
        self._set_text_model(AutoModel.from_pretrained(text_model, config=self.config.text_config))

    def _set_text_model(self, text_model: PreTrainedModel) -> None:
        # Nothing reads the pooled class token, and parameters without gradient stall distributed training.
        if getattr(text_model, "pooler", None) is not None:
            text_model.pooler = None
        self.text_model = text_model
        self._text_has_segments = "token_type_ids" in inspect.signature(text_model.forward).parameters
        if self.config.freeze_text_encoder:
            text_model.requires_grad_(False)
        self.train(self.training)

    def _input_sizes(self) -> dict[str, int]:
        sizes = self.config.modality_kinds
        return {name: self.config.text_config.hidden_size if size == "text" else size for name, size in sizes.items()}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own initialisation, and in attention that of [`torch.nn.MultiheadAttention`]."""
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, CrossModalLayer):
            bound = math.sqrt(6 / (4 * self.config.hidden_size))  # Glorot's, of the three projections as one matrix
            for projection in (module.query_projection, module.key_projection, module.value_projection):
                init.uniform_(projection.weight, -bound, bound)
            for projection in (module.query_projection, module.value_projection, module.output_projection):
                init.zeros_(projection.bias)
        elif isinstance(module, HierarchicalAlignment):
            for buffer in module.buffers(recurse=False):
                init.constant_(buffer, torch.nan)

    def train(self, mode: bool = True) -> "DecAlignForSequenceClassification":
        super().train(mode)
        if self.text_model is not None and self.config.freeze_text_encoder:
            self.text_model.eval()
        return self

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        features: dict[str, Tensor] | None = None,
        feature_mask: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        output_modality_features: bool = False,
        pixel_values: None = None,
        pixel_mask: None = None,
        inputs_embeds: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultimodalOutput | tuple:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`, *optional*): Token ids, for a config with a text encoder.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on valid tokens; a row of zeros is a sample
                without text.
            token_type_ids (`torch.LongTensor` of shape `(B, T)`, *optional*): Segment ids of the text.
            features (`dict[str, torch.FloatTensor]`, *optional*): `(B, T_m, D_m)` per feature modality.
            feature_mask (`dict[str, torch.Tensor]`, *optional*): `(B, T_m)` per feature modality, 1 on valid steps; left
                out, all steps are valid; a row of zeros is a sample without the modality.
            labels (`torch.Tensor`, *optional*): `(B,)` class indices, `(B, num_labels)` multi-hot floats or `(B,)` floats
                (see `config.problem_type`). Losses are computed with labels only.
            output_modality_features (`bool`): Return, for every modality, the means over time of its unique and its common
                features, side by side, `(B, 2·hidden_size)`.
            pixel_values, pixel_mask, inputs_embeds (*optional*): None, as libraries pass them; not supported.
            output_hidden_states (`bool`, *optional*): Return what enters the cross-modal transformers and what each of
                their layers gives, `(B, ΣT_m, d)`: the tokens of all modalities of the batch, in the config's order.
            output_attentions (`bool`, *optional*): Without effect: the attention that serves here keeps no weights.
            return_dict (`bool`, *optional*): False gives a tuple.

        Raises:
            ValueError: For a modality the config does not name, a wrong feature width, a text too long or `inputs_embeds`.
        """
        self.refuse_embeddings(inputs_embeds)
        embeddings = self._embed_with_hooks(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            features=features,
            feature_mask=feature_mask,
            pixel_values=pixel_values,
        )
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states: list[list[Tensor]] | None = [] if with_states else None
        decoupled, fused = self._fuse(embeddings, states)
        logits = self.classifier(dropout(fused, self.config.classifier_dropout, self.training))

        loss, losses = None, None
        if labels is not None:
            losses = self._losses(logits, labels, fused, decoupled)
            loss = combine_losses(losses, self.config.loss_weights)
        modality_features = None
        if output_modality_features:
            pooled = torch.cat([decoupled.pooled_unique, decoupled.pooled_common], dim=-1)
            modality_features = {name: pooled[m] for m, name in enumerate(self.config.modalities) if name in embeddings}
        output = MultimodalOutput(
            loss=loss,
            logits=logits,
            losses=losses,
            modality_features=modality_features,
            hidden_states=tuple(torch.cat(layer, dim=1) for layer in zip(*states, strict=True)) if states else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def logits_of_embeddings(self, embeddings, inputs):
        return self.classifier(dropout(self._fuse(embeddings)[1], self.config.classifier_dropout, self.training))

    def comparable_tokens(self, embeddings):
        """Their common features."""
        masks = {name: embedding.mask & embedding.present.unsqueeze(1) for name, embedding in embeddings.items()}
        common = self._decouple(embeddings, masks).common
        return {name: ModalityEmbedding(common[name], mask, mask) for name, mask in masks.items()}

    def _fuse(
        self, embeddings: dict[str, ModalityEmbedding], states: list[list[Tensor]] | None = None
    ) -> tuple[DecoupledModalities, Tensor]:
        """Decoupled features, and what enters the head: `(B, 2·M·d)` of the attended unique and the common ones, or, of
        their mean, `(B, (M + 1)·d)`."""
        masks = {name: embedding.mask & embedding.present.unsqueeze(1) for name, embedding in embeddings.items()}
        decoupled = self._decouple(embeddings, masks)
        attended = self._attend_across(decoupled.unique, masks, states)
        common = decoupled.pooled_common
        if self.config.common_head == "mean":
            common = masked_mean(common.transpose(0, 1), decoupled.present.T).unsqueeze(0)
        return decoupled, torch.cat([*attended, *common], dim=1)

    def embed_modalities(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        features=None,
        feature_mask=None,
        pixel_values=None,
    ) -> dict[str, ModalityEmbedding]:
        """Project each modality to the common width, X̃_m (Section 3.1); those the batch misses are left out.

        Arguments as in `forward`. Every token of a text from the text encoder is content.
        """
        given = self.clean_inputs(
            input_ids, attention_mask, token_type_ids, pixel_values, features=features, feature_mask=feature_mask
        )
        embeddings = {}
        for name in self.config.modalities:
            if self.config.is_native(name):
                if given.input_ids is None:
                    continue
                values = self._encode_text(given.input_ids, given.attention_mask, given.token_type_ids)
                mask = self._mask_text(given.input_ids, given.attention_mask.bool())
            elif name in given.features:
                values, mask = given.features[name]
            else:
                continue
            values = dropout(values, self._feature_dropout[name], self.training)
            tokens, mask = self.projections[name](values, mask)
            embeddings[name] = ModalityEmbedding(tokens, mask, mask)
        if not embeddings:
            raise ValueError(f"The batch holds none of the modalities {self.config.modalities}.")
        return embeddings

    def _encode_text(self, input_ids, attention_mask, token_type_ids) -> Tensor:
        longest = self.config.max_position_embeddings
        if longest is not None and input_ids.shape[1] > longest:
            raise ValueError(
                f"A text of {input_ids.shape[1]} tokens is longer than the {longest} positions of the text encoder. "
                "Truncate it."
            )
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None and self._text_has_segments:
            inputs["token_type_ids"] = token_type_ids
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_text_encoder):
            return self.text_model(**inputs).last_hidden_state

    def _mask_text(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """The valid tokens of each text; none of one that has class token and separator only, and so says nothing."""
        words = mask
        for special in (self.config.cls_token_id, self.config.sep_token_id):
            words = words if special is None else words & (input_ids != special)
        return mask & words.any(dim=1, keepdim=True)

    def _decouple(self, embeddings: dict[str, ModalityEmbedding], masks: dict[str, Tensor]) -> DecoupledModalities:
        """Unique and common features of every modality and their means over time (Section 3.1)."""
        unique, common, pooled_unique, pooled_common, present = {}, {}, [], [], []
        size = next(iter(masks.values())).shape[0]
        for name in self.config.modalities:
            if name not in embeddings:
                absent = self.classifier.weight.new_zeros(size, self.config.hidden_size)
                pooled_unique.append(absent)
                pooled_common.append(absent)
                present.append(absent[:, 0].bool())
                continue
            # A hook may have put something where the mask is 0, and without bias a zero token has zero features.
            mask = masks[name]
            tokens = embeddings[name].tokens.masked_fill(~mask.unsqueeze(-1), 0)
            unique[name], common[name] = self.unique_encoders[name](tokens), self.common_encoder(tokens)
            pooled_unique.append(masked_mean(unique[name], mask))
            pooled_common.append(masked_mean(common[name], mask))
            present.append(mask.any(dim=1))
        return DecoupledModalities(
            unique, common, torch.stack(present), torch.stack(pooled_unique), torch.stack(pooled_common)
        )

    def _attend_across(
        self, unique: dict[str, Tensor], masks: dict[str, Tensor], states: list[list[Tensor]] | None
    ) -> Iterator[Tensor]:
        """Each modality's `(B, d)` mean after attention to the others (Section 3.4), zeros for those the batch misses.

        `states` takes a list for each modality of the batch, its tokens layer by layer.
        """
        embedded = {name: self._embed_tokens(tokens) for name, tokens in unique.items()}
        for name in self.config.modalities:
            if name not in embedded:
                yield self.classifier.weight.new_zeros(masks[next(iter(masks))].shape[0], self.config.hidden_size)
                continue
            others = [other for other in embedded if other != name]
            context = torch.cat([embedded[other] for other in others], dim=1) if others else None
            context_mask = torch.cat([masks[other] for other in others], dim=1) if others else None
            reached = None if states is None else []
            encoded = self.cross_modal_transformers[name](embedded[name], context, context_mask, reached)
            if states is not None:
                states.append(reached)
            yield masked_mean(encoded, masks[name])

    def _embed_tokens(self, tokens: Tensor) -> Tensor:
        """Scale, positions and dropout in front of the cross-modal transformers, as in MulT."""
        tokens = tokens * math.sqrt(self.config.hidden_size)
        if self.config.position_embedding == "sinusoidal":
            positions = sinusoidal_positions(tokens.shape[1], tokens.shape[2], tokens.device)
            tokens = tokens + positions.to(tokens.dtype)
        return dropout(tokens, self.config.embedding_dropout, self.training)

    def _losses(self, logits, labels, fused, decoupled: DecoupledModalities) -> dict[str, Tensor]:
        """Every component of Eq. 13, unweighted."""
        config, problem_type = self.config, self.problem_type_of(labels)
        losses = {"task": task_loss(logits, labels, problem_type)} | self.alignment(decoupled)
        if config.computes("contrastive"):
            positives = label_positives(labels, problem_type, tuple(config.contrastive_range))
            counted, features = None, fused
            if config.contrastive_features == "common":
                features, counted = decoupled.pooled_common.flatten(0, 1), decoupled.present.flatten()
                positives = positives.repeat(len(config.modalities), len(config.modalities))
            losses["contrastive"] = supervised_contrastive_loss(
                features, positives, config.contrastive_temperature, counted
            )
        if config.computes("polarity") and problem_type == "regression":
            losses["polarity"] = polarity_loss(logits, labels)
        return losses

    def modality_parameters(self, name: str) -> Iterator[nn.Parameter]:
        self.check_modality(name)
        own = chain(self.projections[name].parameters(), self.unique_encoders[name].parameters())
        return chain(self.text_model.parameters(), own) if self.config.is_native(name) else own

    def embedding_parameters(self, name: str) -> Iterator[nn.Parameter]:
        behind = set(self.unique_encoders[name].parameters())
        return (parameter for parameter in self.modality_parameters(name) if parameter not in behind)

    @property
    def modules_outside_backbone(self) -> list[str]:
        by_modality = ("projections", "unique_encoders", "cross_modal_transformers")
        return [
            *(f"{part}.{name}" for part in by_modality for name in self.config.modalities),
            "common_encoder",
            "alignment",
            "classifier",
        ]

    @property
    def lora_targets(self) -> list[str]:
        return ["query_projection", "value_projection"] if self.text_model is None else super().lora_targets
