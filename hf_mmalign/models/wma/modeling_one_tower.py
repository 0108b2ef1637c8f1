"""The forward pass that all one-tower models with Wasserstein Modality Alignment share."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput

from ...layers.feature_embedding import FeatureEmbedding
from ...layers.pooling import masked_mean
from ...losses.task import task_loss
from ..modeling_base import ModalityEmbedding, MultimodalModelMixin, MultimodalOutput, combine_losses
from .alignment import WassersteinModalityAlignment


class OneTowerModelMixin(MultimodalModelMixin):
    """Embed every modality, concatenate, encode together (Eqs. 1–3), classify the class token (Eq. 4), align (Eqs. 5–10).

    A subclass is a `PreTrainedModel` that calls :meth:`_build_one_tower` in its constructor, has a `classifier` and says
    how its backbone embeds (:attr:`_text_embedding`, :meth:`_embed_native`), encodes and pools.
    """

    def _build_one_tower(self) -> None:
        config = self.config
        self.feature_embeddings = nn.ModuleDict(
            {
                name: FeatureEmbedding(size, config.hidden_size, config.layer_norm_eps, config.hidden_dropout_prob)
                for name, size in config.feature_sizes.items()
            }
        )
        self.wma = WassersteinModalityAlignment(config)

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers. Tokens of new feature modalities begin as long as those of the pretrained text.

        Longer ones, such as a new layer norm makes, would drown the text in a pretrained attention.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        for name, embedding in model.feature_embeddings.items():
            if f"feature_embeddings.{name}.norm.weight" in info["missing_keys"]:
                embedding.norm.load_state_dict(model._text_embedding.LayerNorm.state_dict())
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, WassersteinModalityAlignment):
            init.constant_(module.reference, torch.nan)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        features: dict[str, torch.Tensor] | None = None,
        feature_mask: dict[str, torch.Tensor] | None = None,
        labels: torch.Tensor | None = None,
        output_modality_features: bool = False,
        inputs_embeds: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultimodalOutput | tuple:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`, *optional*): Token ids that begin with the class token.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): 1 on valid tokens; a row of zeros is a sample
                without text.
            token_type_ids (`torch.LongTensor` of shape `(B, T)`, *optional*): Segment ids of the text.
            pixel_values (`torch.FloatTensor` of shape `(B, C, H, W)`, *optional*): Pictures.
            pixel_mask (`torch.Tensor` of shape `(B, H, W)`, *optional*): 1 on valid pixels; all zero is a sample without
                a picture.
            features (`dict[str, torch.FloatTensor]`, *optional*): `(B, T_m, D_m)` per feature modality.
            feature_mask (`dict[str, torch.Tensor]`, *optional*): `(B, T_m)` per feature modality, 1 on valid steps; left
                out, all steps are valid; a row of zeros is a sample without the modality.
            labels (`torch.Tensor`, *optional*): `(B,)` class indices, `(B, num_labels)` multi-hot floats or `(B,)` floats
                (see `config.problem_type`).
            output_modality_features (`bool`): Return the mean encoded content token of every modality.
            inputs_embeds (*optional*): None; not supported.
            output_attentions, output_hidden_states (`bool`, *optional*): Return those of the whole sequence, as in
                transformers.
            return_dict (`bool`, *optional*): False gives a tuple.

        Raises:
            ValueError: For a modality the config does not name, a wrong feature width, a text too long or `inputs_embeds`.
        """
        self.refuse_embeddings(inputs_embeds)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "pixel_values": pixel_values,
            "pixel_mask": pixel_mask,
            "features": features,
            "feature_mask": feature_mask,
        }
        if labels is not None and self.training and self.needs_calibration:
            # MultimodalTrainer has calibrated on the global batch; in any other loop this first batch is the reference.
            self.calibrate([inputs])
        embeddings = self._embed_with_hooks(**inputs)
        flags = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        flags = {name: getattr(self.config, name) if asked is None else asked for name, asked in flags.items()}
        encoder_output, encoded = self.encode(embeddings, **flags)
        logits = self._decide(self._represent(encoder_output, encoded))

        loss, losses, diagnostics = None, None, None
        if labels is not None:
            losses, diagnostics = self._losses(logits, labels, encoded)
            loss = combine_losses(losses, self.config.loss_weights)
        output = MultimodalOutput(
            loss=loss,
            logits=logits,
            losses=losses,
            diagnostics=diagnostics,
            modality_features=_mean_tokens(encoded) if output_modality_features else None,
            hidden_states=encoder_output.hidden_states,
            attentions=encoder_output.attentions,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def logits_of_embeddings(self, embeddings, inputs):
        return self._decide(self._represent(*self.encode(embeddings)))

    def _represent(self, output: BaseModelOutput, encoded: dict[str, ModalityEmbedding]) -> torch.Tensor:
        """`(B, d)`, as `config.classifier_pooling` asks."""
        if self.config.classifier_pooling == "cls":
            return self._pool(output.last_hidden_state)
        # Each modality counts once: 49 patches would drown the ten tokens of a text.
        means = torch.stack(list(_mean_tokens(encoded).values()), dim=1)
        return masked_mean(means, torch.stack([one.content_mask.any(dim=1) for one in encoded.values()], dim=1))

    def _decide(self, representation: torch.Tensor) -> torch.Tensor:
        return self.classifier(representation)

    def embed_modalities(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        pixel_values=None,
        pixel_mask=None,
        features=None,
        feature_mask=None,
    ) -> dict[str, ModalityEmbedding]:
        """Embed each modality on its own (Eqs. 1–2); those the batch misses are left out. Arguments as in `forward`."""
        *native, sequences = self.clean_inputs(
            input_ids, attention_mask, token_type_ids, pixel_values, pixel_mask, features, feature_mask
        )
        embeddings = self._embed_native(*native)
        for name, (values, mask) in sequences.items():
            embeddings[name] = ModalityEmbedding(self.feature_embeddings[name](values), mask, mask)
        if not embeddings:
            raise ValueError(f"The batch holds none of the modalities {self.config.modalities}.")
        return {name: embeddings[name] for name in self.config.modalities if name in embeddings}

    def encode(
        self, embeddings: dict[str, ModalityEmbedding], **output_flags
    ) -> tuple[BaseModelOutput, dict[str, ModalityEmbedding]]:
        """Encode all modalities together (Eq. 3).

        Returns the encoder's output over the whole sequence, whose first token is the class token, and each modality's
        encoded tokens under its name.
        """
        # Text comes first, so that its class token heads the sequence as in the backbone's pretraining.
        names = sorted(embeddings, key=lambda name: not (name == "text" and self.config.is_native("text")))
        tokens, masks = [embeddings[name].tokens for name in names], [embeddings[name].mask for name in names]
        batch_size, offset = tokens[0].shape[0], 0
        if not (names[0] == "text" and self.config.is_native("text")):
            tokens.insert(0, self._class_token(batch_size))
            masks.insert(0, masks[0].new_ones(batch_size, 1))
            offset = 1
        sequence = torch.cat(tokens, dim=1)
        # The class token belongs to no modality: it stays even where a hook has masked out all of the text.
        mask = torch.cat([masks[0].new_ones(batch_size, 1), torch.cat(masks, dim=1)[:, 1:]], dim=1)
        attention_mask = create_bidirectional_mask(config=self.config, inputs_embeds=sequence, attention_mask=mask)
        output = self._encode_sequence(sequence, attention_mask, **output_flags)
        hidden, encoded = output.last_hidden_state, {}
        for name in names:
            length = embeddings[name].tokens.shape[1]
            span = hidden[:, offset : offset + length]
            encoded[name] = ModalityEmbedding(span, embeddings[name].mask, embeddings[name].content_mask)
            offset += length
        return output, encoded

    def comparable_tokens(self, embeddings):
        return self.encode(embeddings)[1]

    @property
    def _text_embedding(self) -> nn.Module:
        """The backbone's BERT-style text embedding module."""
        raise NotImplementedError

    def _embed_native(self, input_ids, attention_mask, token_type_ids, pixel_values, pixel_mask):
        """`{name: ModalityEmbedding}` of the raw modalities that were given."""
        raise NotImplementedError

    def _native_parameters(self, name: str) -> Iterator[nn.Parameter]:
        """:meth:`modality_parameters` of a native modality."""
        raise NotImplementedError

    def _encode_sequence(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None, **flags) -> BaseModelOutput:
        """The backbone's encoder, up to the hidden states that its own model would return."""
        raise NotImplementedError

    def _pool(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B, L, d)` hidden states to the `(B, d)` representation of the class token."""
        raise NotImplementedError

    def modality_parameters(self, name: str) -> Iterator[nn.Parameter]:
        self.check_modality(name)
        if name in self.feature_embeddings:
            return self.feature_embeddings[name].parameters()
        return self._native_parameters(name)

    @property
    def modules_outside_backbone(self) -> list[str]:
        return ["classifier", "wma", *(f"feature_embeddings.{name}" for name in self.feature_embeddings)]

    @property
    def needs_calibration(self) -> bool:
        return self.wma.needs_calibration

    @property
    def calibration_batches(self) -> int:
        return self.config.wma_calibration_batches

    @torch.compiler.disable  # a first step, not worth a graph of its own
    @torch.no_grad()
    def calibrate(self, batches: Iterable[dict]) -> None:
        """Fix WMA's reference distances on the given batches: D̄ = mean of D in eval mode, one value per pair (Eq. 9).

        Args:
            batches (`Iterable[dict]`): The micro-batches of this process, as given to `forward`. A pair of modalities
                that no sample has stays uncalibrated, and unregularised, until a batch with it comes.

        Collective: with torch.distributed initialised, every process must call it.
        """
        training = self.training
        self.eval()
        try:
            reference = self.wma.reference
            sums = torch.zeros(2, reference.numel(), dtype=torch.float64, device=reference.device)
            for batch in batches:
                embeddings = self._embed_with_hooks(**{k: v for k, v in batch.items() if k != "labels"})
                if self.wma.lacks_reference(embeddings):
                    sums += self.wma.distance_sums(self.encode(embeddings)[1])
        finally:
            self.train(training)
        self.wma.set_reference(sums)

    def _losses(self, logits, labels, encoded) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor] | None]:
        losses = {"task": task_loss(logits, labels, self.problem_type_of(labels))}
        diagnostics = None
        if self.wma.active:
            alignment, diagnostics = self.wma(encoded)
            losses |= alignment
        return losses, diagnostics

    def _embed_text(self, input_ids, attention_mask, token_type_ids) -> ModalityEmbedding:
        """Text tokens. The class token is always valid, even for a sample without text; it and [SEP] are no content."""
        config = self.config
        mask = attention_mask.bool()
        content = mask & (input_ids != config.cls_token_id) & (input_ids != config.sep_token_id)
        head = torch.zeros_like(content)
        head[:, 0] = True
        input_ids = input_ids.masked_fill(head & ~mask, config.cls_token_id)
        return ModalityEmbedding(self._embed_text_ids(input_ids, token_type_ids), mask | head, content)

    def _class_token(self, batch_size: int) -> torch.Tensor:
        ids = torch.full((batch_size, 1), self.config.cls_token_id, device=self.wma.reference.device)
        return self._embed_text_ids(ids, None)

    def _embed_text_ids(self, input_ids, token_type_ids) -> torch.Tensor:
        """What the backbone's own text embedding computes, with a position table that may be interpolated."""
        embedding = self._text_embedding
        token_type_ids = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        tokens = embedding.word_embeddings(input_ids) + embedding.token_type_embeddings(token_type_ids)
        tokens = tokens + self._text_positions(embedding.position_embeddings.weight, input_ids.shape[1])
        return embedding.dropout(embedding.LayerNorm(tokens))

    def _text_positions(self, table: torch.Tensor, length: int) -> torch.Tensor:
        """The first `length` rows of the position table, interpolated to `config.max_text_length` where it is shorter."""
        longest = self.config.max_text_length or table.shape[0]
        if length > longest:
            raise ValueError(
                f"A text of {length} tokens is longer than the {longest} positions of {type(self).__name__}. Truncate it "
                f"or set max_text_length={length} or more to interpolate the position table."
            )
        if longest > table.shape[0]:
            table = F.interpolate(table.T.unsqueeze(0), size=longest, mode="linear", align_corners=True)[0].T
        return table[:length]


def _mean_tokens(encoded: dict[str, ModalityEmbedding]) -> dict[str, torch.Tensor]:
    return {name: masked_mean(embedding.tokens, embedding.content_mask) for name, embedding in encoded.items()}
