"""Encoders that others have made: any of `AutoModel`, timm's among them. How to build one, and how to get tokens of it."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..modeling_base import ModalityEmbedding
from .lstm_text import LstmTextConfig, LstmTextModel

AutoConfig.register(LstmTextConfig.model_type, LstmTextConfig, exist_ok=True)
AutoModel.register(LstmTextConfig, LstmTextModel, exist_ok=True)

# What a modality is, by the input that its encoder takes.
KINDS = {"input_ids": "text", "pixel_values": "image", "input_values": "audio", "input_features": "audio"}
# What the mask of an input is called in `modality_inputs`.
MASKS = {"input_ids": "attention_mask", "pixel_values": "pixel_mask"} | dict.fromkeys(
    ("input_values", "input_features"), "audio_mask"
)
_TIMM = "timm_wrapper"
# The positions of these begin behind the padding's.
_SHIFTED_POSITIONS = {
    *("camembert", "data2vec-text", "esm", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm"),
    *("xlm-roberta", "xlm-roberta-xl", "xmod"),
}
# The names of layers for queries and values in transformers and timm.
_QUERIES_AND_VALUES = {
    *(
        "query",
        "query_proj",
        "query_projection",
        "q",
        "q_proj",
        "q_lin",
        "value",
        "value_proj",
        "value_projection",
        "v",
    ),
    *("v_proj", "v_lin", "linear_q", "linear_v", "qkv", "qkv_proj", "Wqkv", "c_attn"),
}
# Side of the picture by which an encoder shows the form of its output.
_PROBE_SIZE = 224


def encoder_config(name: str, value: Any) -> PreTrainedConfig:
    """The config of modality `name`'s encoder: as it is, or from a dict.

    `{"model_type": …, …}` is a config of transformers, `{"architecture": "resnet18", "in_chans": 1}` one of timm's, whose
    further keys are arguments of `timm.create_model`. Of two towers, as in CLIP, the modality `"text"` takes that of text,
    any other that of pictures.

    Raises:
        ValueError: For anything else, or an encoder that takes neither token ids nor pictures nor sound.
    """
    if isinstance(value, Mapping):
        value = _config_of(name, dict(value))
    if not isinstance(value, PreTrainedConfig):
        raise ValueError(
            f"encoders[{name!r}] is {value!r}; expected the config of an encoder, or a dict with its model_type or timm "
            "architecture. Pretrained weights, by folder or name, are loaded by from_encoders_pretrained, and by the key "
            "encoders of a recipe."
        )
    value = copy.deepcopy(value)
    towers = [getattr(value, tower, None) for tower in ("text_config", "vision_config")]
    if None not in towers:
        value = towers[0] if name == "text" else towers[1]
    value.dtype = None  # an encoder has that of the model around it
    main_input(name, value)
    return value


def _config_of(name: str, fields: dict[str, Any]) -> PreTrainedConfig:
    model_type = fields.pop("model_type", _TIMM if "architecture" in fields else None)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(f"encoders[{name!r}] has the model_type {model_type!r}, which transformers does not know.")
    if model_type == _TIMM:
        known = {"architecture", "model_args", "do_pooling", "initializer_range"}
        saved = "model_args" in fields or "num_classes" in fields or "pretrained_cfg" in fields
        for key in ("num_classes", "label_names"):  # of the classes that it once told apart
            fields.pop(key, None)
        if not saved:
            fields["model_args"] = {key: fields.pop(key) for key in list(fields) if key not in known} or None
    return AutoConfig.for_model(model_type, **fields)


def config_to_dict(config: PreTrainedConfig) -> dict[str, Any]:
    """What :func:`encoder_config` makes the same config of."""
    values = config.to_dict()
    for key in ("transformers_version", "label_names", "_name_or_path"):
        values.pop(key, None)
    return values


def main_input(name: str, config: PreTrainedConfig) -> str:
    """The input that an encoder of this config reads: one of `KINDS`. Raises ValueError for one of another kind."""
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"encoders[{name!r}] is a {type(config).__name__}, of which AutoModel makes no model.")
    model_class = MODEL_MAPPING[type(config)]
    model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    if model_class.main_input_name not in KINDS:
        raise ValueError(
            f"encoders[{name!r}] is a {model_class.__name__}, which takes {model_class.main_input_name}; expected one of "
            f"{', '.join(KINDS)}."
        )
    return model_class.main_input_name


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """A new encoder, without what is behind its last hidden states."""
    model = AutoModel.from_config(config)
    if config.model_type == _TIMM and model.device.type != "meta":
        # transformers draws the weights of every architecture from one normal distribution, as if all had its own layers.
        import timm

        fresh = timm.create_model(config.architecture, pretrained=False, num_classes=0, **config.model_args or {})
        for module in fresh.modules():
            module._is_hf_initialized = True  # by timm: transformers leaves such modules as they are
        model.timm_model = fresh
    return _bare(model)


def load_encoder(name: str, source: str, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """A pretrained encoder, from a folder or by its name on the Hub, without what is behind its last hidden states.

    Args:
        name (`str`): The modality.
        source (`str`): Folder or Hub name.
        config (`PreTrainedConfig`, *optional*): By default that of the source.

    Raises:
        ValueError: If its files lack weights, which would be random, or it is no encoder.
    """
    config = config or encoder_config(name, AutoConfig.from_pretrained(source))
    dtype = torch.get_default_dtype()  # whatever they were saved in
    model, info = AutoModel.from_pretrained(source, config=config, dtype=dtype, output_loading_info=True)
    config.dtype = None
    model = _bare(model)
    own = {name for name, _ in model.named_parameters()}
    missing = sorted(key for key in info["missing_keys"] if key in own)
    if missing:
        raise ValueError(
            f"{source} lacks weights of {type(model).__name__}, which would be random: {', '.join(missing[:3])}"
            f"{' …' if missing[3:] else ''}"
        )
    return model


def _bare(model: PreTrainedModel) -> PreTrainedModel:
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    # Nothing reads the pooled class token, and parameters without gradient stall distributed training.
    if getattr(model, "pooler", None) is not None and "add_pooling_layer" in _arguments(type(model).__init__):
        model.pooler = None
    return model


def _arguments(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


@dataclass(frozen=True)
class EncoderTraits:
    """What must be known of an encoder to call it.

    Args:
        main_input (`str`): One of `KINDS`.
        width (`int`): Of its tokens.
        arguments (`frozenset[str]`): Of its forward.
        channels (`int`, *optional*): Of the pictures that it takes.
        channels_last (`bool`): Whether its maps are `(B, H, W, d)`.
        pad_token_id (`int`): Stands for what is under a mask of 0 in a text.
        longest (`int`, *optional*): Longest text in tokens.
        steps (`int`, *optional*): Time steps of a spectrogram, where there must be so many.
        time_last (`bool`): Whether a spectrogram is `(B, D, S)`, as Whisper's.
        padded_with_silence (`bool`): Whether it was pretrained on sounds padded without a mask, as the Wav2Vec2 with group
            norm; a sample then depends a little on its batch.
    """

    main_input: str
    width: int
    arguments: frozenset[str]
    channels: int | None
    channels_last: bool
    pad_token_id: int
    longest: int | None
    steps: int | None
    time_last: bool
    padded_with_silence: bool

    @classmethod
    def of(cls, name: str, encoder: PreTrainedModel) -> "EncoderTraits":
        config, timm_model = encoder.config, getattr(encoder, "timm_model", None)
        convolution = next((module for module in encoder.modules() if isinstance(module, nn.Conv2d)), None)
        main = main_input(name, config)
        spectrogram = main == "input_values" and getattr(config, "num_mel_bins", None) is not None
        return cls(
            main_input=main,
            width=_width(name, encoder),
            arguments=_arguments(encoder.forward),
            channels=convolution and convolution.in_channels,
            channels_last=str(getattr(timm_model, "output_fmt", "NCHW")).endswith("NHWC"),
            pad_token_id=max(getattr(config, "pad_token_id", None) or 0, 0),
            longest=longest_text(config),
            steps=config.max_length if spectrogram else None,
            time_last=main == "input_features" and isinstance(getattr(encoder, "conv1", None), nn.Conv1d),
            padded_with_silence=getattr(config, "feat_extract_norm", None) == "group",
        )


def _width(name: str, encoder: PreTrainedModel) -> int:
    config = encoder.config
    if hasattr(encoder, "timm_model"):
        return encoder.timm_model.num_features
    if getattr(config, "add_adapter", False):
        return config.output_hidden_size
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", None)
    return _probed_width(name, config) if width is None else width


def _probed_width(name: str, config: PreTrainedConfig) -> int:
    """The width of the tokens of a picture encoder whose config has several widths, or none: tried without any values."""
    size = getattr(config, "image_size", None) or _PROBE_SIZE
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    try:
        with torch.device("meta"), torch.no_grad():
            model = AutoModel.from_config(config).eval()
            pixels = torch.zeros(1, getattr(config, "num_channels", 3), height, width)
            hidden = model(pixel_values=pixels).last_hidden_state
    except Exception as error:
        raise ValueError(
            f"encoders[{name!r}]: {type(config).__name__} does not say how wide its hidden states are, and a blank picture "
            f"does not tell: {error}"
        ) from error
    return hidden.shape[1] if hidden.dim() == 4 else hidden.shape[-1]


def longest_text(config: PreTrainedConfig) -> int | None:
    """How many tokens a text encoder takes; None for one that takes any number."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or getattr(config, "model_type", None) not in _SHIFTED_POSITIONS:
        return positions
    return positions - config.pad_token_id - 1


def encode(encoder: nn.Module, traits: EncoderTraits, inputs: Mapping[str, Tensor], dtype: torch.dtype):
    """Run an encoder on a batch of one raw modality.

    A sample that misses it is encoded as a copy of one that does not, so that neither batch norms nor attention see a
    blank; its tokens are masked. If no sample has it, running statistics stay as they were.

    Args:
        encoder (`nn.Module`): Of :func:`build_encoder` or :func:`load_encoder`.
        traits (`EncoderTraits`): What it is like.
        inputs (`Mapping[str, Tensor]`): As :func:`clean` gives them.
        dtype (`torch.dtype`): Of its weights.

    Returns:
        [`ModalityEmbedding`]: Tokens `(B, T, d)`; every valid one is content.
    """
    values, mask = inputs[traits.main_input], inputs[MASKS[traits.main_input]]
    present = mask.flatten(1).any(dim=1)
    rows = _stand_ins(present)
    values, seen = values[rows], mask[rows]
    seen = seen | ~seen.flatten(1).any(dim=1).view(-1, *[1] * (seen.dim() - 1))  # if no sample has it
    call, statistics = _CALLS[KINDS[traits.main_input]], _running_statistics(encoder)
    before = [value.clone() for value in statistics]
    tokens, valid = call(
        encoder, traits, values if values.dtype == torch.long else values.to(dtype), seen, inputs, rows
    )
    for value, former in zip(statistics, before, strict=True):
        # Behind autograd's back, as the layers themselves do it: backward reads the batch's own statistics.
        value.data.copy_(torch.where(present.any(), value, former))
    if tokens.shape[-1] != traits.width:
        raise ValueError(f"{type(encoder).__name__} gives tokens of width {tokens.shape[-1]}, and not {traits.width}.")
    valid = valid & present.unsqueeze(1)
    return ModalityEmbedding(tokens, valid, valid)


def _running_statistics(encoder: nn.Module) -> list[Tensor]:
    """Running means and variances that a forward pass changes."""
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm) and module.training]
    return [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]


def _stand_ins(present: Tensor) -> Tensor:
    """`(B,)` bool to the `(B,)` row that is encoded for each: its own, or, in turn, one of those that are present."""
    order = torch.argsort((~present).int(), stable=True)
    turn = (~present).cumsum(0) - 1
    count = present.sum().clamp(min=1)
    return torch.where(present, torch.arange(present.shape[0], device=present.device), order[turn % count])


def _encode_text(encoder, traits, ids, mask, inputs, rows) -> tuple[Tensor, Tensor]:
    if traits.longest is not None and ids.shape[1] > traits.longest:
        raise ValueError(
            f"A text of {ids.shape[1]} tokens is longer than the {traits.longest} positions of the text encoder. Truncate "
            "it."
        )
    given = {}
    if "attention_mask" in traits.arguments:
        given["attention_mask"] = mask.long()
    if "token_type_ids" in traits.arguments and inputs.get("token_type_ids") is not None:
        given["token_type_ids"] = inputs["token_type_ids"][rows]
    return encoder(ids, **given).last_hidden_state, mask


def _encode_image(encoder, traits, pixels, mask, inputs, rows) -> tuple[Tensor, Tensor]:
    given = {"do_pooling": False} if "do_pooling" in traits.arguments else {}
    # Convolutions follow the layout of their input, and this one is up to 1.7 times as fast for the same values.
    pixels = _with_channels(pixels, traits.channels).contiguous(memory_format=torch.channels_last)
    hidden = encoder(pixels, **given).last_hidden_state
    if hidden.dim() == 3:
        return hidden, mask.new_ones(hidden.shape[:2])
    if hidden.dim() == 2:
        return hidden.unsqueeze(1), mask.new_ones(hidden.shape[0], 1)
    size = hidden.shape[1:3] if traits.channels_last else hidden.shape[2:]
    tokens = hidden.flatten(1, 2) if traits.channels_last else hidden.flatten(2).transpose(1, 2)
    # A cell of the map counts where it has seen any valid pixel.
    return tokens, F.adaptive_max_pool2d(mask.float().unsqueeze(1), tuple(size)).flatten(1).bool()


def _with_channels(pixels: Tensor, channels: int | None) -> Tensor:
    """Grey pictures for encoders of coloured ones, and the other way round."""
    if channels is None or pixels.shape[1] == channels:
        return pixels
    if pixels.shape[1] == 1:
        return pixels.expand(-1, channels, -1, -1)
    if channels == 1:
        return pixels.mean(dim=1, keepdim=True)
    raise ValueError(f"The picture encoder takes {channels} channels, and the pictures have {pixels.shape[1]}.")


def _encode_audio(encoder, traits, values, mask, inputs, rows) -> tuple[Tensor, Tensor]:
    given = {}
    has_mask = traits.steps is None and "attention_mask" in traits.arguments
    if has_mask and not traits.padded_with_silence:
        given["attention_mask"] = mask.long()
    hidden = encoder(values, **given).last_hidden_state
    steps = hidden.shape[1]
    if has_mask and hasattr(encoder, "_get_feature_vector_attention_mask"):
        return hidden, encoder._get_feature_vector_attention_mask(steps, mask.long()).bool()
    if traits.steps is None and mask.shape[1] % steps == 0:  # so many steps became one
        return hidden, mask[:, :: mask.shape[1] // steps]
    return hidden, mask.new_ones(hidden.shape[:2])


# Each passes the main input by position: the wrappers of older peft take no call without one.
_CALLS = {"text": _encode_text, "image": _encode_image, "audio": _encode_audio}


def clean(name: str, traits: EncoderTraits, given: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """The inputs of one raw modality, with a bool mask, and nothing left of what stood under a mask of 0.

    Args:
        name (`str`): The modality, for errors.
        traits (`EncoderTraits`): Of its encoder.
        given (`Mapping[str, Tensor]`): `input_ids` `(B, T)`, `attention_mask`, `token_type_ids`; `pixel_values`
            `(B, C, H, W)`, `pixel_mask` `(B, H, W)`; or `input_values` `(B, S)` or `(B, S, D)` or `input_features`
            `(B, D, S)` or `(B, S, D)` and `audio_mask` `(B, S)`. Without a mask, all is valid.

    Raises:
        ValueError: For inputs that its encoder does not take.
    """
    main = traits.main_input
    mask_name = MASKS[main]
    inputs = {key: value for key, value in given.items() if value is not None}
    known = {main, mask_name} | ({"token_type_ids"} if main == "input_ids" else set())
    stray = sorted(set(inputs) - known)
    if stray or main not in inputs:
        raise ValueError(f"The encoder of {name!r} takes {sorted(known)}, and was given {sorted(inputs)}.")
    values, mask = inputs[main], inputs.get(mask_name)
    if mask is None:
        steps = values.shape[2:] if main == "pixel_values" or traits.time_last else values.shape[1:2]
        shape = (values.shape[0], *steps)
        return inputs | {mask_name: torch.ones(shape, dtype=torch.bool, device=values.device)}
    mask = mask.bool()
    if main == "input_ids":
        cleaned = {main: values.masked_fill(~mask, traits.pad_token_id)}
        if "token_type_ids" in inputs:
            cleaned["token_type_ids"] = inputs["token_type_ids"].masked_fill(~mask, 0)
        return cleaned | {mask_name: mask}
    if main == "pixel_values":
        return {main: values.masked_fill(~mask.unsqueeze(1), 0), mask_name: mask}
    over = mask.unsqueeze(1 if traits.time_last else 2) if values.dim() == 3 else mask
    return {main: values.masked_fill(~over, 0), mask_name: mask}


def spectrogram_inputs(traits: EncoderTraits, values: Tensor, mask: Tensor, steps: int | None) -> dict[str, Tensor]:
    """A feature sequence `(B, T, D)` and its mask as the inputs of an encoder of pictures, one of one channel, or of AST.

    With `steps`, the sequence is cut or padded to so many; then nothing depends on the other samples of the batch.
    """
    steps = steps or traits.steps
    if steps is not None:
        extra = steps - values.shape[1]
        values, mask = F.pad(values, (0, 0, 0, extra)), F.pad(mask, (0, extra))  # a negative number cuts
    if traits.main_input == "pixel_values":
        pixels = values.unsqueeze(1)
        return {"pixel_values": pixels, "pixel_mask": mask.unsqueeze(2).expand(-1, -1, pixels.shape[3])}
    return {traits.main_input: values, MASKS[traits.main_input]: mask}


def stages(encoder: nn.Module) -> list[list[str]]:
    """The parameters of an encoder by stage, first to last: the stem or the embeddings, then layer by layer.

    Those of timm are as timm groups them, by block or by stage of a convolutional network. What stands behind the last
    layer belongs to no stage.
    """
    timm_model = getattr(encoder, "timm_model", None)
    if timm_model is not None:
        from timm.models import group_parameters

        groups = group_parameters(timm_model, timm_model.group_matcher(coarse=True))
        return [[f"timm_model.{name}" for name in groups[key]] for key in sorted(groups)]
    stacks = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.ModuleList)}
    if not stacks:
        return [[name for name, _ in encoder.named_parameters()]]
    name = max(stacks, key=lambda name: sum(parameter.numel() for parameter in stacks[name].parameters()))
    names = [key for key, _ in encoder.named_parameters()]
    first = next(index for index, key in enumerate(names) if key.startswith(f"{name}."))
    layers = [[key for key in names if key.startswith(f"{name}.{index}.")] for index in range(len(stacks[name]))]
    return [names[:first], *layers]


def wholly_frozen(module: nn.Module) -> list[str]:
    """Names of the outermost submodules that have parameters of which none is trained; "" is the module itself."""
    if not any(True for _ in module.parameters()):
        return []
    if not any(parameter.requires_grad for parameter in module.parameters()):
        return [""]
    return [f"{name}.{inner}".rstrip(".") for name, child in module.named_children() for inner in wholly_frozen(child)]


def lora_targets(encoder: nn.Module) -> list[str]:
    """The layers of an encoder that LoRA adapts where its config names none: queries and values; without such, all linear
    layers and convolutions, but for those by group, which are of low rank already; without such, the word embeddings.
    """
    linear = [name for name, module in encoder.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    targets = [name for name in linear if name.rsplit(".", 1)[-1] in _QUERIES_AND_VALUES]
    others = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    ]
    return targets or others or [n for n, module in encoder.named_modules() if isinstance(module, nn.Embedding)]
