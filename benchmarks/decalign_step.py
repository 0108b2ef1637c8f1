"""A training step of DecAlign on a CPU, alone or beside that of the public implementation (taco-group/DecAlign).

    python benchmarks/decalign_step.py [--public FOLDER] [--configuration mosi mosei] [--threads 2] [--json FILE]

A step is forward, loss, backward, clipping and Adam, on random features of the sizes of CMU-MOSI (B = 32, 5 layers) or
CMU-MOSEI (B = 128, 4 layers), with the public code's settings. Adam is the fused one on our side, as the Trainer of
transformers takes it by default, and PyTorch's default one on the public side, as its trainer takes it.

With --public, each implementation trains in a process of its own, as it would be used: in one process, each step would find
the caches full of the other's tensors and the allocator's memory cut up by them. Five steps of the one and five of the
other take turns, in an order that changes from pair to pair, so that a drift of the machine's speed cancels; the ratio is
the median over pairs. Peak memory is that of these processes. Logits and loss terms are compared with the same weights,
without dropout.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from hf_mmalign import DecAlignConfig, DecAlignForSequenceClassification

MODALITIES = {"text": "l", "audio": "a", "vision": "v"}  # with the public code's suffixes
STEPS, WIDTH, STEPS_PER_TURN = 50, 64, 5
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "mosi": {
        "batch_size": 32,
        "file": "dec_mosi_config.json",
        "fields": {
            "feature_sizes": {"text": 768, "audio": 5, "vision": 20},
            "num_hidden_layers": 5,
            "attention_dropout": {"text": 0.1, "audio": 0.0, "vision": 0.0},
            "activation_dropout": 0.1,
            "embedding_dropout": 0.1,
            "residual_dropout": 0.05,
            "decalign_alpha": 0.05,
            "decalign_beta": 0.07,
            "contrastive_weight": 0.003,
        },
    },
    "mosei": {
        "batch_size": 128,
        "file": "dec_mosei_config.json",
        "fields": {
            "feature_sizes": {"text": 768, "audio": 74, "vision": 35},
            "num_hidden_layers": 4,
            "conv_kernel_size": dict.fromkeys(MODALITIES, 5),
            "feature_dropout": {"text": 0.125},
            "attention_dropout": dict.fromkeys(MODALITIES, 0.125),
            "activation_dropout": 0.125,
            "embedding_dropout": 0.125,
            "residual_dropout": 0.125,
            "classifier_dropout": 0.125,
            "decalign_alpha": 0.005,
            "decalign_beta": 0.0,
            "contrastive_weight": 0.001,
        },
    },
}
OFFICIAL = {
    "modalities": list(MODALITIES),
    "hidden_size": WIDTH,
    "num_attention_heads": 8,
    "conv_padding": "valid",
    "position_embedding": "none",
    "num_prototypes": 7,
    "mixture_iterations": 5,
    "mixture_gradient": "all_steps",
    "transport_epsilon": 0.1,
    "transport_epsilon_scale": "absolute",
    "transport_iterations": 50,
    "transport_entropy": True,
    "prototype_matching": "index",
    "latent_size": WIDTH,
    "mmd_bandwidth": 1.0,
    "loss_reduction": "mean",
    "decoupling": "squared_cosine",
    "contrastive_temperature": 0.1,
    "num_labels": 1,
    "problem_type": "regression",
}


def our_model(name: str, **changes: Any) -> DecAlignForSequenceClassification:
    torch.manual_seed(0)
    config = DecAlignConfig(**{**OFFICIAL, **CONFIGURATIONS[name]["fields"], **changes})
    return DecAlignForSequenceClassification(config)


def make_batch(name: str) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    size, widths = CONFIGURATIONS[name]["batch_size"], CONFIGURATIONS[name]["fields"]["feature_sizes"]
    features = {m: torch.randn(size, STEPS, widths[m], generator=generator) for m in MODALITIES}
    return features, (1.5 * torch.randn(size, generator=generator)).clamp(-3, 3)


def public_parts(folder: Path, name: str) -> tuple[nn.Module, Callable[..., dict[str, Tensor]]]:
    """The public model, and its trainer's loss with its parts by our names."""
    sys.path.insert(0, str(folder))
    from models.model import DecAlign
    from trains.ATIO import DecAlignTrainer

    settings = json.loads((folder / "config" / CONFIGURATIONS[name]["file"]).read_text())
    widths = list(CONFIGURATIONS[name]["fields"]["feature_sizes"].values())
    own = {"dataset_name": name, "use_bert": False, "feature_dims": widths, "train_mode": "regression"}
    arguments = SimpleNamespace(**settings | own)
    torch.manual_seed(0)
    model = DecAlign(arguments)
    trainer = DecAlignTrainer.__new__(DecAlignTrainer)  # its __init__ wants a data set
    trainer.args, trainer.class_weights, trainer.criterion = arguments, None, nn.MSELoss()

    def losses(features: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        output = model(*features.values())
        parts = {"logits": output["output_logit"], "task": trainer._main_loss(output["output_logit"], labels)}
        parts |= {ours: output[f"{theirs}_loss"] for ours, theirs in _TERMS.items()}
        parts["contrastive"] = trainer._contrastive_loss(output["final_rep"], labels)
        combined = trainer._combined_loss(parts["task"], output)
        return parts | {"loss": combined + arguments.ct_weight * parts["contrastive"]}

    return model, losses


_TERMS = {"decouple": "dec", "hete": "hete", "homo": "homo"}


def copy_weights(public: nn.Module, ours: DecAlignForSequenceClassification) -> None:
    source, target = public.state_dict(), {}

    def copy(to: str, start: str) -> None:
        target.update({f"{to}.{kind}": source[f"{start}.{kind}"] for kind in ("weight", "bias")})

    for name, suffix in MODALITIES.items():
        target[f"projections.{name}.weight"] = source[f"proj_{suffix}.weight"]
        target[f"unique_encoders.{name}.weight"] = source[f"encoder_uni_{suffix}.weight"].squeeze(-1)
        for layer in range(ours.config.num_hidden_layers):
            new, old = f"cross_modal_transformers.{name}.layers.{layer}", f"trans_{suffix}.layers.{layer}"
            for kind in ("weight", "bias"):
                packed = source[f"{old}.self_attn.in_proj_{kind}"].split(WIDTH)
                parts = dict(zip(("query", "key", "value"), packed, strict=True))
                target |= {f"{new}.{part}_projection.{kind}": value for part, value in parts.items()}
            del target[f"{new}.key_projection.bias"]  # the softmax does not see it
            copy(f"{new}.output_projection", f"{old}.self_attn.out_proj")
            copy(f"{new}.attention_norm", f"{old}.attn_layer_norm")
            copy(f"{new}.feed_forward_in", f"{old}.fc1")
            copy(f"{new}.feed_forward_out", f"{old}.fc2")
            copy(f"{new}.feed_forward_norm", f"{old}.final_layer_norm")
        if ours.config.computes("homo"):
            copy(f"alignment.latent_encoders.{name}.hidden", f"pde_{suffix}.net.0")
            copy(f"alignment.latent_encoders.{name}.latent", f"pde_{suffix}.net.3")
    target["common_encoder.weight"] = source["encoder_com.weight"].squeeze(-1)
    copy("classifier", "out_layer")
    ours.load_state_dict(target)


def make_step(model: nn.Module, losses: Callable[..., dict[str, Tensor]], name: str, fused: bool) -> Callable[[], None]:
    features, labels = make_batch(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=6e-5, weight_decay=0.005, fused=fused)
    model.train()

    def step() -> None:
        model.zero_grad()
        losses(features, labels)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.6)
        optimizer.step()

    return step


def our_losses(model: DecAlignForSequenceClassification) -> Callable[..., dict[str, Tensor]]:
    def losses(features: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        output = model(features=features, labels=labels)
        return {"logits": output.logits, "loss": output.loss, **output.losses}

    return losses


def differences(name: str, folder: Path) -> dict[str, float]:
    """Largest absolute difference of the logits and of each loss term, without dropout."""
    public, public_losses = public_parts(folder, name)
    # A weight of 0 leaves a term out on our side only.
    ours = our_model(name, decalign_beta=CONFIGURATIONS[name]["fields"]["decalign_beta"] or 1e-9)
    copy_weights(public, ours)
    batch = make_batch(name)
    with torch.no_grad():
        public.eval(), ours.eval()
        theirs, mine = public_losses(*batch), our_losses(ours)(*batch)
    return {key: (theirs[key].flatten() - mine[key].flatten()).abs().max().item() for key in theirs if key != "loss"}


class Worker:
    """A process that trains one implementation. A context manager, which ends the process."""

    def __init__(self, who: str, name: str, arguments: argparse.Namespace):
        command = [sys.executable, __file__, "--worker", who, "--configuration", name]
        command += ["--threads", str(arguments.threads), "--mixture-gradient", arguments.mixture_gradient]
        if arguments.public:
            command += ["--public", str(arguments.public)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> "Worker":
        self.train(2)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()

    def train(self, steps: int) -> tuple[float, float]:
        """Seconds per step, and MiB resident at most so far."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = ""
        while not answer.startswith(_ANSWER):  # the public code prints
            answer = self.process.stdout.readline()
            if not answer:
                raise SystemExit(f"A process of the benchmark has ended with {self.process.wait()}; see above.")
        seconds, peak = answer.removeprefix(_ANSWER).split()
        return float(seconds), float(peak)


_ANSWER = "seconds and MiB: "


def work(who: str, name: str, arguments: argparse.Namespace) -> None:
    """What the process of a :class:`Worker` does: the number of steps on each line of the standard input."""
    if who == "ours":
        model = our_model(name, mixture_gradient=arguments.mixture_gradient)
        step = make_step(model, our_losses(model), name, fused=True)
    else:
        step = make_step(*public_parts(arguments.public, name), name, fused=False)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = (time.perf_counter() - start) / int(line)
        print(_ANSWER, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, flush=True)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    implementations = ["public", "ours"] if arguments.public else ["ours"]
    pairs, peaks = [], {}
    with ExitStack() as stack:
        workers = {who: stack.enter_context(Worker(who, name, arguments)) for who in implementations}
        for repeat in range(arguments.repeats):
            pair = {}
            for who in implementations if repeat % 2 == 0 else implementations[::-1]:
                pair[who], peaks[f"{who}_peak_mib"] = workers[who].train(STEPS_PER_TURN)
            pairs.append(pair)
    size = CONFIGURATIONS[name]["batch_size"]
    rates = {
        f"{who}_samples_per_second": size / statistics.median(pair[who] for pair in pairs) for who in implementations
    }
    if not arguments.public:
        return rates | peaks
    ratios = sorted(pair["public"] / pair["ours"] for pair in pairs)
    return rates | peaks | {"ratio": statistics.median(ratios), "ratio_min": ratios[0], "ratio_max": ratios[-1]}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    help_text = "folder of a checkout of the public code: code of third parties, not checked, which this runs as it is"
    parser.add_argument("--public", type=Path, help=help_text)
    parser.add_argument("--configuration", nargs="+", default=list(CONFIGURATIONS), choices=list(CONFIGURATIONS))
    parser.add_argument("--threads", type=int, default=2, help="torch's threads (default 2)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=9,
        help="timed turns of each implementation (default 9)",
    )
    parser.add_argument(
        "--mixture-gradient",
        choices=["all_steps", "last_step"],
        default="all_steps",
        help="EM steps that our timed gradient passes: all, as in the public code (default), or the last, our default",
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--worker", choices=["ours", "public"], help=argparse.SUPPRESS)  # for the processes it starts
    return parser.parse_args()


def print_result(name: str, result: dict[str, Any]) -> None:
    print(f"\n**{name}**, B = {CONFIGURATIONS[name]['batch_size']}\n")
    print("| implementation | samples/s | peak memory, MiB |\n|---|---|---|")
    for who in ("public", "ours"):
        if f"{who}_peak_mib" in result:
            print(f"| {who} | {result[f'{who}_samples_per_second']:.1f} | {result[f'{who}_peak_mib']:.0f} |")
    if "ratio" in result:
        print(f"\nRatio {result['ratio']:.2f} (median of pairs; {result['ratio_min']:.2f}–{result['ratio_max']:.2f})")
        print("\n| compared | largest difference |\n|---|---|")
        for key, value in result["differences"].items():
            print(f"| {key} | {value:.1e} |")
    sys.stdout.flush()


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.worker:
        work(arguments.worker, arguments.configuration[0], arguments)
        return
    machine = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": arguments.repeats,
        "mixture gradient": arguments.mixture_gradient,
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    # Differences after the last measurement: on Linux a process cannot report less than what its parent held at its start.
    results = {name: measure(name, arguments) for name in arguments.configuration}
    for name, result in results.items():
        if arguments.public:
            result["differences"] = differences(name, arguments.public)
        print_result(name, result)
    if arguments.json:
        arguments.json.write_text(json.dumps({**machine, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
