"""Fusion for translation: a decoder that attends to a text and to what other modalities say."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

from ...losses.translation import IGNORED, token_loss
from ..modeling_base import combine_losses
from .build_fusion import build_fusion
from .configuration_fusion_seq2seq import FusionSeq2SeqConfig
from .encoders import EncoderTraits, lora_targets
from .inputs import RawInputs
from .modality_encoders import ModalityEncodersMixin

# What :meth:`FusionForConditionalGeneration.encode` takes; the decoder needs none of it.
_INPUTS = ("features", "feature_mask", *(field.name for field in fields(RawInputs)))
# Longest translation in tokens, where nothing else says so.
_LONGEST = 128


@dataclass
class FusionMemory(ModelOutput):
    """What the decoder attends to.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, S, d)`): The memory's tokens.
        memory_mask (`torch.LongTensor` of shape `(B, S)`): 1 on those that are there.
        losses (`dict[str, torch.FloatTensor]`, *optional*): The fusion's own loss components.
        modality_features (`dict[str, torch.FloatTensor]`, *optional*): Each modality's `(B, d_m)` vector.
        gate_weights (`dict[str, torch.FloatTensor]`, *optional*): `(B,)` by modality, of fusions that weigh.
        critic_inputs (`dict[str, tuple]`, *optional*): As in [`MultimodalOutput`].
    """

    last_hidden_state: torch.Tensor | None = None
    memory_mask: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    modality_features: dict[str, torch.Tensor] | None = None
    gate_weights: dict[str, torch.Tensor] | None = None
    critic_inputs: dict[str, tuple] | None = None


@dataclass
class MultimodalSeq2SeqOutput(ModelOutput):
    """Output of the translation models of the package.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): Weighted sum of `losses`; present where labels were given.
        logits (`torch.FloatTensor` of shape `(B, T, V)`): Scores of the next token before softmax.
        losses (`dict[str, torch.FloatTensor]`, *optional*): Unweighted value of each loss component; `task` is the mean
            cross-entropy of the tokens.
        modality_features (`dict[str, torch.FloatTensor]`, *optional*): One `(B, d_m)` vector per modality, where
            `output_modality_features=True`; zero for samples that miss it.
        gate_weights, critic_inputs (`dict`, *optional*): As in [`MultimodalOutput`].
        past_key_values (`Cache`, *optional*): For the next token.
        encoder_last_hidden_state (`torch.FloatTensor` of shape `(B, S, d)`): The memory.
        decoder_hidden_states, decoder_attentions, cross_attentions (`tuple[torch.FloatTensor]`, *optional*): As in
            transformers.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    modality_features: dict[str, torch.Tensor] | None = None
    gate_weights: dict[str, torch.Tensor] | None = None
    critic_inputs: dict[str, tuple] | None = None
    past_key_values: Cache | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


class _MemoryEncoder:
    """The model without its decoder, in the form in which `generate` calls an encoder."""

    def __init__(self, model: "FusionForConditionalGeneration"):
        self.forward = model.encode

    def __call__(self, **inputs: Any) -> FusionMemory:
        return self.forward(**inputs)


class FusionForConditionalGeneration(ModalityEncodersMixin, PreTrainedModel, GenerationMixin):
    """Translates a text with the help of other modalities: any encoder–decoder of transformers, whose decoder attends to
    the text encoder's states and to memory tokens of the other modalities.

    Every modality, the text too, may be missing from any sample or from a whole batch, in training and afterwards.

    Args:
        config ([`FusionSeq2SeqConfig`]): The configuration.
    """

    config_class = FusionSeq2SeqConfig
    config: FusionSeq2SeqConfig
    base_model_prefix = "fusion_seq2seq"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: FusionSeq2SeqConfig):
        super().__init__(config)
        self._build_encoders()
        self._set_text_model(AutoModelForSeq2SeqLM.from_config(config.text_config))
        others = [name for name in config.modalities if name != "text"]
        width = self.width_of("text")
        self.fuser, self.memory_tokens = None, nn.ModuleDict()
        if others and config.fusion == "attention":
            self.memory_tokens.update({name: _memory_token(self.width_of(name), width) for name in others})
        elif others:
            widths = {name: self.width_of(name) for name in config.modalities}
            self.fuser = build_fusion(config, widths)
            self.memory_tokens["fused"] = _memory_token(self.fuser.width, width)
        self.post_init()
        self._freeze()
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            setattr(self.generation_config, name, getattr(config, name))
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            setattr(self.generation_config, name, getattr(self.text_model.generation_config, name, None))
        if self.generation_config.max_length in (None, 20):  # transformers' own default cuts translations
            self.generation_config.max_length = min(config.max_position_embeddings or _LONGEST, _LONGEST)

    def _set_text_model(self, model: PreTrainedModel) -> None:
        self.text_model = model
        self._traits["text"] = EncoderTraits.of("text", model.get_encoder())

    def load_text_encoder(self, source: str) -> None:
        """Take the weights of the encoder–decoder from a pretrained one of the same config, a folder or Hub name."""
        model = AutoModelForSeq2SeqLM.from_pretrained(source, config=self.config.text_config)
        self._set_text_model(model)
        self._from_elsewhere.add("text")
        self._freeze()

    @classmethod
    def from_encoders_pretrained(cls, feature_sizes=None, *, text: str | None = None, **fields: Any):
        """As of the other fusion models; `text` is the folder or Hub name of a pretrained encoder–decoder.

        >>> model = FusionForConditionalGeneration.from_encoders_pretrained(
        ...     text="Helsinki-NLP/opus-mt-en-de", image="timm/resnet18.a1_in1k"
        ... )
        """
        if text is None:
            return super().from_encoders_pretrained(feature_sizes, **fields)
        model = super().from_encoders_pretrained(feature_sizes, text_config=AutoConfig.from_pretrained(text), **fields)
        model.load_text_encoder(text)
        return model

    @property
    def _compute_dtype(self) -> torch.dtype:
        return self.text_model.get_input_embeddings().weight.dtype

    def _encoder_of(self, name: str) -> nn.Module:
        return self.text_model.get_encoder() if name == "text" else super()._encoder_of(name)

    def _freeze(self) -> None:
        if "text" in self.config.frozen:
            self.text_model.get_encoder().requires_grad_(False)
        super()._freeze()

    def get_encoder(self, modality: str | None = None) -> _MemoryEncoder:
        """What makes the decoder's memory, to be called as :meth:`encode`."""
        return _MemoryEncoder(self)

    def get_decoder(self) -> nn.Module:
        return self.text_model.get_decoder()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.text_model.get_output_embeddings()

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """`(B, T)` labels to what the decoder is given: the start token, and each token where the next one is asked."""
        ids = labels.new_full(labels.shape, self.config.decoder_start_token_id)
        ids[:, 1:] = labels[:, :-1]
        return ids.masked_fill(ids == IGNORED, self.config.pad_token_id)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        features: dict[str, Tensor] | None = None,
        feature_mask: dict[str, Tensor] | None = None,
        token_type_ids: torch.LongTensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        input_features: Tensor | None = None,
        audio_mask: Tensor | None = None,
        modality_inputs: dict[str, dict[str, Tensor]] | None = None,
        encoder_outputs: FusionMemory | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        output_modality_features: bool = False,
        inputs_embeds: None = None,
        decoder_inputs_embeds: None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MultimodalSeq2SeqOutput | tuple:
        r"""
        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): The text; a row of zeros in the mask
                is a sample without it.
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*): Ids of the translation, its end token included, -100
                where there is none. The loss is computed with labels only.
            decoder_input_ids, decoder_attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*): What the decoder is
                given; by default the labels, one to the right.
            features, feature_mask, token_type_ids, pixel_values, pixel_mask, input_values, input_features, audio_mask, \
            modality_inputs: As in [`FusionForSequenceClassification`].
            encoder_outputs ([`FusionMemory`], *optional*): What :meth:`encode` returned; the inputs above are then unread.
            past_key_values, use_cache (*optional*): As in transformers.
            output_modality_features (`bool`): Return the vector of every modality.
            inputs_embeds, decoder_inputs_embeds (*optional*): None, as libraries pass them.
            output_attentions, output_hidden_states (`bool`, *optional*): Those of the decoder.
            return_dict (`bool`, *optional*): False gives a tuple.

        Raises:
            ValueError: For a modality the config does not name, inputs that its encoder does not take, a wrong feature
                width, a batch without any modality, or neither labels nor decoder_input_ids.
        """
        self.refuse_embeddings(inputs_embeds if decoder_inputs_embeds is None else decoder_inputs_embeds)
        if labels is not None and decoder_input_ids is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if decoder_input_ids is None:
            raise ValueError("Give labels or decoder_input_ids, or call generate, which needs neither.")
        if encoder_outputs is None:
            encoder_outputs = self.encode(
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
                with_losses=labels is not None,
            )
        decoded = self.text_model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_outputs.last_hidden_state),
            attention_mask=encoder_outputs.memory_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            use_cache=use_cache if labels is None else False,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        loss, losses = None, None
        if labels is not None:
            smoothing = self.config.label_smoothing if self.training else 0.0
            losses = {"task": token_loss(decoded.logits, labels, smoothing), **(encoder_outputs.losses or {})}
            loss = combine_losses(losses, self.config.loss_weights)
        output = MultimodalSeq2SeqOutput(
            loss=loss,
            logits=decoded.logits,
            losses=losses,
            modality_features=encoder_outputs.modality_features if output_modality_features else None,
            gate_weights=encoder_outputs.gate_weights,
            critic_inputs=encoder_outputs.critic_inputs,
            past_key_values=decoded.past_key_values,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            decoder_hidden_states=decoded.decoder_hidden_states,
            decoder_attentions=decoded.decoder_attentions,
            cross_attentions=decoded.cross_attentions,
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def encode(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        with_losses: bool = True,
        **inputs: Any,
    ) -> FusionMemory:
        """The decoder's memory of a batch, and unless `with_losses` is False the fusion's losses; `inputs` are the others
        of :meth:`forward`, and three are without effect, which `generate` passes to an encoder."""
        embeddings = self._embed_with_hooks(input_ids=input_ids, attention_mask=attention_mask, **inputs)
        vectors = self.vectors_of(embeddings)
        parts, losses, weights, critic_inputs = [], {}, None, None
        if "text" in embeddings:
            parts.append((embeddings["text"].tokens, embeddings["text"].mask))
        if self.fuser is not None:
            present = {name: embedding.present for name, embedding in embeddings.items()}
            fused = self.fuser(vectors, present, with_losses=with_losses)
            adversarial, critic_inputs = self._adversarial_terms(fused.pairs or {})
            losses, weights = fused.losses | adversarial, fused.weights
            anything = torch.stack(list(present.values())).any(dim=0)
            parts.append((self.memory_tokens["fused"](fused.vector).unsqueeze(1), anything.unsqueeze(1)))
        else:
            parts += [
                (self.memory_tokens[name](embedding.tokens), embedding.mask)
                for name, embedding in embeddings.items()
                if name != "text"
            ]
        tokens, mask = torch.cat([part[0] for part in parts], dim=1), torch.cat([part[1] for part in parts], dim=1)
        tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0)
        # A sample without anything is given one blank token: nothing to attend to would make NaN.
        blank = ~mask.any(dim=1, keepdim=True)
        mask = mask | (blank & (torch.arange(mask.shape[1], device=mask.device) == 0))
        return FusionMemory(tokens, mask.long(), losses, vectors, weights, critic_inputs)

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *positional: Any, labels: Tensor | None = None, **keywords: Any):
        """As [`GenerationMixin.generate`]: translate a batch, with beams, sampling and whatever else it offers.

        Args:
            inputs (`torch.LongTensor` of shape `(B, S)`, *optional*): Stands for `input_ids`.
            labels (*optional*): Unread, so that a batch with labels may be passed as it is.
            keywords: The inputs of :meth:`forward`, and the arguments of [`GenerationMixin.generate`].
        """
        given = {name: keywords.pop(name) for name in _INPUTS if name in keywords}
        if inputs is not None:
            given["input_ids"] = inputs
        memory = keywords.pop("encoder_outputs", None)
        if memory is None:
            memory = self.encode(**given, with_losses=False)
        # Of tensors by row only, which beams multiply.
        memory = FusionMemory(memory.last_hidden_state, memory.memory_mask)
        keywords |= {"encoder_outputs": memory, "attention_mask": memory.memory_mask}
        return super().generate(None, *positional, **keywords)

    def predictions_of(self, **inputs: Any) -> Tensor:
        """`(B, T)` ids of the translations of a batch, as `generation_config` makes them, padded to its `max_length`."""
        ids = self.generate(**inputs)
        longest = self.generation_config.max_length or 0
        return F.pad(ids, (0, max(0, longest - ids.shape[1])), value=self.config.pad_token_id)

    def build_critics(self) -> nn.ModuleDict:
        return nn.ModuleDict() if self.fuser is None else self.fuser.build_critics()

    def problem_type_of(self, labels: Tensor) -> str:
        return self.config.task

    def modality_parameters(self, name: str) -> Iterator[nn.Parameter]:
        self.check_modality(name)
        return self.text_model.get_encoder().parameters() if name == "text" else super().modality_parameters(name)

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs: Any) -> None:
        self.text_model._set_gradient_checkpointing(enable, **kwargs)
        super()._set_gradient_checkpointing(enable, **kwargs)

    @property
    def modules_outside_backbone(self) -> list[str]:
        own = [f"encoders.{name}" for name in self.encoders if name not in self._traits]
        fuser = ["fuser"] if self.fuser is not None and any(True for _ in self.fuser.parameters()) else []
        return [*own, *fuser, *(f"memory_tokens.{name}" for name in self.memory_tokens)]

    @property
    def lora_targets(self) -> list[str]:
        """Queries and values of the encoder–decoder, and of the encoders that are not frozen."""
        own = [f"text_model.{layer}" for layer in lora_targets(self.text_model)]
        others = [name for name in self._traits if name != "text" and name not in self.config.frozen]
        return own + [f"encoders.{name}.{layer}" for name in others for layer in lora_targets(self.encoders[name])]


def _memory_token(width: int, hidden: int) -> nn.Sequential:
    """To the width of the memory, at the scale of the states of encoders that end in a layer norm."""
    return nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden))
