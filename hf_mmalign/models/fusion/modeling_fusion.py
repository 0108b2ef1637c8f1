"""Late fusion for classification and regression."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedConfig, PreTrainedModel

from ...layers.kernels.dropout import dropout
from ...layers.lstm_encoder import LSTMEncoder
from ...layers.pooling import masked_mean
from ...layers.sequence_transformer import SequenceTransformer
from ...losses.task import task_loss
from ..modeling_base import ModalityEmbedding, MultimodalModelMixin, MultimodalOutput, combine_losses
from .configuration_fusion import FusionConfig
from .encoders import (
    EncoderTraits,
    build_encoder,
    clean,
    encode,
    load_encoder,
    lora_targets,
    spectrogram_inputs,
    stages,
    wholly_frozen,
)
from .inputs import RawInputs, by_modality


class FusionForSequenceClassification(MultimodalModelMixin, PreTrainedModel):
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

    def __init__(self, config: FusionConfig):
        super().__init__(config)
        self.encoders = nn.ModuleDict()
        self._traits: dict[str, EncoderTraits] = {}
        self._from_elsewhere: set[str] = set()  # modalities whose encoder is a pretrained one, in files of its own
        for name in config.modalities:
            if name in config.encoders:
                self._set_encoder(name, build_encoder(config.encoders[name]))
            elif config.sequence_encoder(name) != "none":
                self.encoders[name] = self._sequence_encoder(name)
        width = sum(self.width_of(name) for name in config.modalities)
        widths = [width] + [config.head_hidden_size] * config.num_head_layers
        self.head_layers = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise(widths))
        self.classifier = nn.Linear(widths[-1], config.num_labels)
        self.unimodal_heads = nn.ModuleDict()
        if config.unimodal_heads:
            self.unimodal_heads.update(
                {name: nn.Linear(self.width_of(name), config.num_labels) for name in config.modalities}
            )
        self.post_init()
        self._freeze()

    def _sequence_encoder(self, name: str) -> nn.Module:
        config, size = self.config, self.config.feature_sizes[name]
        if config.sequence_encoder(name) == "lstm":
            return LSTMEncoder(size, config.hidden_size, config.num_encoder_layers, config.dropout)
        if config.sequence_encoder(name) == "transformer":
            layers, heads = config.num_encoder_layers, config.num_attention_heads
            return SequenceTransformer(size, config.hidden_size, layers, heads, config.dropout)
        return nn.Linear(size, config.hidden_size)

    @classmethod
    def from_encoders_pretrained(
        cls, feature_sizes: Mapping[str, int] | None = None, **fields: Any
    ) -> "FusionForSequenceClassification":
        """A new model around pretrained encoders.

        >>> model = FusionForSequenceClassification.from_encoders_pretrained(
        ...     text="google-bert/bert-base-uncased", image="timm/resnet18.a1_in1k", feature_sizes={"audio": 74}
        ... )

        Args:
            feature_sizes (`dict[str, int]`, *optional*): Width of every modality that comes as a feature sequence.
            fields: By the name of a modality, a folder or Hub name of an encoder that [`AutoModel`] loads; or what an entry
                of `encoders` may be, for one whose weights are random. All others are fields of [`FusionConfig`].

        Raises:
            ValueError: If an encoder's files lack weights.
            TypeError: For a name that is no field and has no encoder.
        """
        known = cls.config_class.known_arguments()
        named = {name: fields.pop(name) for name in list(fields) if name not in known}
        for name, value in named.items():
            if not isinstance(value, (str, Mapping, PreTrainedConfig)):
                raise TypeError(f"{name!r} is no field of {cls.config_class.__name__}, and {value!r} no encoder.")
        loaded = {name: load_encoder(value) for name, value in named.items() if isinstance(value, str)}
        encoders = {name: loaded[name].config if name in loaded else value for name, value in named.items()}
        model = cls(cls.config_class(feature_sizes=feature_sizes, encoders=encoders, **fields))
        for name, encoder in loaded.items():
            model._take_encoder(name, encoder)
        return model

    def load_encoder(self, name: str, source: str) -> None:
        """Take the weights of modality `name`'s encoder from a pretrained one of the same config, a folder or Hub name."""
        self.check_modality(name)
        if name not in self.config.encoders:
            raise ValueError(
                f"{name!r} has no pretrained encoder: the config's encoders are {list(self.config.encoders)}."
            )
        self._take_encoder(name, load_encoder(source, config=self.config.encoders[name]))

    def _take_encoder(self, name: str, encoder: PreTrainedModel) -> None:
        self._set_encoder(name, encoder)
        self._from_elsewhere.add(name)
        self._freeze()

    def _set_encoder(self, name: str, encoder: PreTrainedModel) -> None:
        self.encoders[name] = encoder
        self._traits[name] = EncoderTraits.of(name, encoder)

    def _freeze(self) -> None:
        for name in self.config.frozen:
            if name in self.encoders:
                self.encoders[name].requires_grad_(False)
        for name, count in self.config.frozen_stages.items():
            groups = stages(self.encoders[name])
            if count > len(groups):
                raise ValueError(f"frozen_stages has {name!r}: {count}, but its encoder has {len(groups)} stages.")
            for key in (key for group in groups[:count] for key in group):
                self.encoders[name].get_parameter(key).requires_grad_(False)
        chosen = {*self.config.frozen, *self.config.frozen_stages} & set(self.encoders)
        self._frozen = [
            f"encoders.{name}.{inner}".rstrip(".") for name in chosen for inner in wholly_frozen(self.encoders[name])
        ]
        self.train(self.training)

    def train(self, mode: bool = True) -> "FusionForSequenceClassification":
        """As of any module; what is frozen stays in evaluation mode, and batch norms whose weights do not train do."""
        super().train(mode)
        for name in self.__dict__.get("_frozen", ()) if mode else ():
            self.get_submodule(name).eval()
        for module in self.encoders.modules() if mode else ():
            # Under LoRA, say: an adapter would not save what the running statistics have become.
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()
        return self

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own; transformers guards its functions, so that loaded weights stay.
        if isinstance(module, (nn.Linear, nn.LSTM, nn.LayerNorm)):
            module.reset_parameters()

    def width_of(self, name: str) -> int:
        """Width of modality `name` after its encoder."""
        if name in self._traits:
            return self._traits[name].width
        return self.config.hidden_size if name in self.encoders else self.config.feature_sizes[name]

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
        hidden = self._fuse(vectors)
        logits = self._decide(hidden)
        unimodal = {name: self.unimodal_heads[name](vector) for name, vector in vectors.items() if self.unimodal_heads}

        loss, losses = None, None
        if labels is not None:
            losses = self._losses(logits, unimodal, embeddings, labels)
            loss = combine_losses(losses, self.config.loss_weights)
        with_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = MultimodalOutput(
            loss=loss,
            logits=logits,
            losses=losses,
            modality_features=vectors if output_modality_features else None,
            unimodal_logits=unimodal or None,
            hidden_states=hidden if with_states else None,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def embed_modalities(
        self,
        features: dict[str, Tensor] | None = None,
        feature_mask: dict[str, Tensor] | None = None,
        **raw: Any,
    ) -> dict[str, ModalityEmbedding]:
        """What the encoders make of each modality; those the batch misses are left out. Arguments as in `forward`."""
        given = self.clean_inputs(features=features, feature_mask=feature_mask).features
        raw = by_modality(self.config, type(self).__name__, RawInputs(**raw))
        embeddings = {}
        for name in self.config.modalities:
            if name in raw:
                inputs = self._without_empty_texts(clean(name, self._traits[name], raw[name]))
                embeddings[name] = self._encode(name, inputs)
            elif name in given:
                embeddings[name] = self._encode_sequence(name, *given[name])
        if not embeddings:
            raise ValueError(f"The batch holds none of the modalities {self.config.modalities}.")
        return embeddings

    def _encode(self, name: str, inputs: dict[str, Tensor]) -> ModalityEmbedding:
        return encode(self.encoders[name], self._traits[name], inputs, self.classifier.weight.dtype)

    def _encode_sequence(self, name: str, values: Tensor, mask: Tensor) -> ModalityEmbedding:
        if name in self._traits:
            steps = self.config.picture_steps.get(name)
            return self._encode(name, spectrogram_inputs(self._traits[name], values, mask, steps))
        values = values.to(self.classifier.weight.dtype)
        if name in self.encoders:
            kind = self.config.sequence_encoder(name)
            values = F.relu(self.encoders[name](values)) if kind == "mlp" else self.encoders[name](values, mask)
        return ModalityEmbedding(values, mask, mask)

    def _without_empty_texts(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """A text that has class token and separator only says nothing: it is missing."""
        if "input_ids" not in inputs:
            return inputs
        words = inputs["attention_mask"]
        for special in (self.config.cls_token_id, self.config.sep_token_id):
            words = words if special is None else words & (inputs["input_ids"] != special)
        return inputs | {"attention_mask": inputs["attention_mask"] & words.any(dim=1, keepdim=True)}

    def vectors_of(self, embeddings: dict[str, ModalityEmbedding]) -> dict[str, Tensor]:
        """Each modality's `(B, d_m)` vector, 0 for samples that miss it: the mean of its content, or its first token."""
        vectors = {}
        for name, embedding in embeddings.items():
            content = embedding.content_mask
            if self.config.pooling_of(name) == "cls":
                content = content & (content.cumsum(dim=1) == 1)
            vectors[name] = masked_mean(embedding.tokens.masked_fill(~content.unsqueeze(-1), 0), content)
        return vectors

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
        return self._decide(self._fuse(vectors))

    def _decide(self, hidden: tuple[Tensor, ...]) -> Tensor:
        return self.classifier(dropout(hidden[-1], self.config.dropout, self.training))

    def _fuse(self, vectors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The modalities' `(B, d_m)` vectors, zeros for those the batch misses, as one, and after each hidden layer."""
        present = next(iter(vectors.values()))
        batch = present.shape[0]
        fused = torch.cat(
            [
                vectors[name] if name in vectors else present.new_zeros(batch, self.width_of(name))
                for name in self.config.modalities
            ],
            dim=1,
        )
        hidden = [fused]
        for layer in self.head_layers:
            hidden.append(F.relu(layer(dropout(hidden[-1], self.config.dropout, self.training))))
        return tuple(hidden)

    def _losses(
        self, logits: Tensor, unimodal: dict[str, Tensor], embeddings: dict[str, ModalityEmbedding], labels: Tensor
    ) -> dict[str, Tensor]:
        problem_type = self.problem_type_of(labels)
        losses = {"task": task_loss(logits, labels, problem_type)}
        # Of every batch, whichever modalities it has: processes add up their logs term by term.
        for name in self.unimodal_heads:
            if name in unimodal:
                present = embeddings[name].present
                losses[f"unimodal_{name}"] = task_loss(unimodal[name], labels, problem_type, present)
            else:
                losses[f"unimodal_{name}"] = losses["task"].new_zeros(())
        return losses

    def modality_parameters(self, name: str) -> Iterator[nn.Parameter]:
        self.check_modality(name)
        return self.encoders[name].parameters() if name in self.encoders else iter(())

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs: Any) -> None:
        for name in self._traits:
            encoder = self.encoders[name]
            if getattr(encoder, "supports_gradient_checkpointing", False):
                encoder._set_gradient_checkpointing(enable, **kwargs)

    @property
    def modules_outside_backbone(self) -> list[str]:
        # Without any encoder of others, its own ones are what has a rate apart from the head's.
        own = [f"encoders.{name}" for name in self.encoders if name not in self._traits] if self._traits else []
        heads = [f"unimodal_heads.{name}" for name in self.unimodal_heads]
        return [*own, *(f"head_layers.{index}" for index in range(len(self.head_layers))), "classifier", *heads]

    @property
    def new_modules(self) -> list[str]:
        encoders = [f"encoders.{name}" for name in self.encoders if name not in self._from_elsewhere]
        names = dict.fromkeys((*encoders, *self.modules_outside_backbone))
        return [name for name in names if self._is_new(name)]

    @property
    def lora_targets(self) -> list[str]:
        """Queries and values, or convolutions, of the encoders that are not frozen; without such, each of its own."""
        targets = [
            f"encoders.{name}.{layer}"
            for name in self._traits
            if name not in self.config.frozen
            for layer in lora_targets(self.encoders[name])
        ]
        return targets or list(self.encoders)
