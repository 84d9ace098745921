"""``model: {from: PACKAGE}``: the settings of a job that goes on training a package.

Architecture, tokenizer and weights are the package's. The settings are completed before they are
validated, so that the run and its ``job.yaml`` hold all of them: ``model`` is the package's,
``train.start_from`` and ``data.tokenizer.path`` name it. Heads are kept by their type; of a type
that the package lacks, a new one is made.

Where no learning rate is given, it is the usual one of fine-tuning that package (see
``training.learning_rates``): 5e-5 at BERT's width, which Sun et al. 2019 took for further
pre-training, and less on wider models. Where no warm-up is given, it is 6 % of the steps, as in
Gururangan et al. 2020: the moments of the optimizer begin at 0.

Imports neither torch nor ray.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import RunSection
from orchestrator.config.yaml_files import parse_yaml, read_text
from orchestrator.errors import ConfigError, IntegrityError, Problem
from orchestrator.modeling.config import ModelConfig, read_config
from orchestrator.pretraining.objectives import trained_targets
from orchestrator.storage import read_json
from orchestrator.storage.run_state import CONFIG_NAME, JOURNAL_NAME

if TYPE_CHECKING:
    from orchestrator.modeling.targets.configs import TargetConfig
    from orchestrator.zoo import Package

FROM = "from"
GIVEN = (FROM, "target")
"""Keys of the section model beside a package."""
WARMUP_SHARE = 0.06
ADAPTIVE = ("adamw", "adamw8bit", "adafactor", "muon")
"""Optimizers that the usual learning rate is for."""
START = "start"
"""Step of a run that records where it started."""


def complete(data: Any) -> Any:
    """Return the settings of a job with those of the package that it goes on training.

    Raises:
        ConfigError: A setting contradicts the package, or no head of it can be trained.
        InputError: There is no such package.
    """
    model = data["model"]
    if not isinstance(model[FROM], str):
        return data
    run, job = _section(data, "run"), _section(data, "package")
    if "name" not in run and isinstance(job.get("name"), str):
        run = {"name": f"pretrain-{job['name']}"[:64], **run}
    problems = list(_contradictions(data, model))
    if problems:
        raise ConfigError(f"run {run.get('name')!r}", problems)
    from orchestrator.training.learning_rates import rate_for
    from orchestrator.zoo import Zoo

    zoo = Zoo(str(run.get("zoo", RunSection.model_fields["zoo"].default)))
    package = zoo.get(_pinned(run, model[FROM]))
    found = read_config(package.path)
    sections = {
        "run": run,
        "model": found.model_dump(mode="json") | {"target": _heads(model, found, package.ref)},
        "data": _with_tokenizer(_section(data, "data"), package),
        "train": _training(data, rate_for(zoo, package, lora=False).value, package.ref, run),
    }
    return {**data, **sections}


def _section(data: Any, name: str) -> Any:
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _contradictions(data: Any, model: Any) -> Iterator[Problem]:
    """Yield what is given although the package decides it."""
    origin = f"comes from {model[FROM]} (model.from). Leave it out."
    for key in model:
        if key not in GIVEN:
            yield Problem(f"model.{key}", origin)
    if _section(data, "data").get("tokenizer"):
        yield Problem("data.tokenizer", origin)
    train = _section(data, "train")
    if train.get("start_from") is not None:
        yield Problem("train.start_from", "and model.from both name a start. Give one of them.")
    kind = _section(train, "optimizer").get("type", ADAPTIVE[0])
    if kind not in ADAPTIVE and "learning_rate" not in _section(train, "optimizer"):
        yield Problem(
            "train.optimizer.learning_rate",
            f"is needed with type: {kind}. The usual rate is for {', '.join(ADAPTIVE)}.",
        )


def _place(run: Any) -> Path:
    return Path(str(run.get("dir", RunSection.model_fields["dir"].default)), str(run.get("name")))


def _pinned(run: Any, reference: str) -> str:
    """Return the version that the run began with, else the reference: aliases may have moved."""
    try:
        began = read_json(_place(run) / JOURNAL_NAME / f"{START}.json")["payload"]["package"]
    except (OSError, IntegrityError, KeyError, TypeError):
        return reference
    names = {text.partition("@")[0].partition("/")[0] for text in (reference, str(began))}
    return str(began) if len(names) == 1 and "/" not in reference else reference


def _heads(model: Any, found: ModelConfig, ref: str) -> list[Any]:
    """Return the targets: those of the package where only a type is given.

    Raises:
        ConfigError: None is given, and no head of the package can be trained.
    """
    stored = {target.type_name(): target.model_dump(mode="json") for target in found.target}
    if model.get("target") is None:
        kept = [head for name, head in stored.items() if name in trained_targets()]
        if not kept:
            message = (
                f"is needed: no head of {ref} is pre-trained (it has {', '.join(stored) or 'none'})"
                ". Name one, for example model.target=mlm."
            )
            raise ConfigError("model.from", [Problem("model.target", message)])
        return kept
    given = model["target"] if isinstance(model["target"], list) else [model["target"]]
    heads = []
    for target in given:
        plain = {"type": target} if isinstance(target, str) else target
        bare = isinstance(plain, dict) and set(plain) == {"type"}
        heads.append(stored.get(plain["type"], plain) if bare else target)
    return heads


def _with_tokenizer(section: Any, package: "Package") -> Any:
    """Return the section data with the package's tokenizer, if it has one."""
    has = (package.path / "tokenizer.json").is_file()
    if not has or section.get("prepared") is not None:
        return section
    return {**section, "tokenizer": {"path": str(package.path)}}


def _usual_warmup(run: Any, steps: Any) -> int:
    """Return the warm-up of a number of steps; a run that is prolonged has that of its first ones.

    Args:
        run: The section run.
        steps: Steps of the whole run, as they are given.
    """
    path, usual = _place(run) / CONFIG_NAME, _share(steps)
    try:
        began = parse_yaml(read_text(path), str(path))[0]["train"]
        first, warmup = _share(began["max_steps"]), int(began["schedule"]["warmup_steps"])
    except (ConfigError, KeyError, TypeError, ValueError):
        return usual  # a new run, or one that is refused elsewhere
    return warmup if warmup == first else usual


def _share(steps: Any) -> int:
    return round(WARMUP_SHARE * steps) if isinstance(steps, int | float) else 0


def _training(data: Any, rate: float, ref: str, run: Any) -> Any:
    """Return the section train with its start, and the usual rate and warm-up."""
    from orchestrator.training.config import TrainConfig

    train = _section(data, "train")
    steps = train.get("max_steps", TrainConfig.model_fields["max_steps"].default)
    warmup = _usual_warmup(run, steps)
    return {
        **train,
        "optimizer": {"learning_rate": rate, **_section(train, "optimizer")},
        "schedule": {"warmup_steps": warmup, **_section(train, "schedule")},
        "start_from": {"package": ref},
    }


def new_heads(stored: ModelConfig, model: ModelConfig) -> "list[TargetConfig]":
    """Return the targets of a model that a package does not have."""
    return [target for target in model.target if target not in stored.target]
