"""Low-rank adapters of the library ``peft``: merged into a package, kept beside it, given back.

The child has the weights of base and adapter in one. With ``keep``, the adapter's own files lie
under ``state/adapter`` as well, from where an export takes them.
"""

import shutil
from pathlib import Path
from typing import Any, Final

import torch

from orchestrator.errors import InputError, IntegrityError
from orchestrator.inference.examination import examine_draft
from orchestrator.modeling.huggingface.importing import original_of
from orchestrator.modeling.huggingface.peft import CONFIG, WEIGHTS, read_adapter
from orchestrator.modeling.huggingface.sources import PROCESSOR_FILES, locate
from orchestrator.modeling.huggingface.tokenization.completion import copy_translation
from orchestrator.modeling.lora import merged_state
from orchestrator.modeling.model import Model
from orchestrator.modeling.package import load_model, read_config, write_model
from orchestrator.modeling.sentence.statement import copy_statement
from orchestrator.storage.atomic import temporary_sibling
from orchestrator.storage.operations import replace
from orchestrator.zoo import Package, Zoo
from orchestrator.zoo.gate import Promotion

ADAPTER_FOLDER: Final = "state/adapter"
"""Folder of a package with the files of its adapter, in the format of peft."""
MAX_DIFFERENCE: Final = 1e-3
"""Largest difference between the outputs of the adapted and of the merged model."""


def import_adapter(
    zoo: Zoo,
    source: str,
    onto: str,
    *,
    name: str | None = None,
    keep: bool = False,
    revision: str | None = None,
    licence: str | None = None,
    promotion: Promotion | None = None,
) -> Package:
    """Merge an adapter into a package and commit the child.

    Args:
        zoo: Where both packages lie.
        source: ``hf:<folder>`` or ``hf:<owner>/<repository>`` of the adapter.
        onto: Package that it was trained on.
        name: Name of the child; None: that of the base.
        keep: Keep the adapter's files in the child.
        revision: Commit of a repository.
        licence: SPDX identifier; None: that of the base.
        promotion: Limits of the gate on what the base promised; None: the default ones.

    Returns:
        The child; ``rejected`` where it breaks a promise of the base.

    Raises:
        InputError: No adapter there, options that are not supported, or a quantized base.
        IntegrityError: The adapter does not fit the base, or the numeric check failed.
    """
    base = zoo.get(onto)
    if base.kind == "quantized":
        raise InputError(f"{base.ref} is quantized. Give the float package it was made from.")
    origin = locate(source, revision)
    model = load_model(base.path)
    layers = read_adapter(origin.folder, model, _class_of(base))
    model.eval()
    task = base.manifest.task
    with zoo.draft(
        name or base.name,
        kind="finetuned",
        producer={"stage": "import", "source": source, "revision": origin.revision},
        parents=[base],
        task=None if task is None else task.model_dump(mode="json"),
        licence=licence or base.manifest.licence,
    ) as draft:
        for file in ("huggingface.json", *PROCESSOR_FILES):
            if (base.path / file).is_file():
                shutil.copyfile(base.path / file, draft.path / file)
        copy_translation(base.path, draft.path)
        copy_statement(base.path, draft.path)
        write_model(draft.path, merged_state(model), read_config(base.path))
        difference = _difference(model, load_model(draft.path).eval())
        if difference is not None:
            draft.metrics["import.max_abs_difference"] = difference
        draft.metrics["import.adapted_layers"] = len(layers)
        if keep:
            folder = draft.path / ADAPTER_FOLDER
            folder.mkdir(parents=True)
            for file in (CONFIG, WEIGHTS):
                shutil.copyfile(origin.folder / file, folder / file)
        examine_draft(draft, parent=base, promotion=promotion)
        return draft.commit()


def export_adapter(zoo: Zoo, ref: str, to: Path) -> list[str]:
    """Write the adapter of a package as a folder that ``PeftModel.from_pretrained`` opens.

    Args:
        zoo: Where the package and its base lie.
        ref: The package.
        to: A folder that does not exist yet, or is empty.

    Returns:
        Names of the adapted layers.

    Raises:
        InputError: The package keeps no adapter, or the folder is not empty.
        IntegrityError: The adapter does not fit the base.
    """
    package = zoo.get(ref)
    if not package.has(f"{ADAPTER_FOLDER}/{WEIGHTS}"):
        raise InputError(
            f"{package.ref} keeps no adapter. Import one with --keep-adapter; without --adapter, "
            "the whole model is exported."
        )
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} exists and is not empty. Give a new folder.")
    base = zoo.get(package.manifest.parents[0].ref)
    folder = package.path / ADAPTER_FOLDER
    layers = read_adapter(folder, load_model(base.path), _class_of(base))
    target = to.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = temporary_sibling(target)
    shutil.copytree(package.path / ADAPTER_FOLDER, staged)
    if target.is_dir():
        target.rmdir()
    replace(staged, target)
    return layers


def _class_of(package: Package) -> str | None:
    """Return the class that a package was imported as, if it was."""
    original = original_of(package.path)
    return None if original is None else original[0]


@torch.no_grad()
def _difference(adapted: Model, merged: Model) -> float | None:
    """Return how far the outputs of two models of texts are apart; None for other models.

    Raises:
        IntegrityError: Further than rounding explains.
    """
    config = adapted.config
    if not config.vocab_size:
        return None
    length = min(16, config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (2, length), generator=generator)
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    difference = float((adapted.encode(batch) - merged.encode(batch)).abs().max())
    if not difference <= MAX_DIFFERENCE:
        raise IntegrityError(
            f"merged outputs differ from the adapted ones by {difference:.2g}. Nothing was written."
        )
    return difference
