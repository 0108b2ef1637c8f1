"""Late fusion for classification and regression."""

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ...layers.kernels.dropout import dropout
from ...losses.contribution import log_likelihood
from ...losses.task import class_shares, task_loss
from ..modeling_base import ModalityEmbedding, MultimodalOutput, combine_losses
from .bottleneck import AsymmetricBottleneck
from .build_fusion import build_fusion
from .configuration_fusion import FusionConfig
from .fusions import Fused
from .modality_encoders import ModalityEncodersMixin


class FusionForSequenceClassification(ModalityEncodersMixin, PreTrainedModel):
    """Classifies or regresses from one vector per modality: encode each, pool its tokens, fuse, decide.

    Every modality may be missing from any sample or from a whole batch, in training and afterwards: its vector is 0.

    Args:
        config ([`FusionConfig`]): The configuration, with at least one modality.
    """

    config_class = FusionConfig
    config: FusionConfig
    base_model_prefix = "fusion"
    supports_gradient_checkpointing = True  # of the encoders that do
    _supports_sdpa = True
    predicts_from_features = True

    def __init__(self, config: FusionConfig):
        super().__init__(config)
        self._build_encoders()
        widths = {name: self.width_of(name) for name in config.modalities}
        self.fuser = build_fusion(config, widths)
        sizes = [self.fuser.width] + [config.head_hidden_size] * config.num_head_layers
        self.head_layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.classifier = nn.Linear(sizes[-1], config.num_labels)
        self.unimodal_heads = nn.ModuleDict()
        if config.unimodal_heads:
            self.unimodal_heads.update({name: nn.Linear(width, config.num_labels) for name, width in widths.items()})
        self.bottleneck: AsymmetricBottleneck | None = None
        if config.aib_weight:
            lam, variant = config.compression_lambda, config.aib_variant
            self.bottleneck = AsymmetricBottleneck(widths, config.bottleneck_size, lam, variant)
        self.post_init()
        self._freeze()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AsymmetricBottleneck):
            init.constant_(module.coefficients, 1 / len(self.config.modalities))

    @property
    def _compute_dtype(self) -> torch.dtype:
        return self.classifier.weight.dtype

    def forward(
        self,
        features: dict[str, Tensor] | None = None,
        feature_mask: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        output_modality_features: bool = False,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_mask: Tensor | None = None,
        modality_inputs: dict[str, dict[str, Tensor]] | None = None,
        inputs_embeds: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultimodalOutput | tuple:
        r"""
        Args:
            features (`dict[str, torch.FloatTensor]`): `(B, T_m, D_m)` per modality; those that the whole batch misses may
                be left out.
            feature_mask (`dict[str, torch.Tensor]`, *optional*): `(B, T_m)` per modality, 1 on valid steps; left out, all
                steps are valid; a row of zeros is a sample without the modality.
            labels (`torch.Tensor`, *optional*): `(B,)` class indices, `(B, num_labels)` multi-hot floats or `(B,)` floats
                (see `config.problem_type`). The loss is computed with labels only.
            output_modality_features (`bool`): Return the vector of every modality.
            input_ids, attention_mask, token_type_ids (`torch.Tensor` of shape `(B, T)`, *optional*): Modality `"text"`.
            pixel_values (`torch.FloatTensor` of shape `(B, C, H, W)`, *optional*), pixel_mask (`(B, H, W)`): `"image"`.
            input_values (`torch.FloatTensor` of shape `(B, S)` or `(B, S, D)`, *optional*), input_features (`(B, D, S)` or
                `(B, S, D)`), audio_mask (`(B, S)`): `"audio"`, as its encoder takes it.
            modality_inputs (`dict[str, dict[str, torch.Tensor]]`, *optional*): The same by modality, for those of other
                names: `{"depth": {"pixel_values": …, "pixel_mask": …}}`. Of every mask, a row of zeros is a sample without
                the modality.
            inputs_embeds (*optional*): None, as libraries pass it.
            output_hidden_states (`bool`, *optional*): Return the fused vector and what each hidden layer of the head makes
                of it, `(B, d)` each.
            output_attentions (`bool`, *optional*): Without effect.
            return_dict (`bool`, *optional*): False gives a tuple.

        Raises:
            ValueError: For a modality the config does not name, inputs that its encoder does not take, a wrong feature
                width or a batch without any modality.
        """
        self.refuse_embeddings(inputs_embeds)
        embeddings = self._embed_with_hooks(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            pixel_values=pixel_values,
            pixel_mask=pixel_mask,
            input_values=input_values,
            input_features=input_features,
            audio_mask=audio_mask,
            modality_inputs=modality_inputs,
            features=features,
            feature_mask=feature_mask,
        )
        vectors = self.vectors_of(embeddings)
        present = {name: embedding.present for name, embedding in embeddings.items()}
        classes = None
        if labels is not None:
            classes = class_shares(labels, self.problem_type_of(labels), self.config.num_labels)
        fused = self.fuser(vectors, present, classes, with_losses=labels is not None)
        hidden = self._hidden(fused.vector)
        logits = self._decide(hidden)
        unimodal = {name: self.unimodal_heads[name](vector) for name, vector in vectors.items() if self.unimodal_heads}

        loss, losses, critic_inputs = None, None, None
        if labels is not None:
            losses = self._losses(logits, fused, unimodal, embeddings, labels)
            adversarial, critic_inputs = self._adversarial_terms(fused.pairs or {})
            losses |= adversarial
            if self.bottleneck is not None:
                losses["aib"] = self._bottleneck_loss(vectors, hidden[-1], embeddings, labels)
            loss = combine_losses(losses, self.config.loss_weights)
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = MultimodalOutput(
            loss=loss,
            logits=logits,
            losses=losses,
            modality_features=vectors if output_modality_features else None,
            unimodal_logits=unimodal or None,
            gate_weights=fused.weights,
            codes=fused.codes,
            critic_inputs=critic_inputs,
            hidden_states=hidden if with_states else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def logits_of_embeddings(self, embeddings, inputs):
        return self.logits_from(self.vectors_of(embeddings))

    def logits_from(self, vectors: dict[str, Tensor]) -> Tensor:
        """What the fusion head decides from the modalities' vectors alone, as `output_modality_features` returns them.

        Args:
            vectors (`dict[str, torch.Tensor]`): `(B, d_m)` by modality; those left out are 0, as where they are missing.

        Returns:
            `torch.Tensor` of shape `(B, num_labels)`.

        Raises:
            ValueError: For a modality that the config does not name, or none at all: then B is unknown.
        """
        if not vectors:
            raise ValueError("logits_from needs the vectors of one modality; zeros stand for one that is missing.")
        for name in vectors:
            self.check_modality(name)
        return self._decide(self._hidden(self.fuser(vectors, with_losses=False).vector))

    def _decide(self, hidden: tuple[Tensor, ...], with_dropout: bool = True) -> Tensor:
        return self.classifier(dropout(hidden[-1], self.config.dropout, self.training and with_dropout))

    def _hidden(self, fused: Tensor, with_dropout: bool = True) -> tuple[Tensor, ...]:
        """The fused vector, and what each hidden layer of the head makes of it."""
        hidden = [fused]
        for layer in self.head_layers:
            dropped = dropout(hidden[-1], self.config.dropout, self.training and with_dropout)
            hidden.append(F.relu(layer(dropped)))
        return tuple(hidden)

    def _losses(
        self,
        logits: Tensor,
        fused: Fused,
        unimodal: dict[str, Tensor],
        embeddings: dict[str, ModalityEmbedding],
        labels: Tensor,
    ) -> dict[str, Tensor]:
        problem_type = self.problem_type_of(labels)
        losses = {"task": task_loss(logits, labels, problem_type), **fused.losses}
        # Of every batch, whichever modalities it has: processes add up their logs term by term.
        for name in self.unimodal_heads:
            if name in unimodal:
                present = embeddings[name].present
                losses[f"unimodal_{name}"] = task_loss(unimodal[name], labels, problem_type, present)
            else:
                losses[f"unimodal_{name}"] = losses["task"].new_zeros(())
        return losses

    def _bottleneck_loss(
        self, vectors: dict[str, Tensor], fused: Tensor, embeddings: dict[str, ModalityEmbedding], labels: Tensor
    ) -> Tensor:
        problem_type = self.problem_type_of(labels)

        def likelihood(vectors: Mapping[str, Tensor]) -> Tensor:
            hidden = self._hidden(self.fuser(vectors, with_losses=False).vector, with_dropout=False)
            return log_likelihood(self._decide(hidden, with_dropout=False), labels, problem_type)

        present = {name: embedding.present for name, embedding in embeddings.items()}
        return self.bottleneck(vectors, fused, present, likelihood)

    def build_critics(self) -> nn.ModuleDict:
        return self.fuser.build_critics()

    def set_contributions(self, coefficients: dict[str, float]) -> dict[str, float]:
        """As in the base class; with a bottleneck, returns each modality's `beta_<modality>` (CAL, Eq. 9)."""
        return {} if self.bottleneck is None else self.bottleneck.set_coefficients(coefficients)

    @property
    def has_unimodal_heads(self) -> bool:
        return len(self.unimodal_heads) > 0

    @property
    def modules_outside_backbone(self) -> list[str]:
        # Without any encoder of others, its own ones are what has a rate apart from the head's.
        own = [f"encoders.{name}" for name in self.encoders if name not in self._traits] if self._traits else []
        fuser = ["fuser"] if any(True for _ in self.fuser.parameters()) else []
        heads = [f"unimodal_heads.{name}" for name in self.unimodal_heads]
        bottleneck = ["bottleneck"] if self.bottleneck is not None else []
        return [
            *own,
            *fuser,
            *bottleneck,
            *(f"head_layers.{index}" for index in range(len(self.head_layers))),
            "classifier",
            *heads,
        ]
