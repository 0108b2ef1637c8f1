"""The base contract: what every model of the package takes, returns and exposes."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import transformers
from packaging.version import Version
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.utils import ModelOutput

from ..losses.task import infer_problem_type
from ..ot.costs import no_autocast
from ..stub import is_ours

ADAPTER_FOLDERS_LOAD = Version(transformers.__version__) >= Version("5.20")


@dataclass(frozen=True)
class ModalityEmbedding:
    """One modality of a batch as the tokens that enter the model.

    Args:
        tokens (`torch.Tensor` of shape `(B, T, d)`): Embedded tokens.
        mask (`torch.BoolTensor` of shape `(B, T)`): Valid tokens, the ones attended to.
        content_mask (`torch.BoolTensor` of shape `(B, T)`): The valid tokens that carry the modality's own content;
            class tokens and separators are valid but no content, unless these tokens come from a contextual encoder, behind
            which each carries the whole modality. A sample whose content is empty misses the modality.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    content_mask: torch.Tensor

    @property
    def present(self) -> torch.Tensor:
        """`(B,)` bool: the samples that have this modality."""
        return self.content_mask.any(dim=1)


class CleanInputs(NamedTuple):
    """Raw inputs of a batch after :meth:`MultimodalModelMixin.clean_inputs`; names and shapes as in `forward`.

    `attention_mask` is there wherever `input_ids` is. `features` holds values `(B, T, D)` and mask `(B, T)` bool by name.
    """

    input_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None
    token_type_ids: torch.Tensor | None
    pixel_values: torch.Tensor | None
    pixel_mask: torch.Tensor | None
    features: dict[str, tuple[torch.Tensor, torch.Tensor]]


# The modality that each raw input of `forward` carries.
_RAW_MODALITIES = {"input_ids": "text", "pixel_values": "image"}

# Whether transformers is making a model from a folder: which of its weights are new is known afterwards only.
LOADING: ContextVar[bool] = ContextVar("LOADING", default=False)

ModalityHook = Callable[[dict[str, ModalityEmbedding]], dict[str, ModalityEmbedding]]


class AdversarialPair(NamedTuple):
    """Rows that a critic tells apart, and that a model is trained to make alike.

    Attributes:
        critic (`str`): Which of the model's critics.
        real, fake (`torch.Tensor` of shape `(B, d)`): What it should take for real, and what it should take for fake.
        counted (`torch.BoolTensor` of shape `(B,)`): The samples that have both.
        weight (`torch.Tensor` of shape `()`, *optional*): Of this term beside that of the config.
    """

    critic: str
    real: torch.Tensor
    fake: torch.Tensor
    counted: torch.Tensor
    weight: torch.Tensor | None = None


@dataclass
class MultimodalOutput(ModelOutput):
    """Output of every classification and regression model of the package.

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): Weighted sum of `losses`; present where labels were given.
        logits (`torch.FloatTensor` of shape `(B, num_labels)`): Scores before softmax or sigmoid; regressed values.
        losses (`dict[str, torch.FloatTensor]`, *optional*): Unweighted value of each loss component, by name.
        modality_features (`dict[str, torch.FloatTensor]`, *optional*): One `(B, d)` feature per modality, the mean of
            its encoded content tokens, where `output_modality_features=True`; zero for samples that miss it.
        unimodal_logits (`dict[str, torch.FloatTensor]`, *optional*): `(B, num_labels)` scores of each modality of the batch
            alone, of models that have a head for each.
        gate_weights (`dict[str, torch.FloatTensor]`, *optional*): `(B,)` weight of each modality of the batch in the fused
            vector, of models with a gate; those of a sample sum to 1, 0 where it misses the modality.
        codes (`dict[str, torch.FloatTensor]`, *optional*): `(B, d)` of each modality of the batch, of models whose fused
            vector is the sum of these, weighted by `gate_weights`.
        diagnostics (`dict[str, torch.FloatTensor]`, *optional*): `()` values by log name that show what a method does,
            where labels were given; no part of the loss.
        critic_inputs (`dict[str, tuple]`, *optional*): In training against critics, by loss component the critic's name and
            the detached real and fake rows, `(B, d)` each, and which of them count, `(B,)`.
        hidden_states, attentions (`tuple[torch.FloatTensor]`, *optional*): As in transformers.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    modality_features: dict[str, torch.Tensor] | None = None
    unimodal_logits: dict[str, torch.Tensor] | None = None
    gate_weights: dict[str, torch.Tensor] | None = None
    codes: dict[str, torch.Tensor] | None = None
    diagnostics: dict[str, torch.Tensor] | None = None
    critic_inputs: dict[str, tuple] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class _ModalityHookHandle(RemovableHandle):
    """Keeps the model's flag up to date: what a compiled forward pass depends on is whether there are hooks, not which."""

    def __init__(self, model: "MultimodalModelMixin", hooks: OrderedDict):
        super().__init__(hooks)
        self.model = model

    def remove(self) -> None:
        super().remove()
        self.model._has_modality_hooks = bool(self.model.__dict__["_modality_hooks"])


def combine_losses(losses: dict[str, torch.Tensor], weights: dict[str, float]) -> torch.Tensor:
    """The total loss: the one place where components are weighted and summed. Components not in `weights` weigh 1."""
    return sum(weights.get(name, 1.0) * value for name, value in losses.items())


class MultimodalModelMixin:
    """Mixed into every model. Subclasses implement :meth:`embed_modalities` and :meth:`modality_parameters`.

    `embed_modalities` is the only door between raw inputs and the rest of a model: everything that perturbs, drops or
    inspects modalities registers a hook there and so works for every model.
    """

    # Every loss is a mean over samples, which Trainer must divide by the accumulation steps. Without this it takes a
    # forward with keyword arguments for one that is normalised already and inflates all gradients.
    accepts_loss_kwargs = False
    # Whether `logits_of_embeddings` takes a small part of a forward pass: a head on what the encoders have computed.
    predicts_from_features = False
    _has_modality_hooks = False

    def embed_modalities(self, **inputs) -> dict[str, ModalityEmbedding]:
        """Embed raw inputs; a modality that the whole batch misses may be left out."""
        raise NotImplementedError

    def clean_inputs(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        features: dict[str, torch.Tensor] | None = None,
        feature_mask: dict[str, torch.Tensor] | None = None,
    ) -> CleanInputs:
        """Raw inputs as every model reads them: checked, and with nothing left of what stood under a mask of 0.

        Padding may hold anything, be it NaN or an id that no vocabulary has: multiplying by the mask, as attention and
        means do later, would not take that away. Arguments as in `forward`.

        Raises:
            ValueError: For inputs of a modality that the config does not name, or features of a wrong width.
        """
        self._check_inputs(features, feature_mask, {"input_ids": input_ids, "pixel_values": pixel_values})
        if input_ids is not None:
            attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            padded = ~attention_mask.bool()
            input_ids = input_ids.masked_fill(padded, self.config.padding_token_id)  # type: ignore[attr-defined]
            token_type_ids = None if token_type_ids is None else token_type_ids.masked_fill(padded, 0)
        if pixel_values is not None and pixel_mask is not None:
            pixel_values = pixel_values.masked_fill(~pixel_mask.bool().unsqueeze(1), 0)
        sequences = {}
        for name, values in (features or {}).items():
            mask = (feature_mask or {}).get(name)
            if mask is None:
                sequences[name] = values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
            else:
                sequences[name] = values.masked_fill(~mask.bool().unsqueeze(-1), 0), mask.bool()
        return CleanInputs(input_ids, attention_mask, token_type_ids, pixel_values, pixel_mask, sequences)

    def _check_inputs(self, features: dict | None, feature_mask: dict | None, raw: dict) -> None:
        config = self.config  # type: ignore[attr-defined]
        for argument, given in raw.items():
            name = _RAW_MODALITIES[argument]
            if given is not None and not config.is_native(name):
                raise ValueError(
                    f"{argument} was given, but {type(self).__name__} takes the modalities {config.modalities} and no "
                    f"raw {name}."
                )
        for name in {**(features or {}), **(feature_mask or {})}:
            if name not in config.feature_sizes:
                raise ValueError(
                    f"features has {name!r}, but this model's feature modalities are {list(config.feature_sizes)}."
                )
        for name, values in (features or {}).items():
            expected = config.feature_sizes[name]
            if values.dim() != 3 or values.shape[-1] != expected:
                raise ValueError(
                    f"features[{name!r}] has shape {tuple(values.shape)}; config.feature_sizes asks for (B, T, {expected})."
                )

    def refuse_embeddings(self, inputs_embeds: torch.Tensor | None) -> None:
        """Raise ValueError for `inputs_embeds`, which libraries around transformers pass to every model, mostly as None."""
        if inputs_embeds is not None:
            raise ValueError(
                f"{type(self).__name__} takes no inputs_embeds: its class tokens and separators are found by their ids. "
                "Give input_ids; to change embeddings, see register_modality_hook."
            )

    def modality_parameters(self, name: str) -> Iterator[nn.Parameter]:
        """The parameters that only modality `name` passes through, for modulation and learning rates of its own."""
        raise NotImplementedError

    def embedding_parameters(self, name: str) -> Iterator[nn.Parameter]:
        """Those of :meth:`modality_parameters` that lie in front of modality hooks: a hook reaches their gradient."""
        return self.modality_parameters(name)

    def logits_of_embeddings(self, embeddings: dict[str, ModalityEmbedding], inputs: dict[str, Any]) -> torch.Tensor:
        """The logits of a batch whose modalities have been embedded, and perhaps changed or masked, already.

        By default a whole forward pass, in which a hook puts `embeddings` in the place of what it embeds. A model that can
        go on from embeddings overrides it.

        Args:
            embeddings (`dict[str, ModalityEmbedding]`): As a modality hook sees them.
            inputs (`dict`): The batch they came from, as given to `forward`.

        Returns:
            `torch.Tensor` of shape `(B, num_labels)`.
        """
        handle = self.register_modality_hook(lambda _: embeddings)
        try:
            return self(**{key: value for key, value in inputs.items() if key != "labels"}).logits  # type: ignore[operator]
        finally:
            handle.remove()

    def gate_weights_of(self, **inputs) -> dict[str, torch.Tensor] | None:
        """How much of each modality of a batch is in its fused vector, `(B,)` by name as the outputs' `gate_weights`; None
        of models that do not weigh. `inputs` are those of `forward`, without labels."""
        return None

    def build_critics(self) -> nn.ModuleDict:
        """New critics, [`~layers.critics.Critic`], for a Trainer to train beside this model; none by default."""
        return nn.ModuleDict()

    def attach_critics(self, critics: nn.ModuleDict | None) -> None:
        """Let training ask these critics for the model's adversarial losses; they do not become part of the model."""
        self.__dict__["_critics"] = critics

    def _adversarial_terms(
        self, pairs: dict[str, AdversarialPair]
    ) -> tuple[dict[str, torch.Tensor], dict[str, tuple] | None]:
        """The adversarial loss components by name, and what critics are to be trained on; nothing without critics."""
        critics = self.__dict__.get("_critics")
        if not critics or not self.training or not pairs:  # type: ignore[attr-defined]
            return {}, None
        losses, inputs = {}, {}
        for name, pair in pairs.items():
            with no_autocast(pair.fake.device):
                real, fake = pair.real.float(), pair.fake.float()
                by_row = critics[pair.critic].generator_losses(real, fake, pair.counted)
                loss = by_row.masked_fill(~pair.counted, 0).sum() / pair.counted.sum().clamp(min=1)
            losses[name] = loss if pair.weight is None else loss * pair.weight
            inputs[name] = (pair.critic, real.detach(), fake.detach(), pair.counted)
        return losses, inputs

    def set_contributions(self, coefficients: dict[str, float]) -> dict[str, float]:
        """Take the modalities' coefficients a_m (CAL, Eq. 7), for losses that depend on them.

        Returns:
            `dict[str, float]`: What the model makes of them, by name in the log; nothing by default.
        """
        return {}

    @property
    def has_unimodal_heads(self) -> bool:
        """Whether its outputs have `unimodal_logits`, so that evaluation can score each modality's own head."""
        return False

    @property
    def modules_outside_backbone(self) -> list[str]:
        """Submodules beside the pretrained backbone, which take `learning_rate` where it has a rate of its own."""
        return ["classifier"]

    @classmethod
    def register_for_auto_class(cls, auto_class: str | type = "AutoModel") -> None:
        """Nothing to do: the package registers its models, and a saved folder names it instead of carrying its code."""
        if not is_ours(cls):
            super().register_for_auto_class(auto_class)  # type: ignore[misc]

    @property
    def new_modules(self) -> list[str]:
        """Submodules that adapters of peft must train and save whole: peft's `modules_to_save`, where they are added.

        Those are :attr:`modules_outside_backbone` without the ones that came with the checkpoint, as in a model of ours
        that is trained further; but with those that keep a state, which training changes in any case.
        """
        return [name for name in self.modules_outside_backbone if self._is_new(name)]

    @property
    def lora_targets(self) -> list[str]:
        """Layers that LoRA adapts where its config names none."""
        return ["query", "value"]

    def _is_new(self, module: str) -> bool:
        missing = self.__dict__.get("_missing_in_checkpoint")
        has_state = any(True for _ in self.get_submodule(module).buffers())  # type: ignore[attr-defined]
        return missing is None or has_state or any(key.startswith(f"{module}.") for key in missing)

    @classmethod
    def from_pretrained(cls, *args, output_loading_info: bool = False, **kwargs):
        """As in transformers; the model remembers which of its weights the checkpoint did not hold."""
        token = LOADING.set(True)
        try:
            model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        finally:
            LOADING.reset(token)
        if hasattr(model, "peft_config") and not ADAPTER_FOLDERS_LOAD:
            # They leave out an adapter's own modules without a word, and the logits are wrong.
            raise ValueError(
                f"transformers {transformers.__version__} does not load an adapter's folder whole; use "
                "PeftModel.from_pretrained(model, folder), or transformers 5.20 or newer."
            )
        if not hasattr(model, "peft_config"):  # of an adapter's folder, transformers tells what the adapter lacks
            model._missing_in_checkpoint = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
        return (model, info) if output_loading_info else model

    def register_modality_hook(self, hook: ModalityHook) -> RemovableHandle:
        """Call `hook(embeddings) -> embeddings` in every forward pass right after :meth:`embed_modalities`.

        Returns a handle whose ``remove()`` takes the hook out again. Hooks run in the order of registration.
        """
        hooks = self.__dict__.setdefault("_modality_hooks", OrderedDict())
        handle = _ModalityHookHandle(self, hooks)
        hooks[handle.id] = hook
        self._has_modality_hooks = True
        return handle

    def _embed_with_hooks(self, **inputs) -> dict[str, ModalityEmbedding]:
        embeddings = self.embed_modalities(**inputs)
        return self._call_hooks(embeddings) if self._has_modality_hooks else embeddings

    # No part of a compiled graph, which would be made anew for every hook: modality dropout registers one a step.
    @torch.compiler.disable
    def _call_hooks(self, embeddings: dict[str, ModalityEmbedding]) -> dict[str, ModalityEmbedding]:
        for hook in self.__dict__["_modality_hooks"].values():
            embeddings = hook(embeddings)
        return embeddings

    def comparable_tokens(self, embeddings: dict[str, ModalityEmbedding]) -> dict[str, ModalityEmbedding]:
        """The modalities' tokens where this model has them all side by side; by default as they are embedded.

        Args:
            embeddings (`dict[str, ModalityEmbedding]`): What :meth:`embed_modalities` returned.
        """
        return embeddings

    def problem_type_of(self, labels: torch.Tensor) -> str:
        """`config.problem_type`; where that is None, what the labels make it, written into the config.

        Not in a compiled graph: a config that changes has the graph compiled anew. [`MultimodalTrainer`] asks beforehand.
        """
        config = self.config  # type: ignore[attr-defined]
        problem_type = config.problem_type or infer_problem_type(labels, config.num_labels)
        if config.problem_type is None and not torch.compiler.is_compiling():
            config.problem_type = problem_type
        return problem_type

    def predictions_of(self, **inputs) -> torch.Tensor:
        """What is scored: `(B, num_labels)` logits, or, of a model that generates, `(B, T)` token ids."""
        return self(**inputs).logits  # type: ignore[operator]

    @property
    def needs_calibration(self) -> bool:
        """Whether something must be measured on the first training batch before any update (see :meth:`calibrate`)."""
        return False

    @property
    def calibration_batches(self) -> int:
        """Over how many global batches a Trainer measures it."""
        return 1

    def calibrate(self, batches: Iterable[dict]) -> None:
        """Measure, without gradient and in eval mode, what the losses refer to; `batches` make up one global batch or more.

        Collective: with torch.distributed initialised, every process must call it.
        """

    def check_modality(self, name: str) -> None:
        """Raise ValueError unless the config names this modality."""
        known = self.config.modalities  # type: ignore[attr-defined]
        if name not in known:
            raise ValueError(f"{type(self).__name__} knows the modalities {known}, not {name!r}.")
