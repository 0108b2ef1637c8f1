"""Noise on the raw inputs of training samples."""

from itertools import islice

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, IterableDataset, Value

from hf_mmalign import (
    FusionConfig,
    FusionForSequenceClassification,
    MultimodalCollator,
    MultimodalProcessor,
    MultimodalTrainer,
    MultimodalTrainingArguments,
)
from hf_mmalign.data.schema import feature_sequence
from hf_mmalign.perturbation.noisy_data import RowNoise
from hf_mmalign.trainer.streams import EndlessStream
from tests.trainer.test_trainer import assert_same_weights
from tests.trainer.training import weights

NOISE = {"protocol": "clean", "kind": "gaussian", "epsilon": 10}
SIZES = {"audio": 3, "vision": 4}


class Recorder(MultimodalCollator):
    """Keeps the rows of every batch."""

    def __call__(self, rows):
        self.seen = [*getattr(self, "seen", []), *rows]
        return super().__call__(rows)


def rows(count: int = 8) -> list[dict]:
    draw = np.random.default_rng(0)
    return [
        {name: draw.normal(size=(4, size)).astype(np.float32) for name, size in SIZES.items()}
        | {"number": index, "label": index % 2}
        for index in range(count)
    ]


def build(folder, data=None, **arguments) -> MultimodalTrainer:
    torch.manual_seed(0)
    config = FusionConfig(feature_sizes=SIZES, hidden_size=8, num_labels=2, dropout=0.0)
    settings = {"max_steps": 8, "per_device_train_batch_size": 2, "logging_steps": 1, "save_strategy": "no"}
    settings |= {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-2, "seed": 1}
    return MultimodalTrainer(
        FusionForSequenceClassification(config),
        MultimodalTrainingArguments(str(folder), **settings | arguments),
        train_dataset=rows() if data is None else data,
        eval_dataset=rows(),
        data_collator=Recorder(MultimodalProcessor(), SIZES, "single_label_classification", 2),
    )


def noise_by_sample(seen: list[dict]) -> dict[int, list[float]]:
    """The size of the noise on each sample, in the order in which it was seen."""
    clean, found = rows(), {}
    for row in seen:
        size = sum(float(np.abs(row[name] - clean[row["number"]][name]).sum()) for name in SIZES)
        found.setdefault(row["number"], []).append(size)
    return found


def test_half_of_the_cells_are_disturbed_and_each_epoch_draws_anew(tmp_path):
    trainer = build(tmp_path, train_noise=NOISE)
    trainer.train()
    found = noise_by_sample(trainer.data_collator.seen)
    assert sorted(found) == list(range(8))
    assert all(len(sizes) == 2 for sizes in found.values())  # two epochs
    sizes = np.array(list(found.values()))
    assert 0 < (sizes > 0).mean() < 1
    assert (sizes[:, 0] != sizes[:, 1]).mean() > 0.5
    # Neither the caller's data nor an evaluation is disturbed.
    trainer.data_collator.seen = []
    trainer.evaluate()
    assert all(size == 0 for sizes in noise_by_sample(trainer.data_collator.seen).values() for size in sizes)
    assert trainer.train_dataset[0]["number"] == 0


def test_noise_depends_on_neither_batches_nor_processes(tmp_path):
    """Also where a process that loads data goes on from epoch to epoch."""
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    seen, losses = [], []
    for size, arguments in ((8, {}), (1, {}), (4, workers)):
        arguments |= {"gradient_accumulation_steps": 8 // size, "max_steps": 2, "learning_rate": 0.0}
        trainer = build(tmp_path, train_noise=NOISE, per_device_train_batch_size=size, **arguments)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        seen.append(noise_by_sample(getattr(trainer.data_collator, "seen", [])))
    assert seen[0] == seen[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][0] != pytest.approx(losses[0][1], rel=1e-4)


@pytest.mark.parametrize("at", [3, 4])
def test_resumed_equals_uninterrupted(tmp_path, at):
    """In the middle of an epoch, and at its end."""
    arguments = {"save_strategy": "steps", "save_steps": at, "train_noise": NOISE}
    whole = build(tmp_path, **arguments)
    whole.train()
    resumed = build(tmp_path / "resumed", **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
    # What is reloaded lies elsewhere in memory, where some CPUs round the last bit otherwise.
    assert_same_weights(weights(resumed.model), weights(whole.model), atol=2e-6, rtol=1e-4)


def stream(with_id: bool = True) -> IterableDataset:
    def generate(shards):
        for shard in shards:
            for row in rows()[4 * shard : 4 * shard + 4]:
                yield row | ({"id": f"row {row['number']}"} if with_id else {})

    return IterableDataset.from_generator(generate, gen_kwargs={"shards": [0, 1]})


def test_a_stream_has_a_draw_for_each_row_in_each_pass(tmp_path):
    trainer = build(tmp_path, stream(), train_noise=NOISE)
    trainer.train()
    found = noise_by_sample(trainer.data_collator.seen)
    assert sorted(found) == list(range(8))
    sizes = np.array([once[:2] for once in found.values()])
    assert 0 < (sizes > 0).mean() < 1
    assert (sizes[:, 0] != sizes[:, 1]).mean() > 0.5
    # Whichever process a row comes to, and whatever came before it, its noise is the same.
    shares = [EndlessStream(stream(), rank, 2, 1, RowNoise.of(NOISE, SIZES, 1)) for rank in (0, 1)]
    divided = noise_by_sample([row for share in shares for row in islice(share, 4)])
    assert {number: once[:1] for number, once in found.items()} == divided


def test_a_stream_without_ids_is_refused(tmp_path):
    with pytest.raises(ValueError, match="train_noise draws for a stream's rows by their 'id'; one has the columns"):
        build(tmp_path, stream(with_id=False), train_noise=NOISE).train()


def test_only_the_modalities_that_are_named(tmp_path):
    trainer = build(tmp_path, train_noise=NOISE | {"modalities": ["audio"]})
    trainer.train()
    clean = rows()
    changed = dict.fromkeys(SIZES, 0.0)
    for row in trainer.data_collator.seen:
        for name in SIZES:
            changed[name] += float(np.abs(row[name] - clean[row["number"]][name]).sum())
    assert changed["vision"] == 0
    assert changed["audio"] > 0


def test_white_noise_on_every_sample(tmp_path):
    trainer = build(tmp_path, train_noise={"snr": 10, "modalities": ["audio"]})
    trainer.train()
    sizes = np.array(list(noise_by_sample(trainer.data_collator.seen).values()))
    assert (sizes > 0).all()
    assert (sizes[:, 0] != sizes[:, 1]).all()


def test_white_noise_on_a_share_of_normalised_features(tmp_path):
    """A dimension in small units takes as much of it, measured in what the model reads, as the others."""
    small = [row | {"audio": row["audio"] * np.float32([1, 1, 1e-6])} for row in rows(64)]
    columns = {name: feature_sequence(size) for name, size in SIZES.items()} | {"number": Value("int64")}
    data = Dataset.from_list(small, features=Features(columns | {"label": Value("int64")})).with_format("numpy")
    trainer = build(tmp_path, data, max_steps=32, train_noise={"snr": 0, "share": 0.5, "modalities": ["audio"]})
    processor = trainer.data_collator.processor.fit_features(data)
    trainer.train()
    seen = trainer.data_collator.seen
    std = processor.feature_statistics["audio"].std.numpy()
    noise = np.stack([(row["audio"] - small[int(row["number"])]["audio"]) / std for row in seen])
    disturbed = np.abs(noise).max(axis=(1, 2)) > 1e-3
    assert 0.2 < disturbed.mean() < 0.8
    # 0 dB: a standard deviation of the normalised sample, which is near 1.
    assert noise[disturbed].std(axis=(0, 1)) == pytest.approx([1, 1, 1], abs=0.35)


def test_json_text_as_of_a_command_line(tmp_path):
    arguments = MultimodalTrainingArguments(
        str(tmp_path), train_noise='{"protocol": "qmf", "kind": "gaussian", "epsilon": 5}'
    )
    assert arguments.train_noise["epsilon"] == 5


@pytest.mark.parametrize(("noise", "message"), [
    ("qmf", "train_noise is, for example"),
    ({"protocol": "qmf", "kind": "gaussian"}, "'epsilon' is missing"),
    (NOISE | {"strength": 3}, "'strength' is no key of it"),
    (NOISE | {"protocol": "published"}, "train_noise: protocol is one of"),
    (NOISE | {"kind": "salt"}, "train_noise: kind is one of"),
    (NOISE | {"epsilon": -1}, "train_noise: epsilon is -1"),
    (NOISE | {"units": "imagenet"}, "train_noise: noise_units is one of"),
    ({"snr": "loud"}, "train_noise: snr: A signal-to-noise ratio is a finite number"),
    ({"snr": 10, "epsilon": 5}, "'epsilon' is no key of it"),
    ({"snr": 10, "share": 2}, "train_noise: snr: The share of the samples"),
])  # fmt: skip
def test_bad_arguments_are_refused_before_anything_is_built(tmp_path, noise, message):
    with pytest.raises(ValueError, match=message):
        MultimodalTrainingArguments(str(tmp_path), train_noise=noise)


def test_a_modality_or_a_data_set_that_it_cannot_be_put_on(tmp_path):
    with pytest.raises(ValueError, match=r"modalities has \['text'\], but there are \['audio', 'vision'\]"):
        build(tmp_path, train_noise=NOISE | {"modalities": ["text"]}).train()
    with pytest.raises(ValueError, match=r"train_noise needs a data set with rows by index, or a .*, not a Stream"):
        build(tmp_path, Stream(), train_noise=NOISE).train()


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(rows())
