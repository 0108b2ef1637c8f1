"""Late fusion for classification and regression."""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...layers.kernels.dropout import dropout
from ...layers.pooling import masked_mean
from ...losses.task import task_loss
from ..modeling_base import ModalityEmbedding, MultimodalModelMixin, MultimodalOutput, combine_losses
from .configuration_fusion import FusionConfig


class FusionForSequenceClassification(MultimodalModelMixin, PreTrainedModel):
    """Classifies or regresses from one vector per modality: encode each time step, average over time, fuse, decide.

    Every modality may be missing from any sample or from a whole batch, in training and afterwards: its vector is 0.

    Args:
        config ([`FusionConfig`]): The configuration, with at least one modality.
    """

    config_class = FusionConfig
    config: FusionConfig
    base_model_prefix = "fusion"

    def __init__(self, config: FusionConfig):
        super().__init__(config)
        self.encoders = nn.ModuleDict()
        if config.encoder == "mlp":
            self.encoders.update(
                {name: nn.Linear(config.feature_sizes[name], config.hidden_size) for name in config.modalities}
            )
        width = sum(config.encoded_size(name) for name in config.modalities)
        widths = [width] + [config.head_hidden_size] * config.num_head_layers
        self.head_layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise(widths))
        self.classifier = nn.Linear(widths[-1], config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own; transformers guards its functions, so that loaded weights stay.
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(
        self,
        features: dict[str, Tensor] | None = None,
        feature_mask: dict[str, Tensor] | None = None,
        labels: Tensor | None = None,
        output_modality_features: bool = False,
        input_ids: None = None,
        attention_mask: None = None,
        token_type_ids: None = None,
        pixel_values: None = None,
        pixel_mask: None = None,
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
            input_ids, attention_mask, token_type_ids, pixel_values, pixel_mask, inputs_embeds (*optional*): None, as
                libraries pass them; this model takes neither raw text nor pictures.
            output_hidden_states (`bool`, *optional*): Return the fused vector and what each hidden layer of the head makes
                of it, `(B, d)` each.
            output_attentions (`bool`, *optional*): Without effect: there is no attention.
            return_dict (`bool`, *optional*): False gives a tuple.

        Raises:
            ValueError: For a modality the config does not name, a wrong feature width or a batch without any modality.
        """
        self.refuse_embeddings(inputs_embeds)
        embeddings = self._embed_with_hooks(
            input_ids=input_ids, pixel_values=pixel_values, features=features, feature_mask=feature_mask
        )
        vectors = {name: masked_mean(e.tokens, e.content_mask) for name, e in embeddings.items()}
        hidden = self._fuse(vectors)
        logits = self.classifier(dropout(hidden[-1], self.config.dropout, self.training))

        loss, losses = None, None
        if labels is not None:
            losses = {"task": task_loss(logits, labels, self.problem_type_of(labels))}
            loss = combine_losses(losses, self.config.loss_weights)
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = MultimodalOutput(
            loss=loss,
            logits=logits,
            losses=losses,
            modality_features=vectors if output_modality_features else None,
            hidden_states=hidden if with_states else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def embed_modalities(
        self,
        features: dict[str, Tensor] | None = None,
        feature_mask: dict[str, Tensor] | None = None,
        input_ids: None = None,
        pixel_values: None = None,
    ) -> dict[str, ModalityEmbedding]:
        """Encode each modality step by step; those the batch misses are left out. Arguments as in `forward`."""
        given = self.clean_inputs(
            input_ids=input_ids, pixel_values=pixel_values, features=features, feature_mask=feature_mask
        ).features
        embeddings = {}
        for name in self.config.modalities:
            if name not in given:
                continue
            values, mask = given[name]
            values = values.to(self.classifier.weight.dtype)
            tokens = F.relu(self.encoders[name](values)) if name in self.encoders else values
            embeddings[name] = ModalityEmbedding(tokens, mask, mask)
        if not embeddings:
            raise ValueError(f"The batch holds none of the modalities {self.config.modalities}.")
        return embeddings

    def _fuse(self, vectors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The modalities' `(B, d_m)` vectors, zeros for those the batch misses, as one, and after each hidden layer."""
        present = next(iter(vectors.values()))
        batch = present.shape[0]
        fused = torch.cat(
            [
                vectors[name] if name in vectors else present.new_zeros(batch, self.config.encoded_size(name))
                for name in self.config.modalities
            ],
            dim=1,
        )
        hidden = [fused]
        for layer in self.head_layers:
            hidden.append(F.relu(layer(dropout(hidden[-1], self.config.dropout, self.training))))
        return tuple(hidden)

    def modality_parameters(self, name: str) -> Iterator[nn.Parameter]:
        self.check_modality(name)
        return self.encoders[name].parameters() if name in self.encoders else iter(())

    @property
    def modules_outside_backbone(self) -> list[str]:
        return [*(f"head_layers.{index}" for index in range(len(self.head_layers))), "classifier"]

    @property
    def new_modules(self) -> list[str]:
        encoders = [f"encoders.{name}" for name in self.encoders]
        return [name for name in (*encoders, *self.modules_outside_backbone) if self._is_new(name)]

    @property
    def lora_targets(self) -> list[str]:
        return list(self.encoders)
