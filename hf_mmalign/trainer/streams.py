"""A training stream as a Trainer needs it: without an end, and divided among processes without loss or waiting."""

from collections.abc import Callable, Iterator
from inspect import signature
from itertools import count
from typing import Any

from accelerate.data_loader import prepare_data_loader
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import IterableDataset as TorchIterableDataset
from transformers import TrainingArguments

from ..perturbation.noisy_data import RowNoise

# Files for each process, from which on one more or less makes little difference.
_MANY = 8


class EndlessStream(TorchIterableDataset):
    """A process's share of a stream, pass after pass.

    In each pass the shares of all processes (and of their data loaders' workers) together are every row once. A stream that
    was shuffled comes in another order in each pass, the same for the same seed. A process that is through with its share
    goes on with that of the next pass, so none waits for another whose share is longer.

    Args:
        stream (`datasets.IterableDataset`): Of all processes. One that was divided by
            `datasets.distributed.split_dataset_by_node` already is taken for this process's share.
        rank, world_size (`int`): Which process of how many.
        batch_size (`int`): Rows in a batch of this process.
        noise (`RowNoise`, *optional*): Put on each row, with a draw of its own in each pass.

    Attributes:
        skipped_batches (`int`): So many batches are of None instead of rows: those of the run that is gone on with.
    """

    def __init__(
        self, stream: IterableDataset, rank: int, world_size: int, batch_size: int, noise: RowNoise | None = None
    ):
        divided = getattr(stream, "_distributed", None) is not None
        self.stream = stream
        self.rank, self.world_size = (0, 1) if divided else (rank, world_size)
        self.batch_size = batch_size
        self.noise = noise
        self.skipped_batches = 0

    @property
    def _strategy(self) -> dict[str, str]:
        """With many files, each process reads its own, even where their number does not divide evenly."""
        many = self.world_size > 1 and self.stream.num_shards >= _MANY * self.world_size
        return {"strategy": "shards"} if many and "strategy" in signature(split_dataset_by_node).parameters else {}

    @property
    def num_shards(self) -> int:
        """How many workers can read at the same time."""
        return self._pass(0).num_shards

    def _pass(self, number: int) -> IterableDataset:
        # A new object: workers share the memory that tells an object's epoch, and may be in different passes.
        share = split_dataset_by_node(self.stream, self.rank, self.world_size, **self._strategy)
        share.set_epoch(number)
        return share

    def _skipped_rows(self) -> int:
        """Of this worker: they make batches in turn."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return self.batch_size * max(0, -(-(self.skipped_batches - number) // workers))

    def __iter__(self) -> Iterator[Any]:
        skipped = self._skipped_rows()
        for number in count():
            empty = True
            for row in self._pass(number):
                empty = False
                yield None if skipped > 0 else row if self.noise is None else self.noise.of_stream(row, number)
                skipped -= 1
            if empty:
                if number == 0 and get_worker_info() is None:
                    raise ValueError(
                        f"process {self.rank} of {self.world_size} finds no row in the training stream; it has fewer rows "
                        "than there are processes, or none."
                    )
                return


class UnlessSkipped:
    """Collates rows; makes nothing of those that are skipped."""

    def __init__(self, collate: Callable):
        self.collate = collate

    def __call__(self, rows: list[Any]) -> Any:
        return {} if rows[0] is None else self.collate(rows)


def stream_loader(stream: EndlessStream, collate: Callable, arguments: TrainingArguments, device: Any) -> DataLoader:
    """A loader of a process's own batches, already divided, which go to the device and to no other process.

    (Accelerate's way with streams, one process that reads for all, joins their batches into one, which padding to different
    lengths forbids.)
    """
    workers = min(arguments.dataloader_num_workers, stream.num_shards)
    loader = DataLoader(
        stream,
        batch_size=stream.batch_size,
        collate_fn=UnlessSkipped(collate),
        num_workers=workers,
        pin_memory=arguments.dataloader_pin_memory,
        persistent_workers=arguments.dataloader_persistent_workers and workers > 0,
        prefetch_factor=arguments.dataloader_prefetch_factor if workers else None,
        multiprocessing_context=getattr(arguments, "dataloader_multiprocessing_context", None) if workers else None,
    )
    return prepare_data_loader(
        loader, device, num_processes=1, process_index=0, dispatch_batches=False, put_on_device=True
    )
