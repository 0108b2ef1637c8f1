"""Gradient modulation in training: what is scaled, by how much, and that nothing else changes."""

import json
import sys
import warnings

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from hf_mmalign import FusionConfig, MultimodalTrainer, MultimodalTrainingArguments
from hf_mmalign.losses.contribution import log_likelihood
from hf_mmalign.perturbation.modalities import MissingModality, perturbed
from hf_mmalign.trainer.modulation import ContributionGuided, OnTheFly
from tests.families import FAMILIES, build
from tests.tiny import rows_of
from tests.trainer.test_resume import assert_same_run
from tests.trainer.test_trainer import assert_same_weights, run_script, train_log
from tests.trainer.training import Samples, build_fusion, build_model, build_trainer, collate, weights

SGD = {"optim": "sgd", "learning_rate": 0.1}
CAL = {"gradient_modulation": "cal", "modulation_update_steps": 1}
# On labels drawn at random nothing contributes, and products stay 0.
MOVING = {"gradient_modulation": "cal", "contribution_variant": "phi_plus_potential"}
EVERY_STEP = {"save_strategy": "steps", "save_steps": 1}


class Rows(torch.utils.data.Dataset):
    def __init__(self, batch: dict, labels: torch.Tensor):
        self.batch, self.size = batch | {"labels": labels}, len(labels)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        return rows_of(self.batch, [index])


def trained(folder, model, trainer_keywords=None, **arguments):
    trainer = build_trainer(folder, model, trainer_keywords, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*(pin_memory|lr_scheduler).*")
        trainer.train()
    return trainer


def one_step(tmp_path, family: str, **arguments) -> dict[str, torch.Tensor]:
    model, batch, labels = build(family)
    before = weights(model)
    trained(tmp_path, model, {"train_dataset": Rows(batch, labels)}, max_steps=1, **arguments)
    return {name: value - before[name] for name, value in weights(model).items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("mode", "optim"), [("gradient", "sgd"), ("lr", "sgd"), ("lr", "adamw_torch")])
def test_what_lies_in_front_of_the_hook_is_scaled_and_nothing_else(tmp_path, monkeypatch, family, mode, optim):
    first = lambda self: [0.5, 0.2, 0.3, 0.1, 0.4][: len(self.modalities)]  # noqa: E731
    monkeypatch.setattr(ContributionGuided, "first_coefficients", first)
    settings = {"optim": optim, "learning_rate": 1e-2, "max_grad_norm": 0.0}
    plain = one_step(tmp_path, family, **settings)
    found = one_step(tmp_path, family, **settings, gradient_modulation="cal", modulation_mode=mode, modulation_eta=2.0)
    model = build(family)[0]
    factors = dict(zip(model.config.modalities, [2.0, 1.4, 1.6, 1.2, 1.8], strict=False))
    names = {parameter: name for name, parameter in model.named_parameters()}
    scaled = {names[p]: factors[name] for name in factors for p in model.embedding_parameters(name)}
    assert len(set(scaled.values())) == len(factors)
    # ViLT's modality types stand in front of the hook for all modalities together.
    shared = {"vilt.embeddings.token_type_embeddings.weight"} if mode == "gradient" else set()
    for name, change in plain.items():
        expected = change * scaled[name] if name in scaled else change
        if name not in shared:
            assert_same_weights({name: found[name]}, {name: expected}, atol=2e-6, rtol=2e-3)
    assert any(change.abs().max() > 1e-4 for name, change in plain.items() if name in scaled)


@pytest.mark.parametrize("model", [build_model, build_fusion])
@pytest.mark.parametrize("mode", ["gradient", "lr"])
def test_measuring_alone_changes_nothing(tmp_path, model, mode):
    fields = {"hidden_dropout_prob": 0.2} if model is build_model else {"dropout": 0.2}
    settings = SGD | {"max_steps": 5, "modality_dropout": 0.3}
    plain = trained(tmp_path, model(**fields), **settings)
    measuring = CAL | {"modulation_eta": 0.0, "modulation_measure_steps": 1, "modulation_mode": mode}
    found = trained(tmp_path, model(**fields), **settings, **measuring)
    assert "phi_audio" in train_log(found)[-1]
    assert_same_weights(weights(found.model), weights(plain.model), atol=1e-6, rtol=1e-5)


def test_contributions_are_those_of_the_model_with_a_modality_missing(tmp_path):
    for model in (build_fusion(), build_model()):
        data = Samples(text="text" in model.config.modalities)
        batch = collate([data[index] for index in range(16)])
        labels, names = batch["labels"], model.config.modalities

        def predicted(*missing, model=model, batch=batch):
            with torch.no_grad(), perturbed(model.eval(), *(MissingModality(name, mode="mask") for name in missing)):
                return model(**{key: value for key, value in batch.items() if key != "labels"}).logits

        expected = {}
        full = log_likelihood(predicted(), labels, "single_label_classification")
        for name in names:
            gain = full - log_likelihood(predicted(name), labels, "single_label_classification")
            others = [other for other in names if other != name]
            has = batch["feature_mask"][name].any(1) if name != "text" else torch.ones(16, dtype=torch.bool)
            right = predicted(*others).argmax(1) == labels
            expected |= {f"phi_{name}": gain.mean().item(), f"performance_{name}": right[has].float().mean().item()}
        trainer = trained(tmp_path, model, **SGD, **CAL, max_steps=1, per_device_train_batch_size=16)
        entry = train_log(trainer)[0]
        assert {key: entry[key] for key in expected} == pytest.approx(expected, abs=1e-5)
        for name in names:
            potential = 0.5 * (1 - entry[f"performance_{name}"])
            assert entry[f"potential_{name}"] == pytest.approx(potential)
            assert entry[f"contribution_{name}"] == pytest.approx(max(0, entry[f"phi_{name}"]) * potential)
        worth = torch.tensor([entry[f"contribution_{name}"] for name in names])
        coefficients = [entry[f"coefficient_{name}"] for name in names]
        assert coefficients == pytest.approx((4 * worth).softmax(0).tolist(), abs=1e-6)


def test_a_modality_with_a_head_of_its_own_performs_as_that_says(tmp_path):
    model = build_fusion(unimodal_heads=True, dropout=0.0)
    data = Samples(text=False)
    batch = collate([data[index] for index in range(16)])
    with torch.no_grad():
        logits = model(**batch).unimodal_logits
    trainer = trained(tmp_path, model, **SGD, **CAL, max_steps=1, per_device_train_batch_size=16)
    for name in model.config.modalities:
        has = batch["feature_mask"][name].any(1)
        right = (logits[name].argmax(1) == batch["labels"])[has].float().mean().item()
        assert train_log(trainer)[0][f"performance_{name}"] == pytest.approx(right)


@pytest.mark.parametrize("strategy", ["cal", "ogm"])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 2), (2, 4)])
def test_accumulated_micro_batches_equal_one_batch(tmp_path, strategy, batch_size, accumulation):
    update = {"modulation_update_steps": 1} if strategy == "cal" else {"ogm_alpha": 0.8}
    settings = SGD | MOVING | update | {"gradient_modulation": strategy, "max_steps": 4, "max_grad_norm": 1.0}
    whole = trained(tmp_path, build_fusion(dropout=0.0), **settings, per_device_train_batch_size=8)
    parts = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    accumulated = trained(tmp_path, build_fusion(dropout=0.0), **settings, **parts)
    assert_same_weights(weights(accumulated.model), weights(whole.model), atol=2e-6, rtol=1e-4)
    for one, other in zip(train_log(accumulated), train_log(whole), strict=True):
        for name in ("coefficient_audio", "coefficient_vision"):
            assert one[name] == pytest.approx(other[name], rel=1e-4)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_double_batch(tmp_path):
    common = SGD | MOVING | {"max_grad_norm": 0.5, "max_steps": 6} | EVERY_STEP
    runs = {"two": common, "two/1": common | {"gradient_modulation": "ogm"}}
    split = {"per_device_train_batch_size": 2, "ddp_backend": "gloo"}
    run_script(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "-m", "tests.trainer.training", str(tmp_path / "two"), "--model", "fusion",
        "--fields", json.dumps({"dropout": 0.0}),
        "--arguments", *(json.dumps(arguments | split) for arguments in runs.values()),
    )  # fmt: skip
    for folder, arguments in runs.items():
        single = trained(tmp_path / "one" / folder, build_fusion(dropout=0.0), **arguments)
        two = load_file(tmp_path / folder / "final.safetensors")
        assert_same_weights(two, weights(single.model), atol=2e-6, rtol=1e-4)
        log = [entry for entry in json.loads((tmp_path / folder / "log.json").read_text()) if "loss" in entry]
        assert log[-1]["coefficient_audio"] != log[0]["coefficient_audio"]
        for one, other in zip(log, train_log(single), strict=True):
            names = [name for name in one if name.endswith(("_audio", "_vision"))]
            assert {name: one[name] for name in names} == pytest.approx({name: other[name] for name in names}, rel=1e-4)
    # What both processes had measured when the checkpoint in the middle of an epoch was written.
    sums = []
    for folder in ("one/two", "two"):
        state = json.loads((tmp_path / folder / "checkpoint-2" / "trainer_state.json").read_text())
        sums.append(torch.tensor(state["stateful_callbacks"]["gradient_modulation"]["sums"]))
    assert sums[0][0, 0] == 8
    torch.testing.assert_close(sums[1], sums[0], atol=1e-5, rtol=1e-4)


def test_gradients_are_scaled_before_they_are_clipped(tmp_path):
    model = build_fusion()
    before = weights(model)
    trained(tmp_path, model, **SGD | {"max_grad_norm": 1e-3}, **CAL, max_steps=1)
    change = torch.cat([(value - before[name]).flatten() for name, value in weights(model).items()])
    assert change.norm().item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


@pytest.mark.parametrize("mode", ["gradient", "lr"])
@pytest.mark.parametrize("strategy", ["cal", "weak", "ogm"])
def test_resumed_equals_uninterrupted_inside_an_epoch_and_at_its_end(tmp_path, strategy, mode):
    settings = EVERY_STEP | MOVING | {"gradient_modulation": strategy, "modulation_mode": mode, "max_steps": 10}
    settings |= {"optim": "sgd" if mode == "gradient" else "adamw_torch", "learning_rate": 0.02}
    whole = trained(tmp_path / "whole", build_fusion(), **settings)
    assert len({entry["coefficient_audio"] for entry in train_log(whole)}) >= (2 if strategy != "ogm" else 5)
    for checkpoint in (4, 6):  # of four steps an epoch
        resumed = build_trainer(tmp_path / "resumed", build_fusion(), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{checkpoint}"))
        assert_same_run(whole, resumed)


def test_it_gets_along_with_callbacks_restored_from_a_checkpoint(tmp_path):
    settings = EVERY_STEP | MOVING | SGD | {"restore_callback_states_from_checkpoint": True, "max_steps": 8}
    whole = trained(tmp_path / "whole", build_fusion(), **settings)
    resumed = build_trainer(tmp_path / "resumed", build_fusion(), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert_same_run(whole, resumed)


def test_another_strategy_begins_anew_on_a_checkpoint(tmp_path):
    trained(tmp_path, build_fusion(), **SGD, **CAL, **EVERY_STEP, max_steps=2)
    other = build_trainer(tmp_path, build_fusion(), **SGD, gradient_modulation="ogm", max_steps=3)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert "score_audio" in train_log(other)[-1]


def test_once_an_epoch_is_the_default(tmp_path):
    trainer = trained(tmp_path, build_fusion(), **SGD, **MOVING, max_steps=8)
    measured = ["phi_audio" in entry for entry in train_log(trainer)]
    assert measured == [False] * 3 + [True] * 5
    values = [entry["coefficient_audio"] for entry in train_log(trainer)]
    assert values[:3] == [0.5] * 3
    assert len(set(values[3:7])) == 1
    assert values[7] != values[6]


def test_strong_and_weak_are_each_other_s_inverse(tmp_path):
    entries = {}
    for strategy in ("cal", "weak"):
        trainer = trained(
            tmp_path, build_fusion(), **SGD, **CAL | MOVING | {"gradient_modulation": strategy}, max_steps=1
        )
        entries[strategy] = train_log(trainer)[0]
    cal, weak = entries["cal"], entries["weak"]
    assert cal["contribution_audio"] == pytest.approx(weak["contribution_audio"])
    assert cal["coefficient_audio"] == pytest.approx(weak["coefficient_vision"])
    assert cal["coefficient_audio"] != pytest.approx(0.5, abs=1e-4)


def test_the_noise_of_ogm_has_the_gradient_s_own_deviation(tmp_path, monkeypatch):
    monkeypatch.setattr(OnTheFly, "first_coefficients", lambda self: [1.0, 0.25])
    fields = {"feature_sizes": {"vision": 200, "audio": 200}, "hidden_size": 100}

    def moved(**arguments):
        model = build_fusion(**fields)
        generator = torch.Generator().manual_seed(1)
        features = {name: torch.randn(16, 3, 200, generator=generator) for name in fields["feature_sizes"]}
        batch = {"features": features, "feature_mask": {name: torch.ones(16, 3) for name in features}}
        before = weights(model)
        trained(tmp_path, model, {"train_dataset": Rows(batch, torch.arange(16) % 2)}, **SGD, max_steps=1, **arguments)
        return {name: value - before[name] for name, value in weights(model).items()}

    plain, quiet = moved(), moved(gradient_modulation="ogm", ogm_noise=False)
    noisy, again = moved(gradient_modulation="ogm"), moved(gradient_modulation="ogm")
    for name in plain:
        torch.testing.assert_close(noisy[name], again[name], atol=1e-7, rtol=1e-5)
    for name in ("encoders.vision.weight", "encoders.audio.weight"):
        factor = 0.25 if "audio" in name else 1.0
        torch.testing.assert_close(quiet[name], factor * plain[name], atol=1e-7, rtol=1e-3)
        noise = noisy[name] - quiet[name]
        assert noise.std().item() == pytest.approx(plain[name].std().item(), rel=0.03)
        assert abs(noise.mean().item()) < 0.02 * plain[name].std().item()
    torch.testing.assert_close(noisy["classifier.weight"], plain["classifier.weight"], atol=1e-7, rtol=1e-3)


@pytest.mark.parametrize("family", ["decalign", "bert_wma", "vilt_wma", "fusion"])
@pytest.mark.parametrize("strategy", ["cal", "ogm"])
def test_every_family_trains_in_bf16_and_logs(tmp_path, family, strategy):
    model, batch, labels = build(family)
    settings = {"gradient_modulation": strategy, "modulation_mode": "lr", "bf16": True, "modulation_measure_steps": 1}
    settings |= {"modulation_update_steps": 1} if strategy == "cal" else {}
    trainer = trained(tmp_path, model, {"train_dataset": Rows(batch, labels)}, **settings, max_steps=2)
    entry = train_log(trainer)[-1]
    quantity = "phi" if strategy == "cal" else "score"
    for name in model.config.modalities:
        for key in (quantity, "performance", "coefficient"):
            assert torch.isfinite(torch.tensor(entry[f"{key}_{name}"])), key
    assert model.training


@pytest.mark.parametrize("strategy", ["cal", "ogm"])
def test_several_labels_and_values(tmp_path, strategy):
    data = Samples(text=False).batch
    features = {key: data[key] for key in ("features", "feature_mask")}
    generator = torch.Generator().manual_seed(0)
    tasks = {3: torch.randint(0, 2, (16, 3), generator=generator).float(), 1: torch.randn(16, generator=generator)}
    for num_labels, labels in tasks.items():
        model = build_fusion(num_labels=num_labels)
        arguments = SGD | {"gradient_modulation": strategy, "modulation_measure_steps": 1, "max_steps": 4}
        entry = train_log(trained(tmp_path, model, {"train_dataset": Rows(features, labels)}, **arguments))[-1]
        for name in model.config.modalities:
            assert 0 <= entry[f"performance_{name}"] <= 1
            assert 0 < entry[f"coefficient_{name}"] <= 1


def test_forward_passes_of_their_own_are_made_every_tenth_step(tmp_path):
    model = build_model()
    calls = []
    monkey = model.logits_of_embeddings
    model.logits_of_embeddings = lambda *given: (calls.append(1), monkey(*given))[1]
    trained(tmp_path, model, **SGD, **CAL, max_steps=11)
    assert len(calls) == 2 * (1 + 3 + 3)


def test_adam_cancels_a_scale_and_says_so(tmp_path):
    model = build_fusion()
    trainer = build_trainer(tmp_path, model, **CAL, max_steps=1)
    with pytest.warns(UserWarning, match=r"AdamW divides a gradient by its own running size.*modulation_mode `lr`"):
        trainer.train()
    trained(tmp_path, build_fusion(), **CAL, modulation_mode="lr", max_steps=1)  # where warnings are errors


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        data = Samples(text=False)
        while True:
            yield from (data[index] for index in range(16))


def test_where_no_epoch_ends_steps_must_be_told(tmp_path):
    def run(**arguments):
        return trained(
            tmp_path, build_fusion(), {"train_dataset": Endless()}, **SGD, **MOVING, max_steps=4, **arguments
        )

    with pytest.raises(ValueError, match=r"whose end is not known .* give modulation_update_steps"):
        run()
    values = [entry["coefficient_audio"] for entry in train_log(run(modulation_update_steps=2))]
    assert values[0] == 0.5 != values[1] == values[2] != values[3]


class SGDW(torch.optim.SGD):
    """Someone else's optimizer."""


def test_an_optimizer_made_elsewhere(tmp_path):
    def given(model, split: bool):
        mine = {p for name in model.config.modalities for p in model.embedding_parameters(name)}
        rest = [p for p in model.parameters() if p not in mine]
        groups = [list(model.embedding_parameters(name)) for name in model.config.modalities]
        groups = [*groups, rest] if split else [list(model.parameters())]
        return {"optimizers": (SGDW([{"params": group} for group in groups], lr=0.1), None)}

    plain, scaled, rates = build_fusion(), build_fusion(), build_fusion()
    before = weights(plain)
    trained(tmp_path, plain, given(plain, True), max_steps=1)
    trained(tmp_path, scaled, given(scaled, False), **CAL, max_steps=1)
    trained(tmp_path, rates, given(rates, True), **CAL, modulation_mode="lr", max_steps=1)
    for name, value in weights(plain).items():
        factor = 1.5 if name.startswith("encoders.") else 1.0
        for model in (scaled, rates):
            change = weights(model)[name] - before[name]
            torch.testing.assert_close(change, factor * (value - before[name]), atol=1e-6, rtol=1e-3)
    mixed = build_fusion()
    with pytest.raises(
        ValueError, match="a parameter group of the optimizer mixes a modality's parameters with others"
    ):
        trained(tmp_path, mixed, given(mixed, False), **CAL, modulation_mode="lr")


def test_the_scheduler_goes_on_from_rates_without_the_factor(tmp_path):
    settings = {"optim": "adamw_torch", "max_steps": 4, "lr_scheduler_type": "linear", "learning_rate": 1e-2}
    trainer = trained(tmp_path, build_fusion(), **settings, **CAL, modulation_mode="lr")
    assert [entry["learning_rate"] for entry in train_log(trainer)] == pytest.approx([1e-2, 7.5e-3, 5e-3, 2.5e-3])
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.0}


def test_what_cannot_be_modulated_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"balances modalities, and this model has \['vision'\] only"):
        build_trainer(tmp_path, build_fusion(feature_sizes={"vision": 5}), **CAL)
    with pytest.raises(
        ValueError, match="no modality of this FusionForSequenceClassification has parameters of its own"
    ):
        build_trainer(tmp_path, build_fusion(encoder="none"), **CAL)
    arguments = MultimodalTrainingArguments(str(tmp_path), use_cpu=True, **CAL)
    with pytest.raises(ValueError, match="Linear is none"):
        MultimodalTrainer(torch.nn.Linear(2, 2), arguments)
    monkeypatch.setattr(
        type(build_trainer(tmp_path, build_fusion()).accelerator), "distributed_type", DistributedType.FSDP
    )
    with pytest.raises(ValueError, match="for one device and for DDP; under FSDP parameters are sharded"):
        build_trainer(tmp_path, build_fusion(), **CAL)
    monkeypatch.setattr(FusionConfig, "generates", True)
    with pytest.raises(ValueError, match="FusionForSequenceClassification generates texts"):
        build_trainer(tmp_path, build_fusion(), **CAL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gradient_modulation": "agm"}, "gradient_modulation is 'agm'; it is one of"),
        ({"modulation_mode": "rate"}, "modulation_mode is 'rate'"),
        ({"contribution_variant": "shapley"}, "contribution_variant is 'shapley'"),
        ({"modulation_eta": -1.0}, "modulation_eta is -1.0; it is at least 0"),
        ({"modulation_eta": float("nan")}, "modulation_eta is nan"),
        ({"contribution_temperature": float("inf")}, "contribution_temperature is inf"),
        ({"performance_smoothing": 0.0}, r"performance_smoothing is 0.0; it lies in \(0, 1\]"),
        ({"potential_lambda": 1.5}, r"potential_lambda is 1.5; it lies in \[0, 1\]"),
        ({"potential_window": 0}, "potential_window is 0"),
        ({"modulation_measure_steps": 0}, "modulation_measure_steps is 0"),
        ({"gradient_modulation": "ogm", "modulation_update_steps": 3}, "modulation_update_steps has no effect on ogm"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        MultimodalTrainingArguments(str(tmp_path), **arguments)
