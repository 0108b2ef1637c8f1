"""The vocabulary of a run: where it comes from, and how it fits the texts."""

from dataclasses import fields
from functools import partial

from datasets import Dataset, DatasetDict, IterableDataset
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from ..data.errors import shown
from ..data.kept import kept
from ..data.processor import MultimodalProcessor
from ..data.streams import StreamedDatasetDict, fingerprints_of
from ..data.tokenizers import (
    TextFit,
    as_json,
    first_texts,
    from_json,
    has_tokenizer,
    load_tokenizer,
    spaced_texts,
    train_seq2seq_tokenizer_on,
    train_tokenizer_on,
)
from .arguments import Arguments, DataArguments
from .recipe import RecipeError
from .tasks import task_of

logger = logging.get_logger(__name__)

# What a run warns of, and how many texts it looks at for it.
_UNKNOWN_TOKENS = 0.02
_CUT_TEXTS = 0.05
_MOST_TEXTS_CHECKED = 4000


def build_tokenizer(
    arguments: DataArguments, checkpoint: str | None, dataset: DatasetDict | StreamedDatasetDict, generates: bool
) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, else the one that the recipe names, else one trained on the training split."""
    named = arguments.tokenizer_name_or_path
    if checkpoint is not None and named is None:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        if tokenizer.pad_token is None:  # of a language model, which was trained on texts of one length
            tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "right"
        return tokenizer
    if named is None:
        return _new_tokenizer(arguments, dataset, generates)
    if checkpoint is not None and has_tokenizer(checkpoint):
        raise RecipeError(
            f"tokenizer_name_or_path is {shown(named)}, but the checkpoint {checkpoint} brings the one that it was "
            "trained with; leave tokenizer_name_or_path out."
        )
    tokenizer = load_tokenizer(named, "tokenizer_name_or_path")
    needed = ("pad_token", "eos_token") if generates else ("pad_token", "cls_token", "sep_token")
    missing = [name for name in needed if getattr(tokenizer, name) is None]
    if missing:
        manner = (
            "of Marian's or T5's, which ends a text in </s>"
            if generates
            else "of BERT's, which wraps a text as [CLS] … [SEP]"
        )
        raise RecipeError(
            f"tokenizer_name_or_path: the tokenizer of {shown(named)} has no {', '.join(missing)}; expected one in the "
            f"manner {manner}."
        )
    if checkpoint is not None:
        known = AutoConfig.from_pretrained(checkpoint)
        size = (getattr(known, "text_config", None) or known).vocab_size
        if len(tokenizer) > size:
            raise RecipeError(
                f"tokenizer_name_or_path: the tokenizer of {shown(named)} has {len(tokenizer)} tokens, but the checkpoint "
                f"{checkpoint} knows {size}."
            )
    return tokenizer


def _new_tokenizer(
    arguments: DataArguments, dataset: DatasetDict | StreamedDatasetDict, generates: bool
) -> PreTrainedTokenizerBase:
    """One trained on the training split, or on it by an earlier run; of a translation on both languages together."""
    kind = arguments.tokenizer_type or ("sentencepiece" if generates else "wordpiece")
    if generates and kind == "wordpiece":
        raise RecipeError(
            "tokenizer_type: wordpiece loses case and spaces, which a translation needs; take sentencepiece."
        )
    size = arguments.tokenizer_vocab_size
    key = {"kind": kind, "vocab_size": size, "generates": generates, "data": fingerprints_of(dataset)["train"]}
    if generates:
        trained = partial(train_seq2seq_tokenizer_on, dataset["train"], size)
    else:
        trained = partial(train_tokenizer_on, dataset["train"], kind, size)
    return from_json(kept("tokenizer", key, lambda: as_json(trained())), generates)


def limit_text(processor: MultimodalProcessor, config, truncation: bool) -> None:
    """Let the processor know how long a text the model takes."""
    if processor.tokenizer is None:
        return
    processor.max_text_length = getattr(config, "max_text_length", None) or config.max_position_embeddings
    processor.truncation = truncation


def warn_of_texts(data: Dataset | IterableDataset, processor: MultimodalProcessor, arguments: Arguments) -> None:
    """Say where more than 2 % of the training texts' tokens are unknown, or more than 5 % of the texts are cut.

    At most 4000 evenly spaced texts are looked at, of a stream the first 4000.
    """
    if processor.tokenizer is None:
        return
    fit, limit = TextFit(), processor.max_text_length
    texts_of = first_texts if isinstance(data, IterableDataset) else spaced_texts
    for texts in texts_of(data, _MOST_TEXTS_CHECKED):
        fit.add(processor.tokenizer, texts, limit)
    if fit.unknown_share > _UNKNOWN_TOKENS:
        logger.warning_once(
            f"{fit.unknown_share:.1%} of the training texts' tokens are unknown to the tokenizer, and so the same to the "
            f"model; {_more_tokens(arguments)}."
        )
    if processor.truncation and fit.too_long_share > _CUT_TEXTS:
        logger.warning_once(
            f"{fit.too_long_share:.1%} of the training texts are longer than the {limit} tokens that the model takes, and "
            f"are cut; the longest has {fit.longest}.{_more_room(arguments)}"
        )


def _more_tokens(arguments: Arguments) -> str:
    """What to do where a tokenizer knows too little."""
    if arguments.model.text_model_name_or_path or arguments.model.model_name_or_path:
        return "start from a checkpoint that was trained on texts of their language"
    if arguments.data.tokenizer_name_or_path:
        return "name a tokenizer of their language, or leave tokenizer_name_or_path out to have one trained on them"
    ways = (
        "leave tokenizer_vocab_size out, so that it follows the texts; " if arguments.data.tokenizer_vocab_size else ""
    )
    if arguments.data.tokenizer_type in (None, "wordpiece") and not task_of(arguments.config_class).generates:
        ways += "set tokenizer_type: sentencepiece; "
    return f"{ways}or name a tokenizer of their language, tokenizer_name_or_path"


def _more_room(arguments: Arguments) -> str:
    """What to do where texts are cut."""
    names = {field.name for field in fields(arguments.config_class)}
    # Where there are encoders, the length that they take is the limit, unless a shorter one was asked for.
    if arguments.config.get("max_text_length") or ("max_text_length" in names and "encoders" not in names):
        return " A larger max_text_length takes more of them, in more memory and time."
    checkpoint = arguments.model.text_model_name_or_path or arguments.model.model_name_or_path
    if checkpoint or "text_config" not in names:
        return " Only another text encoder takes more of them."
    return " A larger max_position_embeddings in text_config takes more of them, in more memory and time."
