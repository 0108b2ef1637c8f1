"""A Trainer goes round and round in a stream, divided among processes and workers, and resumes in the middle of it."""

import json
import sys
from itertools import chain, islice

import pytest
import torch
from datasets.distributed import split_dataset_by_node
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from hf_mmalign.trainer.streams import EndlessStream
from tests.trainer.streaming import numbered_stream, stream_trainer
from tests.trainer.test_trainer import run_script
from tests.trainer.training import weights

EVERY_STEP = {"save_strategy": "steps", "save_steps": 1, "logging_steps": 1}


def numbers_of(rows) -> list[int]:
    return [int(row["number"]) for row in rows]


def joined(lists) -> list[int]:
    return list(chain.from_iterable(lists))


@pytest.mark.parametrize("sizes", [[6, 6, 6, 6], [1, 11, 7, 3], [5, 9, 2], [13], [1, 3] * 13])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_in_each_pass_the_processes_together_see_each_row_once(sizes, world_size):
    stream, total = numbered_stream(sizes), sum(sizes)
    orders = []
    shares = [EndlessStream(stream, rank, world_size, 1) for rank in range(world_size)]
    for number in range(3):
        seen = [numbers_of(share._pass(number)) for share in shares]
        assert sorted(joined(seen)) == list(range(total))
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]
    # What a process reads is one pass after the other, without an end.
    for rank, share in enumerate(shares):
        expected = joined(orders[number][rank] for number in range(3))
        assert numbers_of(islice(share, len(expected))) == expected


def test_workers_divide_a_pass_too(tmp_path):
    sizes = [4, 8, 6, 2]
    for workers in (1, 2):
        loader = DataLoader(EndlessStream(numbered_stream(sizes), 0, 1, 1), batch_size=None, num_workers=workers)
        # The one with the least is in its second pass when the others are in their first.
        rows = numbers_of(islice(loader, 20 * workers))
        assert set(rows) == set(range(20))


def test_one_process_takes_a_divided_stream_as_it_is():
    stream = numbered_stream([4, 4])
    divided = EndlessStream(split_dataset_by_node(stream, 1, 2), 1, 2, 1)
    assert sorted(numbers_of(divided._pass(0))) == sorted(numbers_of(EndlessStream(stream, 1, 2, 1)._pass(0)))


def test_training_goes_through_all_rows_before_it_begins_again(tmp_path):
    trainer = stream_trainer(tmp_path, [3, 4, 5], max_steps=9, per_device_train_batch_size=4)
    trainer.train()
    seen = joined(trainer.data_collator.seen[:9])
    passes = [seen[start : start + 12] for start in (0, 12, 24)]
    assert all(sorted(one) == list(range(12)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert trainer.state.global_step == 9


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, workers, accumulation):
    """Passes have 10 rows, so that the run is interrupted in the second, and the third is divided otherwise."""
    settings = EVERY_STEP | {
        "max_steps": 6,
        "gradient_accumulation_steps": accumulation,
        "dataloader_num_workers": workers,
        "per_device_train_batch_size": 3,
    }
    whole = stream_trainer(tmp_path / "whole", [3, 5, 2], **settings)
    whole.train()
    resumed = stream_trainer(tmp_path / "resumed", [3, 5, 2], **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert resumed.state.global_step == 6
    expected = weights(whole.model)
    for name, tensor in weights(resumed.model).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0, equal_nan=True)
    if workers == 0:  # those that were trained on before are not collated again
        batches = 4 * accumulation
        assert (
            resumed.data_collator.seen == whole.data_collator.seen[batches : batches + len(resumed.data_collator.seen)]
        )


def test_more_workers_than_files_are_not_started(tmp_path):
    trainer = stream_trainer(tmp_path, [6, 6], max_steps=3, dataloader_num_workers=8)
    assert trainer.get_train_dataloader().num_workers == 2
    trainer.train()


def test_a_stream_without_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="process 0 of 1 finds no row in the training stream"):
        stream_trainer(tmp_path, [0], max_steps=2).train()


def test_a_stream_needs_max_steps(tmp_path):
    with pytest.raises(ValueError, match="max_steps has to be specified"):
        stream_trainer(tmp_path, [4], max_steps=-1)


@pytest.mark.slow
def test_two_processes_see_each_row_once_and_do_not_wait_for_each_other(tmp_path):
    """The files of one are much shorter than those of the other."""
    sizes = [2, 14, 4, 6]
    arguments = {"per_device_train_batch_size": 2, "ddp_backend": "gloo", "max_steps": 12}
    run_script(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "tests.trainer.streaming", str(tmp_path), json.dumps(sizes), "--arguments", json.dumps(arguments),
    )  # fmt: skip
    seen = [joined(json.loads((tmp_path / f"seen-{rank}.json").read_text())) for rank in range(2)]
    shares = [EndlessStream(numbered_stream(sizes), rank, 2, 2) for rank in range(2)]
    for rank, share in enumerate(shares):
        assert seen[rank] == numbers_of(islice(share, len(seen[rank])))
        assert len(seen[rank]) >= 24
    first = [numbers_of(share._pass(0)) for share in shares]
    assert sorted(first[0] + first[1]) == list(range(sum(sizes)))
    assert load_file(tmp_path / "final.safetensors")
