"""What several models cost, each measured in a process of its own, all taking turns."""

import math
import multiprocessing
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from tqdm.auto import tqdm

from ..data.errors import shown
from ..evaluation.efficiency import ModelEfficiency, PeakMemory
from ..evaluation.synthetic import synthetic_inputs
from ..models.auto import config_class_of
from ..models.configuration_base import MultimodalConfigMixin
from ..reporting.efficiency import EfficiencyReport
from .efficiency_process import OWN_ARGUMENTS, WARM_UP_STEPS, Failure, MeasuredModel, Schedule, work
from .evaluation import recipe_of
from .given import plain_values, where_keys_come_from
from .recipe import Recipe, RecipeError, load_recipe, split_arguments
from .tasks import task_of

_MOST_ROUNDS = 20
_SIZES = ("steps", "width", "height", "channels")


@dataclass
class EfficiencyArguments:
    """What a recipe of `hf-mmalign efficiency` may hold."""

    models: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "By name, what a recipe would say of a model: model_type, fields of its config, arguments of the "
            "Trainer. Without feature_sizes, it takes the inputs that have a width as feature sequences."
        },
    )
    inputs: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "help": "By modality its size: {steps: 200, width: 80} of features (of a saved model the width is known), "
            "{steps: 32} of a raw text, {height: 224, width: 224} of raw pictures."
        },
    )
    reference: str | None = field(
        default=None, metadata={"help": "The model that ratios refer to; left out, the first."}
    )
    num_labels: int = field(default=2, metadata={"help": "Classes of the models in `models`; 1 is a regression."})
    samples: int = field(default=1000, metadata={"help": "Timed forward passes with a batch of 1."})
    batch_size: int = field(default=64, metadata={"help": "Samples of a training step."})
    train_samples: int = field(default=10_000, metadata={"help": "Samples of an epoch."})
    train_steps: int = field(default=3, metadata={"help": "Training steps that are timed, after one that is not."})
    device: str | None = field(default=None, metadata={"help": "cpu or cuda; left out, cuda where there is one."})
    seed: int = field(default=0, metadata={"help": "Of weights and inputs."})

    def __post_init__(self):
        for name in ("num_labels", "samples", "batch_size", "train_samples", "train_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1.")
        if self.device not in (None, "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; expected cpu or cuda.")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but PyTorch finds no GPU of that kind here.")
        for name, size in self.inputs.items():
            keys = dict.fromkeys(_SIZES) if not isinstance(size, Mapping) else size
            wrong = [key for key in keys if key not in _SIZES or not _is_count(keys[key])]
            if wrong:
                raise ValueError(
                    f"inputs has {name}: {shown(size)}; expected whole numbers of at least 1 under {', '.join(_SIZES)}, "
                    "for example {steps: 200, width: 80}."
                )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def efficiency(
    *sources: str | Path | Mapping[str, Any],
    json: str | Path | None = None,
    output: str | Path | None = None,
    progress: bool = True,
    **keys: Any,
) -> EfficiencyReport:
    """What models cost, as `hf-mmalign efficiency` prints it: parameters, FLOPs, seconds per epoch, latency, memory.

    >>> from hf_mmalign import runs
    >>> report = runs.efficiency("def-aaf/efficiency", samples=100)
    >>> report = runs.efficiency("runs/a", "runs/b", inputs={"text": {"steps": 32}, "audio": {"steps": 200}})
    >>> print(report.to_markdown())

    Inputs are random, of one size for all models. Each model has a process of its own, started as `multiprocessing` starts
    them: a script calls this under `if __name__ == "__main__":`.

    Args:
        sources (`str`, `Path` or `Mapping`): Folders of saved models, and at most one recipe: a file, the name of one that
            comes with the package, or a dictionary.
        json, output (`str` or `Path`, *optional*): Files for the figures as JSON and as Markdown.
        progress (`bool`): Show a progress bar on standard error.
        keys: Fields of [`EfficiencyArguments`], over those of the recipe.

    Returns:
        [`EfficiencyReport`]: `models` by name, `to_dict`, `to_json`, `table`, `to_markdown`.

    Raises:
        RecipeError: For a folder or recipe that is none, a recipe without models, inputs that do not fit a model, and a
            model that cannot be measured, named.
    """
    for file in (json, output):
        if file is not None and Path(file).is_dir():
            raise RecipeError(f"{file} is a folder; expected the path of a file to write.")
    arguments, models = read_efficiency(sources, keys)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    rounds = min(_MOST_ROUNDS, arguments.samples)
    passes = [len(range(index, arguments.samples, rounds)) for index in range(rounds)]
    schedule = Schedule(
        arguments.inputs,
        passes,
        arguments.train_steps,
        arguments.batch_size,
        device,
        torch.get_num_threads(),
        arguments.seed,
    )
    steps = math.ceil(arguments.train_samples / arguments.batch_size)
    measured = {
        name: _summary(results, schedule, steps) for name, results in measure(models, schedule, progress).items()
    }
    settings = {key: value for key, value in asdict(arguments).items() if key not in ("models", "reference", "device")}
    settings |= {"memory": PeakMemory.HOW[device]}
    report = EfficiencyReport(measured, arguments.reference or models[0].name, _machine(schedule), settings)
    if json is not None:
        report.to_json(json)
    if output is not None:
        report.save(output)
    return report


def read_efficiency(
    sources: Sequence[str | Path | Mapping[str, Any]], keys: Mapping[str, Any]
) -> tuple[EfficiencyArguments, list[MeasuredModel]]:
    """What :func:`efficiency` is asked to do, checked as far as it can be without a model. Raises RecipeError."""
    recipe, folders = _read_sources(sources, keys)
    arguments = _read_arguments(recipe)
    models = [*_folder_models(folders), *_recipe_models(recipe, arguments)]
    _check(models, arguments, recipe)
    return arguments, models


def _read_sources(sources: Sequence[Any], keys: Mapping[str, Any]) -> tuple[Recipe, list[Path]]:
    """The recipe, with `keys` on top, and the folders."""
    folders = [Path(source) for source in sources if not isinstance(source, Mapping) and os.path.isdir(source)]
    others = [source for source in sources if isinstance(source, Mapping) or not os.path.isdir(source)]
    if len(others) > 1:
        raise RecipeError(
            f"{shown(others[1])} is a second recipe, or no folder; expected folders and at most one recipe."
        )
    if not others:
        return Recipe(Path(where_keys_come_from()), {}, {}, {}).override(keys), folders
    recipe = load_recipe(others[0])
    if "output_dir" not in recipe.origins:  # what every recipe is given that names none
        recipe.values.pop("output_dir", None)
    return recipe.override(keys), folders


def _read_arguments(recipe: Recipe) -> EfficiencyArguments:
    values = split_arguments(recipe, {"efficiency": EfficiencyArguments})["efficiency"]
    try:
        return EfficiencyArguments(**values)
    except ValueError as error:  # its first word is the key
        raise RecipeError(f"{recipe.origins.get(str(error).split()[0], recipe.path)}: {error}") from error


def _folder_models(folders: Sequence[Path]) -> list[MeasuredModel]:
    for folder in folders:
        recipe_of(folder)  # raises for one that holds no model of ours
    names = [folder.resolve().name for folder in folders]
    return [
        MeasuredModel(name if names.count(name) == 1 else str(folder), str(folder))
        for name, folder in zip(names, folders, strict=True)
    ]


def _recipe_models(recipe: Recipe, arguments: EfficiencyArguments) -> list[MeasuredModel]:
    origin = recipe.origins.get("models", str(recipe.path))
    return [
        _recipe_model(name, entry, f"{origin}: models: {name}", arguments) for name, entry in arguments.models.items()
    ]


def _recipe_model(name: str, entry: Any, origin: str, arguments: EfficiencyArguments) -> MeasuredModel:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("model_type"), str):
        raise RecipeError(f"{origin} is {shown(entry)}; expected fields of a config, with its model_type.")
    values = plain_values(entry, origin)
    model_type = values.pop("model_type")
    try:
        config_class = config_class_of(model_type)
    except ValueError as error:
        raise RecipeError(f"{origin}: model_type {model_type!r} is unknown: {error}") from None
    if not issubclass(config_class, MultimodalConfigMixin):
        raise RecipeError(f"{origin}: model_type {model_type!r} is none of this package.")
    own = sorted(OWN_ARGUMENTS & values.keys())
    if own:
        raise RecipeError(f"{origin}: {own[0]} is not for a single model: all are measured in the same way.")
    targets = {"training": task_of(config_class).training_arguments, "config": config_class}
    groups = split_arguments(Recipe(Path(origin), values, {}, {}), targets)
    fields = {"feature_sizes": _feature_sizes(values, arguments.inputs)} | groups["config"]
    if not config_class.generates:
        fields["num_labels"] = arguments.num_labels
    return MeasuredModel(name, None, model_type, fields, groups["training"])


def _feature_sizes(values: Mapping[str, Any], inputs: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The inputs that come as feature sequences: those with steps and width that no encoder takes raw."""
    raw = {*(values.get("encoders") or {}), *(["text"] if values.get("text_config") else [])}
    names = [name for name in values.get("modalities") or inputs if name not in raw]
    return {name: size["width"] for name, size in inputs.items() if name in names and {"steps", "width"} <= size.keys()}


def _check(models: Sequence[MeasuredModel], arguments: EfficiencyArguments, recipe: Recipe) -> None:
    """Raise RecipeError for what would fail later, after other models have been measured."""
    if not models:
        raise RecipeError(
            f"{recipe.path} names no model; expected `models: {{NAME: {{model_type: …}}}}` in a recipe, or saved folders."
        )
    names = [model.name for model in models]
    double = [name for name in names if names.count(name) > 1]
    if double:
        raise RecipeError(f"Two models are called {double[0]!r}.")
    if arguments.reference not in (None, *names):
        raise RecipeError(f"reference is {arguments.reference!r}; expected one of {names}.")
    taken = set()
    for model in models:
        try:
            config = model.config()
            synthetic_inputs(config, arguments.inputs, 1)
        except (ValueError, TypeError) as error:
            raise RecipeError(f"{model.name}: {error}") from error
        taken |= set(config.modalities)
    stray = [name for name in arguments.inputs if name not in taken]
    if stray:
        raise RecipeError(f"inputs has {stray}, which no model takes; their modalities are {sorted(taken)}.")


def measure(models: Sequence[MeasuredModel], schedule: Schedule, progress: bool = True) -> dict[str, list[Any]]:
    """The results of every model's turns, by name.

    Raises:
        RecipeError: If a model cannot be measured.
    """
    results: dict[str, list[Any]] = {model.name: [] for model in models}
    total = schedule.turns * len(models)
    with ExitStack() as stack, tqdm(total=total, desc="Measuring", disable=not progress, file=sys.stderr) as bar:
        workers = [stack.enter_context(_Worker(model, schedule)) for model in models]
        for turn in range(schedule.turns):
            for worker in workers if turn % 2 == 0 else workers[::-1]:
                bar.set_postfix_str(worker.model.name)
                results[worker.model.name].append(worker.take_turn())
                bar.update()
    return results


class _Worker:
    """A process that measures one model. A context manager, which ends it."""

    def __init__(self, model: MeasuredModel, schedule: Schedule):
        # Not forked from this process, whose memory and threads it would share.
        known = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in known else "spawn")
        if "forkserver" in known:
            context.set_forkserver_preload([work.__module__])
        self.model = model
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, model, schedule), daemon=True)
        self.process.start()
        other.close()  # so that its end is seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()

    def take_turn(self) -> Any:
        """Let it do its next part, and wait for the result."""
        try:
            self.connection.send(None)
            result = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise RecipeError(
                f"{self.model.name}: its process has ended with {self.process.exitcode}, as it does where memory is short "
                '(try a smaller batch_size), or in a script without `if __name__ == "__main__":`.'
            ) from error
        if isinstance(result, Failure):
            raise RecipeError(f"{self.model.name} cannot be measured. {result.message}")
        return result


def _summary(results: list[Any], schedule: Schedule, steps_per_epoch: int) -> ModelEfficiency:
    counts, *timed, memory = results
    passes, steps = timed[: len(schedule.rounds)], timed[len(schedule.rounds) + WARM_UP_STEPS :]
    return ModelEfficiency.of(counts, [second for turn in passes for second in turn], steps, steps_per_epoch, memory)


def _machine(schedule: Schedule) -> dict[str, Any]:
    machine = {"cpu": _cpu_name(), "threads": schedule.threads, "torch": torch.__version__, "device": schedule.device}
    return machine | ({"gpu": torch.cuda.get_device_name()} if schedule.device == "cuda" else {})


def _cpu_name() -> str:
    """The processor's model; Python's own `platform` knows the architecture only on Linux."""
    return next(_cpu_models(), "") or platform.processor() or platform.machine()


def _cpu_models() -> Iterator[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    yield from (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
