"""The encoders of a fusion model: any number of modalities, each through one of its own, to tokens and vectors."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from ...layers.lstm_encoder import LSTMEncoder
from ...layers.pooling import masked_mean
from ...layers.sequence_transformer import SequenceTransformer
from ..modeling_base import ModalityEmbedding, MultimodalModelMixin
from .configuration_encoders import FusionEncodersConfig
from .def_aaf import ClassCondition
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


class ModalityEncodersMixin(MultimodalModelMixin):
    """Mixed into a fusion model, whose config is a [`FusionEncodersConfig`]; its `__init__` calls :meth:`_build_encoders`
    first and :meth:`_freeze` last. Subclasses say what :attr:`_compute_dtype` is."""

    config: FusionEncodersConfig
    encoders: nn.ModuleDict
    fuser: nn.Module | None

    def _build_encoders(self) -> None:
        config = self.config
        self.encoders = nn.ModuleDict()
        self._traits: dict[str, EncoderTraits] = {}
        self._from_elsewhere: set[str] = set()  # modalities whose encoder is a pretrained one, in files of its own
        for name in config.modalities:
            if name in config.encoders:
                self._set_encoder(name, build_encoder(config.encoders[name]))
            elif name in config.feature_sizes and config.sequence_encoder(name) != "none":
                self.encoders[name] = self._sequence_encoder(name)

    @property
    def _compute_dtype(self) -> torch.dtype:
        """The dtype of the weights behind the encoders."""
        raise NotImplementedError

    def _sequence_encoder(self, name: str) -> nn.Module:
        config, size = self.config, self.config.feature_sizes[name]
        if config.sequence_encoder(name) == "lstm":
            return LSTMEncoder(size, config.hidden_size, config.num_encoder_layers, config.dropout)
        if config.sequence_encoder(name) == "transformer":
            layers, heads = config.num_encoder_layers, config.num_attention_heads
            return SequenceTransformer(size, config.hidden_size, layers, heads, config.dropout)
        return nn.Linear(size, config.hidden_size)

    @classmethod
    def from_encoders_pretrained(cls, feature_sizes: Mapping[str, int] | None = None, **fields: Any) -> Self:
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
        loaded = {name: load_encoder(name, value) for name, value in named.items() if isinstance(value, str)}
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
        self._take_encoder(name, load_encoder(name, source, self.config.encoders[name]))

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

    def train(self, mode: bool = True) -> Self:
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
        if isinstance(module, (nn.Linear, nn.LSTM, nn.LayerNorm, nn.Embedding)):
            module.reset_parameters()
        elif isinstance(module, _BatchNorm):  # whose own method fills its statistics unguarded
            for name in ("weight", "running_var"):
                init.ones_(getattr(module, name))
            for name in ("bias", "running_mean", "num_batches_tracked"):
                init.zeros_(getattr(module, name))
        elif isinstance(module, ClassCondition):
            init.zeros_(module.unknown)

    def width_of(self, name: str) -> int:
        """Width of modality `name` after its encoder."""
        if name in self._traits:
            return self._traits[name].width
        return self.config.hidden_size if name in self.encoders else self.config.feature_sizes[name]

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

    def _encoder_of(self, name: str) -> nn.Module:
        """What modality `name` passes through."""
        return self.encoders[name]

    def _encode(self, name: str, inputs: dict[str, Tensor]) -> ModalityEmbedding:
        return encode(self._encoder_of(name), self._traits[name], inputs, self._compute_dtype)

    def _encode_sequence(self, name: str, values: Tensor, mask: Tensor) -> ModalityEmbedding:
        if name in self._traits:
            steps = self.config.picture_steps.get(name)
            return self._encode(name, spectrogram_inputs(self._traits[name], values, mask, steps))
        values = values.to(self._compute_dtype)
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

    def gate_weights_of(self, **inputs: Any) -> dict[str, Tensor] | None:
        if self.fuser is None:
            return None
        embeddings = self._embed_with_hooks(**inputs)
        present = {name: embedding.present for name, embedding in embeddings.items()}
        return self.fuser(self.vectors_of(embeddings), present, with_losses=False).weights

    def modality_parameters(self, name: str) -> Iterator[nn.Parameter]:
        self.check_modality(name)
        return self.encoders[name].parameters() if name in self.encoders else iter(())

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs: Any) -> None:
        for name in self._traits:
            encoder = self.encoders[name]
            if getattr(encoder, "supports_gradient_checkpointing", False):
                encoder._set_gradient_checkpointing(enable, **kwargs)

    @property
    def new_modules(self) -> list[str]:
        encoders = [f"encoders.{name}" for name in self.encoders if name not in self._from_elsewhere]
        names = dict.fromkeys((*encoders, *self.modules_outside_backbone))
        return [name for name in names if self._is_new(name)]

    @property
    def lora_targets(self) -> list[str]:
        """Queries and values, or convolutions, of the pretrained encoders that are not frozen.

        Without a pretrained one, of those that may become it; without such, each of the model's own.
        """
        new = self.new_modules
        free = [name for name in self.encoders if name in self._traits and name not in self.config.frozen]
        pretrained = [name for name in free if f"encoders.{name}" not in new]
        layers = {name: lora_targets(self.encoders[name]) for name in pretrained or free}
        return [f"encoders.{name}.{layer}" for name, inner in layers.items() for layer in inner] or list(self.encoders)
