"""Learning rates and optimizers of single modalities."""

import pytest
import torch

from hf_mmalign import MultimodalTrainingArguments
from hf_mmalign.trainer.modality_optimizers import JointOptimizer
from tests.trainer.test_backbone_learning_rate import decalign, settings_by_parameter, with_lora
from tests.trainer.test_resume import assert_same_run
from tests.trainer.test_trainer import train_log
from tests.trainer.training import build_fusion, build_model, build_trainer, weights

EVERY_STEP = {"save_strategy": "steps", "save_steps": 1}
MOMENTUM = {"optim": "sgd", "momentum": 0.9}


def moved(tmp_path, model, steps: int = 1, **arguments) -> dict[str, torch.Tensor]:
    before = weights(model)
    build_trainer(tmp_path, model, max_steps=steps, **arguments).train()
    return {name: value - before[name] for name, value in weights(model).items()}


@pytest.mark.parametrize("build", [build_fusion, build_model, decalign, lambda: with_lora(decalign())])
def test_a_modality_s_own_parameters_take_its_rate(tmp_path, build):
    model = build()
    trainer = build_trainer(tmp_path, model, learning_rate=1e-2, modality_learning_rates={"audio": 3e-3, "vision": 0.0})
    rates = settings_by_parameter(trainer, "lr")
    base = trainer.multimodal_model
    own = dict.fromkeys(base.modality_parameters("audio"), 0.003)
    own |= dict.fromkeys(base.modality_parameters("vision"), 0.0)
    expected = {n: (own.get(p, 1e-2),) for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert rates == expected
    assert len(set(rates.values())) >= 2


def test_a_modality_s_rate_goes_before_the_backbone_s(tmp_path):
    given = {"learning_rate": 1e-2, "backbone_learning_rate": 1e-3, "modality_learning_rates": {"text": 1e-4}}
    rates = settings_by_parameter(build_trainer(tmp_path, build_model(), **given), "lr")
    assert rates["bert.embeddings.word_embeddings.weight"] == (1e-4,)
    assert rates["bert.encoder.layer.0.attention.self.query.weight"] == (1e-3,)
    assert rates["classifier.weight"] == (1e-2,)


def test_rates_are_scheduled_and_logged(tmp_path):
    rates = {"audio": 4e-3, "vision": 1e-4}
    trainer = build_trainer(tmp_path, build_fusion(), learning_rate=1e-2, modality_learning_rates=rates)
    trainer.train()
    for share, entry in zip((1, 0.75, 0.5, 0.25), train_log(trainer), strict=True):
        assert entry["learning_rate"] == pytest.approx(share * 1e-2)
        assert entry["learning_rate_audio"] == pytest.approx(share * 4e-3)
        assert entry["learning_rate_vision"] == pytest.approx(share * 1e-4)


def test_each_modality_is_trained_by_its_own_optimizer(tmp_path):
    optimizers = {"audio": MOMENTUM, "vision": "rmsprop"}
    joint = moved(tmp_path, build_fusion(dropout=0.0), modality_optimizers=optimizers)
    alone = {
        "encoders.audio": moved(tmp_path, build_fusion(dropout=0.0), optim="sgd"),
        "encoders.vision": moved(tmp_path, build_fusion(dropout=0.0), optim="rmsprop"),
        "": moved(tmp_path, build_fusion(dropout=0.0), optim="adamw_torch"),
    }
    for name, change in joint.items():
        expected = next(changes for prefix, changes in alone.items() if name.startswith(prefix))
        torch.testing.assert_close(change, expected[name], atol=1e-7, rtol=1e-5)
    # Momentum shows in the second step.
    frozen = {"modality_learning_rates": {"vision": 0.0}, "learning_rate": 0.0, "lr_scheduler_type": "constant"}
    frozen["modality_learning_rates"]["audio"] = 1e-2
    with_momentum, without = (
        moved(tmp_path, build_fusion(dropout=0.0), 2, modality_optimizers={"audio": optimizer}, **frozen)
        for optimizer in (MOMENTUM, "sgd")
    )
    ratio = with_momentum["encoders.audio.weight"].norm() / without["encoders.audio.weight"].norm()
    assert 1.1 < ratio < 1.5


@pytest.mark.parametrize(
    "extra", [{}, {"gradient_modulation": "cal", "modulation_mode": "lr", "modulation_update_steps": 1}]
)
def test_killed_and_resumed_equals_uninterrupted(tmp_path, extra):
    optimizers = {"audio": MOMENTUM, "vision": "adamw_torch"}
    settings = EVERY_STEP | {
        "modality_optimizers": optimizers,
        "optim": "adafactor",
        "max_steps": 7,
        "max_grad_norm": 1.0,
    }
    settings |= {"modality_learning_rates": {"audio": 0.05}} | extra
    whole = build_trainer(tmp_path / "whole", build_fusion(), **settings)
    whole.train()
    for checkpoint in (2, 4):
        resumed = build_trainer(tmp_path / "resumed", build_fusion(), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{checkpoint}"))
        assert_same_run(whole, resumed)
        state = {p: s for p, s in resumed.optimizer.state.items() if s}
        assert len(state) == sum(1 for _ in resumed.model.parameters())


def test_the_joint_state_is_laid_out_as_one_optimizer_s(tmp_path):
    model = build_fusion()
    trainer = build_trainer(tmp_path, model, modality_optimizers={"audio": MOMENTUM}, max_steps=2)
    trainer.train()
    inner = trainer.optimizer.optimizer
    assert isinstance(inner, JointOptimizer)
    saved = inner.state_dict()
    indices = [index for group in saved["param_groups"] for index in group["params"]]
    assert indices == list(range(len(list(model.parameters()))))
    assert saved["state"].keys() == set(indices)
    parameters = [parameter for group in inner.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        buffers = [value for value in saved["state"][index].values() if torch.is_tensor(value) and value.dim()]
        assert all(value.shape == parameter.shape for value in buffers)
    with pytest.raises(ValueError, match="The state is of 1 parameter groups, and there are"):
        inner.load_state_dict({"state": {}, "param_groups": saved["param_groups"][:1]})


def test_gradient_modulation_warns_of_the_parts_that_normalise_only(tmp_path, recwarn):
    cal = {"gradient_modulation": "cal", "max_steps": 1}
    build_trainer(tmp_path, build_fusion(), modality_optimizers={"audio": "sgd", "vision": "sgd"}, **cal).train()
    assert not [w for w in recwarn if "divides a gradient" in str(w.message)]
    with pytest.warns(UserWarning, match="RMSprop divides a gradient"):
        build_trainer(
            tmp_path, build_fusion(), modality_optimizers={"audio": "sgd", "vision": "rmsprop"}, **cal
        ).train()


def test_arguments_as_json_text(tmp_path):
    args = MultimodalTrainingArguments(
        str(tmp_path),
        modality_learning_rates='{"audio": 1e-3}',
        modality_optimizers='{"audio": {"optim": "sgd", "momentum": 0.9}}',
    )
    assert args.modality_learning_rates == {"audio": 1e-3}
    assert args.modality_optimizers == {"audio": {"optim": "sgd", "momentum": 0.9}}


def test_numbers_that_yaml_reads_as_text(tmp_path):
    optimizers = {"audio": {"optim": "adamw_torch", "eps": "1e-6"}, "vision": "sgd"}
    args = MultimodalTrainingArguments(
        str(tmp_path), modality_learning_rates={"audio": "1e-3"}, modality_optimizers=optimizers
    )
    assert args.modality_learning_rates == {"audio": 1e-3}
    assert args.modality_optimizers == {"audio": {"optim": "adamw_torch", "eps": 1e-6}, "vision": "sgd"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modality_learning_rates": {"audio": -1.0}}, r"modality_learning_rates\['audio'\] is -1.0"),
        ({"modality_learning_rates": {"audio": "fast"}}, r"modality_learning_rates\['audio'\] is 'fast'"),
        ({"modality_learning_rates": {"audio": float("nan")}}, r"modality_learning_rates\['audio'\] is nan"),
        ({"modality_learning_rates": {"audio": "nan"}}, r"modality_learning_rates\['audio'\] is nan"),
        ({"modality_learning_rates": "audio"}, "expected a mapping from modalities"),
        ({"modality_optimizers": {"audio": "adamm"}}, r"modality_optimizers\['audio'\] is 'adamm'"),
        ({"modality_optimizers": {"audio": {"momentum": 0.9}}}, "or a mapping with one under `optim`"),
        ({"modality_optimizers": {"audio": MOMENTUM | {"lr": 1.0}}}, "rates are set by modality_learning_rates"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        MultimodalTrainingArguments(str(tmp_path), **arguments)


def test_what_they_cannot_apply_to_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"knows the modalities \['vision', 'audio'\], not 'sound'"):
        build_trainer(tmp_path, build_fusion(), modality_learning_rates={"sound": 1e-3})
    with pytest.raises(ValueError, match="modality_learning_rates names 'audio', of which"):
        build_trainer(tmp_path, build_fusion(encoder="none"), modality_learning_rates={"audio": 1e-3}).train()
    with pytest.raises(ValueError, match="modality_optimizers names 'audio', of which"):
        build_trainer(tmp_path, build_fusion(encoder="none"), modality_optimizers={"audio": "sgd"}).train()
    with pytest.raises(ValueError, match=r"sgd does not take \{'beta': 1\}"):
        build_trainer(tmp_path, build_fusion(), modality_optimizers={"audio": {"optim": "sgd", "beta": 1}}).train()
    model = build_fusion()
    own = torch.optim.SGD(model.parameters(), lr=0.1)
    for argument, value in (("modality_learning_rates", {"audio": 1.0}), ("modality_optimizers", {"audio": "sgd"})):
        with pytest.raises(ValueError, match=f"{argument} has no effect on an optimizer made elsewhere"):
            build_trainer(tmp_path, model, {"optimizers": (own, None)}, **{argument: value})
