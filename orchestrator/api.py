"""The Python interface: the functions behind the command line, and packages as callables.

    import orchestrator

    spam = orchestrator.load("spam@champion")
    spam.predict(["You won a prize", "See you at nine"])
    orchestrator.run("evaluate", {"package": "spam", "data": {"source": frame}})

Where a setting names a file of rows, a pandas DataFrame or a list of mappings may stand.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli import JOBS
from orchestrator.config import JobConfig, JobResult, did_you_mean, validate_config
from orchestrator.data.in_memory import with_stored_tables
from orchestrator.errors import InputError
from orchestrator.zoo import Package, Zoo

if TYPE_CHECKING:
    from orchestrator.arrays import Float32Array
    from orchestrator.data.in_memory import Table
    from orchestrator.data.rows.rows import Rows
    from orchestrator.finetuning.evaluating.results import EvaluationReport
    from orchestrator.finetuning.generating.runner import Writer
    from orchestrator.inference.predictor import Predictor
    from orchestrator.tasks.base import Answer, AnyTask

__all__ = ["LoadedPackage", "finetune", "load", "run"]


class LoadedPackage:
    """A package in memory: texts in, answers out.

    Attributes:
        package: The verified package.
        predictor: Its model, tokenizer and tasks.
        zoo: Path of the zoo that it is from.
    """

    def __init__(
        self, package: Package, predictor: "Predictor", zoo: str, device: str = "cpu"
    ) -> None:
        self.package, self.predictor, self.zoo = package, predictor, zoo
        self._device = device
        self._writer: Writer | None = None

    def __repr__(self) -> str:
        return f"LoadedPackage({self.ref!r}, tasks={list(self.tasks)})"

    @property
    def ref(self) -> str:
        """Reference of the package, like ``spam/v0003``."""
        return self.package.ref

    @property
    def tasks(self) -> "dict[str, AnyTask]":
        """Tasks that it answers, by the name of the head."""
        return self.predictor.tasks

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels of the default head, in the order of the scores."""
        return self.predictor.task().labels

    def predict(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        target: str | None = None,
    ) -> "list[Answer]":
        """Answer texts; the answers are those of ``orchestrator predict`` and of HTTP.

        Args:
            texts: One or more texts.
            pairs: Their second texts, for tasks that read two.
            target: Head that answers; None: the one the package was made for.

        Raises:
            InputError: A text is empty or not a string, or the package has no such head.
        """
        return self.predictor.answers(_rows(texts, pairs), target)

    __call__ = predict

    def embed(self, texts: Sequence[str], prompt: str | None = None) -> "Float32Array":
        """Return one vector per text, float32 [N, D].

        Args:
            texts: One or more texts.
            prompt: Name of a prompt that the package states; None: its default one, if it has one;
                an empty name: no prompt.

        Raises:
            InputError: A text is empty or not a string, or the prompt is unknown.
        """
        return self.predictor.embed(_rows(texts, None), prompt=prompt)

    def generate(self, prompts: str | Sequence[str], **options: Any) -> list[str]:
        """Continue prompts, or answer them with an encoder-decoder.

        Args:
            prompts: One text or several.
            options: Of ``GenerationConfig``: ``max_new_tokens=64``, ``sample=True``,
                ``num_beams=4``, ``repetition_penalty=1.2``, ``stop=["END"]``, ...

        Returns:
            The new text of each prompt; with ``num_return_sequences``, of each result.

        Raises:
            InputError: The package writes no text, or a prompt is empty.
            ConfigError: An option is not known or not valid.
        """
        from orchestrator.finetuning.generating.runner import Writer
        from orchestrator.modeling.generation.config import GenerationConfig

        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        _rows(texts, None)
        config = validate_config(GenerationConfig, options, "generate()")
        if self._writer is None:
            self._writer = Writer(self.package, device=self._device)
        return [text for prompt in texts for text in self._writer.write(prompt, config)]

    def evaluate(self, data: "str | Table", **settings: Any) -> "EvaluationReport":
        """Measure the package on labelled rows; the report also lies in the run folder.

        Args:
            data: A source such as ``files:mails.csv``, a DataFrame, or a list of mappings.
            settings: Further settings of ``orchestrator evaluate``, such as ``compare="other"`` or
                ``text_column="body"`` of the data.

        Raises:
            ConfigError: A setting is not known or not valid.
            InputError: The data do not fit the package.
        """
        from orchestrator.finetuning.evaluating.results import EVALUATION_FILE, EvaluationReport
        from orchestrator.storage import read_model

        columns = {name: settings.pop(name) for name in list(settings) if name in _data_settings()}
        section: dict[str, Any] = {"zoo": self.zoo, **settings.pop("run", {})}
        result = run(
            "evaluate",
            {"package": self.ref, "data": {"source": data, **columns}, "run": section, **settings},
        )
        return read_model(Path(result.run_dir) / EVALUATION_FILE, EvaluationReport)


def load(
    ref: str,
    *,
    zoo: str | Path = "zoo",
    target: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    max_length: int | None = None,
) -> LoadedPackage:
    """Load a package, completely verified.

    Args:
        ref: ``name`` (the champion if there is one, else the latest), ``name@alias`` or
            ``name/v0003``.
        zoo: Where it lies: a path, ``s3://`` or ``gs://``.
        target: Head that answers by default; None: the one the package was made for.
        device: Where the model runs.
        threads: Threads of the model.
        max_length: Longest text in tokens, if smaller than the package's limit.

    Raises:
        InputError: There is no such package or head.
        IntegrityError: It is damaged.
    """
    from orchestrator.inference.predictor import Predictor

    package = Zoo(zoo).get(ref)
    predictor = Predictor.open(
        package, target=target, device=device, threads=threads, max_length=max_length
    )
    return LoadedPackage(package, predictor, str(zoo), device)


def run(verb: str, settings: Mapping[str, Any]) -> JobResult:
    """Run a verb, as the command line and the job scripts do.

    Args:
        verb: ``evaluate``, ``select``, ``quantize``, ...; see ``orchestrator --help``.
        settings: What its YAML file holds. A DataFrame or a list of mappings may stand for the
            name of a file of rows; it is written to ``<run.dir>/data`` under the digest of its
            content, and the job names that file.

    Returns:
        What the command line prints last.

    Raises:
        ConfigError: Settings are not known or not valid; all problems are listed.
        OrchestratorError: As the verb does.
    """
    if verb not in JOBS:
        raise InputError(f"{verb!r} is not a verb that runs. {did_you_mean(verb, JOBS, 'Verbs')}")
    job = JOBS[verb]
    config_class: type[JobConfig] = job.load(job.config)
    config = validate_config(config_class, with_stored_tables(settings), f"run({verb!r})")
    result: JobResult = job.load(job.run)(config)
    return result


def finetune(
    package: str, data: "str | Table", output: str, *, zoo: str | Path = "zoo", **settings: Any
) -> LoadedPackage:
    """Fine-tune a package on labelled rows and load the result.

    Args:
        package: Package to start from.
        data: A source such as ``files:mails.csv``, a DataFrame, or a list of mappings.
        output: Name of the package that is committed.
        zoo: Where both lie.
        settings: Further settings of ``orchestrator finetune``.

    Raises:
        ConfigError: Settings are not known or not valid.
        OrchestratorError: As ``orchestrator finetune`` does.
    """
    columns = {name: settings.pop(name) for name in list(settings) if name in _data_settings()}
    section: dict[str, Any] = {"zoo": str(zoo), **settings.pop("run", {})}
    result = run(
        "finetune",
        {
            "package": package,
            "data": {"source": data, **columns},
            "output": output,
            "run": section,
            **settings,
        },
    )
    return load(str(result.package), zoo=zoo)


def _data_settings() -> set[str]:
    """Return the names of settings of a data set that may be given directly."""
    from orchestrator.data.spec import DatasetSpec

    return set(DatasetSpec.model_fields) - {"source", "seed"}


def _rows(texts: Sequence[str], pairs: Sequence[str] | None) -> "Rows":
    """Return texts as rows.

    Raises:
        InputError: One is empty or not a string, or texts and pairs are not equally many.
    """
    from orchestrator.inference.inputs import rows_of_texts

    for name, values in (("texts", texts), ("pairs", pairs or [])):
        if isinstance(values, str):
            raise InputError(f"{name} is one string. Give a list: [{values[:40]!r}].")
        for index, value in enumerate(values):
            if not isinstance(value, str):
                kind = type(value).__name__
                raise InputError(f"{name}[{index}] is not a string but {kind}: {value!r:.60}.")
            if not value.strip():
                raise InputError(f"{name}[{index}] is empty.")
    if pairs is not None and len(pairs) != len(texts):
        raise InputError(f"{len(texts)} texts and {len(pairs)} pairs. Give as many of both.")
    return rows_of_texts(list(texts), None if pairs is None else list(pairs))
