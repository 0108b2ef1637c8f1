"""`hf-mmalign data train-tokenizer`: a vocabulary from the texts of a training split."""

import argparse

from .source_options import add_source_options, options_of

_EXAMPLES = """examples:
  hf-mmalign data train-tokenizer multi30k path/to/multi30k --output tokenizer --vocab-size 8000 --option target=fr
  hf-mmalign data train-tokenizer table pairs.csv --output english --columns text
  hf-mmalign data train-tokenizer table tweets.csv --output tokenizer --type wordpiece --option label=mood

A recipe takes the folder as tokenizer_name_or_path; AutoTokenizer.from_pretrained reads it too.
"""


def add_parser(commands, formats: str) -> None:
    """Add `train-tokenizer` to the commands of `data`."""
    command = commands.add_parser(
        "train-tokenizer",
        help="train a vocabulary on the texts of a training split",
        description="Train a tokenizer on the training split of a data set and save it. Of texts to be translated it is a "
        "sentencepiece model of both languages together, which ends a text in </s>, as Marian and T5 do; else one in the "
        "manner of BERT.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("dataset", metavar="NAME_OR_FORMAT", help=formats)
    add_source_options(command)
    command.add_argument("--output", metavar="FOLDER", required=True, help="where the tokenizer's files go")
    command.add_argument("--vocab-size", metavar="N", type=int, help="largest vocabulary (default: follows the texts)")
    command.add_argument(
        "--type", choices=("wordpiece", "sentencepiece"), help="default: sentencepiece to translate, else wordpiece"
    )
    command.add_argument(
        "--columns",
        metavar="COLUMN",
        nargs="+",
        choices=("text", "target"),
        help="to translate: text, target, or both for one vocabulary of both languages (default: both)",
    )
    command.add_argument("--lowercase", action="store_true", help="to translate: lower the case of both languages")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `data train-tokenizer`; returns the exit status. Raises DataError for data or options that cannot be used."""
    options = options_of(args.option)
    if args.vocab_size is not None and args.vocab_size < 1:
        raise ValueError(f"--vocab-size is {args.vocab_size}; it is at least 1")

    from ..data.errors import DataError
    from ..data.loading import load_multimodal_dataset, modalities_of, problem_type_of
    from ..data.tokenizers import train_seq2seq_tokenizer_on, train_tokenizer_on

    dataset = load_multimodal_dataset(
        args.dataset, args.path, cache_dir=args.cache_dir, label_column=args.label_column, **options
    )
    modalities = modalities_of(dataset)
    if modalities.get("text") != "text":
        raise DataError(f"there is no text to train on; the modalities are {', '.join(modalities)}")
    if problem_type_of(dataset) == "translation":
        if args.type == "wordpiece":
            raise ValueError("--type wordpiece loses case and spaces, which a translation needs: take sentencepiece")
        columns = args.columns or ("text", "target")
        tokenizer = train_seq2seq_tokenizer_on(dataset["train"], args.vocab_size, args.lowercase, columns)
    else:
        if args.columns or args.lowercase:
            raise ValueError("--columns and --lowercase are for texts to be translated, and these have a label")
        tokenizer = train_tokenizer_on(dataset["train"], args.type or "wordpiece", args.vocab_size)
    tokenizer.save_pretrained(args.output)
    print(f"saved in {args.output}: {len(tokenizer)} tokens, from {len(dataset['train'])} training rows")
    return 0
