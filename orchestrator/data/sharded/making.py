"""From sources to a committed corpus: survey, tokenizer, shards, manifest.

    corpus-<digest>/
      plan.json                 pieces, and which documents are held out
      tokenizer.json ...        see ``processors``
      train-00000.arrow ...     the shards, see ``shard``
      manifest.json             written last: its presence means that the corpus is whole

The folder grows in place. A making that was stopped goes on where it was: the plan is written when
it and the tokenizer are fixed, and then is kept; a shard that is finished is kept. Whatever is done
in whatever order gives the same bytes.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from orchestrator.data.corpora.prepared import KIND
from orchestrator.data.processors.text import TextProcessor, chosen_tokenizer
from orchestrator.data.processors.tokenizer_files import HUGGING_FACE, SETTINGS, TOKENIZER
from orchestrator.data.sharded.mapping import Mapper, Row, Site, Watch, watched
from orchestrator.data.sharded.shard import SPLITS, make_shard, plan_hash, sidecar_file
from orchestrator.data.sharded.survey import Sample, Survey, survey
from orchestrator.errors import IntegrityError
from orchestrator.storage import atomic_write_json, jsonable, read_json, sha256_file
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.failures import explained
from orchestrator.storage.operations import make_folder, remove, sync_file

logger = logging.getLogger(__name__)

FORMAT = 3
PLAN = "plan.json"
TOKENIZER_FILES = (TOKENIZER, SETTINGS, HUGGING_FACE)
SHOWN = ("source", "documents", "tokens", "blocks")  # of a sidecar in the manifest
STEP = "shard"


def make(site: Site, mapper: Mapper, watch: Watch) -> None:
    """Make the corpus of a site, or what is missing of it, and commit it.

    Raises:
        InputError: fewer than two documents differ, or a source cannot be read.
        StageError: the folder cannot be written.
    """
    folder = Path(site.folder)
    plan = _kept_plan(folder) or _new_plan(site, mapper, watch)
    rules = {"held_out": plan["held_out"], "tokenizer_sha256": plan["tokenizer_sha256"]}
    rows = [{"number": number, **shard} for number, shard in enumerate(plan["shards"])]
    task = partial(make_shard, site=site, rules=rules)
    sidecars = watched(mapper, watch, STEP, task, rows)
    _commit(site, plan, sidecars)


def uncommit(folder: Path) -> None:
    """Take the manifest from a damaged corpus, so that making goes on with what is whole of it."""
    with explained(folder):
        remove(folder / MANIFEST_NAME)


def _kept_plan(folder: Path) -> dict[str, Any] | None:
    """Return the plan of an earlier making if it and the tokenizer are whole."""
    try:
        stored = read_json(folder / PLAN)
        plan: dict[str, Any] = stored["plan"]
        whole = stored["sha256"] == plan_hash(plan) and all(
            sha256_file(folder / name) == sha256 for name, sha256 in plan["tokenizer_files"].items()
        )
    except (OSError, IntegrityError, KeyError, TypeError):
        return None
    return plan if whole else None


def _new_plan(site: Site, mapper: Mapper, watch: Watch) -> dict[str, Any]:
    """Read everything once, train or take the tokenizer, and write down what all shards share."""
    found, folder = survey(site, mapper, watch), Path(site.folder)
    processor = chosen_tokenizer(site.config, Sample(found, site.sources()))
    with explained(folder):
        make_folder(folder)
        processor.save(folder)
        for name in TOKENIZER_FILES:
            sync_file(folder / name)
    plan = _plan(found, {name: sha256_file(folder / name) for name in TOKENIZER_FILES})
    atomic_write_json(folder / PLAN, {"plan": plan, "sha256": plan_hash(plan)})
    return plan


def _plan(found: Survey, tokenizer_files: dict[str, str]) -> dict[str, Any]:
    shards = [
        {"piece": piece.as_json(), "documents": documents}
        for piece, documents in zip(found.pieces, found.documents, strict=True)
    ]
    plan = {
        "shards": shards,
        "held_out": found.held_out,
        "tokenizer_sha256": tokenizer_files[TOKENIZER],
        "tokenizer_files": tokenizer_files,
    }
    return dict(jsonable(plan))


def _commit(site: Site, plan: dict[str, Any], sidecars: Sequence[Row]) -> None:
    """Write the manifest. Shards were hashed when they were made and are not read again."""
    folder, config = Path(site.folder), site.config
    known = {name: entry for sidecar in sidecars for name, entry in sidecar["files"].items()}
    others = [PLAN, *TOKENIZER_FILES, *(sidecar_file(row["number"]) for row in sidecars)]
    for name in others:
        path = folder / name
        known[name] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    _remove_all_but(folder, set(known))
    rejected = sum((Counter(row["rejected"]) for row in sidecars), Counter[str]())
    if rejected:
        logger.warning("event=left_out source=%s reasons=%s", config.title, dict(rejected))
    manifest = {
        "kind": KIND,
        "format": FORMAT,
        "builder": f"ray-model-orchestrator {metadata.version('ray-model-orchestrator')}",
        "config": config,
        "source": json.loads(site.identity),
        "tokenizer_sha256": plan["tokenizer_sha256"],
        "vocab_size": TextProcessor.load(folder).vocab_size,
        "block_size": config.block_size,
        "documents": _sums(sidecars, "documents"),
        "tokens": _sums(sidecars, "tokens"),
        "blocks": _blocks(sidecars, len(config.specs)),
        "rejected": dict(sorted(rejected.items())),
        "shards": [{name: row[name] for name in SHOWN} for row in sidecars],
        "files": dict(sorted(known.items())),
    }
    atomic_write_json(folder / MANIFEST_NAME, manifest)


def _remove_all_but(folder: Path, names: set[str]) -> None:
    """Remove what killed workers and earlier versions left: a corpus is what its manifest lists."""
    with explained(folder):
        for path in folder.iterdir():
            if path.name not in names:
                remove(path)


def _sums(sidecars: Sequence[Row], figure: str) -> dict[str, int]:
    return {split: sum(row[figure][split] for row in sidecars) for split in SPLITS}


def _blocks(sidecars: Sequence[Row], sources: int) -> dict[str, list[int]]:
    """Return the number of blocks of each source, by split."""
    return {
        split: [
            sum(row["blocks"][split] for row in sidecars if row["source"] == source)
            for source in range(sources)
        ]
        for split in SPLITS
    }
