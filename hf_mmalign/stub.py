"""What a saved folder says to a transformers that has never heard of this package: where the code of its classes is.

The folder carries no code of ours, only a file that imports the package or says how to install it (see
:mod:`hf_mmalign.requires_hf_mmalign`), and names it under `auto_map`, the key by which transformers finds a repository's
own classes. Where the package is imported, its registered classes go before the file and nobody is asked to trust it.
"""

import os
import shutil
from pathlib import Path

_SOURCE = Path(__file__).with_name("requires_hf_mmalign.py")


def is_ours(class_: type) -> bool:
    """Whether a class is the package's own, which the file can find, and not one that somebody derived from it."""
    return class_.__module__.split(".")[0] == __package__


def write_stub(folder: str | os.PathLike, class_: type) -> str:
    """Put the file into a folder; returns what `auto_map` says there about `class_`, a public class of the package."""
    shutil.copyfile(_SOURCE, Path(folder) / _SOURCE.name)
    return f"{_SOURCE.stem}.{class_.__name__}"
