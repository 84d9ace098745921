"""Build of a committed corpus from its sources, and the integrity check of one.

    corpus-<digest>/
      plan.json                 pieces, and the rule for held-out documents
      tokenizer.json ...        see ``processors``
      train-00000.arrow ...     the shards, see ``shard``
      manifest.json             written last: its presence means that the corpus is complete

The folder grows in place. An interrupted build resumes: the plan is written as soon as it and the
tokenizer are fixed, and a finished shard stays. The order of the work does not change the bytes.

Every process checks names and sizes, and the hashes of small files: plan, tokenizer, sidecars. The
driver of a job also hashes the shards: all of them up to one gibibyte, beyond that a sample of one
gibibyte at equal distances, because hashing a large corpus takes minutes. A shard is also hashed
when it is written and when an interrupted build resumes.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

from orchestrator.data.corpora.manifests import (
    CORPUS_FORMAT,
    CorpusManifest,
    FileEntry,
    ShardCounts,
    read_as,
)
from orchestrator.data.corpora.prepared import KIND
from orchestrator.data.processors.text import TextProcessor, chosen_tokenizer
from orchestrator.data.processors.tokenizer_files import TOKENIZER
from orchestrator.data.sharded.contracts import (
    SPLITS,
    CorpusJob,
    Mapper,
    Plan,
    PlannedShard,
    ShardRules,
    ShardTask,
    Sidecar,
    StoredPlan,
    Watch,
    content_hash,
    with_progress,
)
from orchestrator.data.sharded.shard import build_shard, entry_of, sidecar_file
from orchestrator.data.sharded.survey import Sample, survey
from orchestrator.data.sources.lines import REPAIRED
from orchestrator.errors import IntegrityError
from orchestrator.storage import atomic_write_json, read_json, read_manifest, sha256_file
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.files import scan
from orchestrator.storage.operations import make_folder, remove, sync_file
from orchestrator.storage.verify import require_hash, require_sizes

logger = logging.getLogger(__name__)

PLAN = "plan.json"
STEP = "shard"
SMALL_BYTES = 1 << 20  # files up to this size are always hashed
HASHED_BYTES = 1 << 30  # hashed of larger files in a thorough check


def build(job: CorpusJob, mapper: Mapper, watch: Watch) -> None:
    """Build the corpus of a job, or the missing rest of it, and commit it.

    Raises:
        InputError: Fewer than two documents differ, or a source cannot be read.
        StageError: The folder cannot be written.
    """
    plan = _stored_plan(Path(job.folder)) or _new_plan(job, mapper, watch)
    rules = ShardRules(held_out=plan.held_out, tokenizer_sha256=plan.tokenizer_sha256)
    tasks = [
        ShardTask(number=number, piece=shard.piece, documents=shard.documents)
        for number, shard in enumerate(plan.shards)
    ]
    task = partial(build_shard, job=job, rules=rules)
    shards = with_progress(mapper, watch, STEP, task, tasks)
    _commit(job, plan, [shard.sidecar for shard in shards])


def uncommit(folder: Path) -> None:
    """Remove the manifest of a damaged corpus, so that a build keeps its intact files."""
    with explained(folder):
        remove(folder / MANIFEST_NAME)


def check_corpus(folder: Path, thorough: bool) -> CorpusManifest:
    """Check a committed corpus.

    Args:
        folder: Folder of the corpus.
        thorough: Also hash the shards.

    Returns:
        The manifest.

    Raises:
        IntegrityError: It is not a corpus of this format, or a file is missing, changed or not
            listed.
    """
    stored = read_manifest(folder)
    found = scan(folder)
    found.pop(MANIFEST_NAME, None)
    require_sizes(str(folder), stored["files"], found)
    if stored.get("kind") != KIND or stored.get("format") != CORPUS_FORMAT:
        raise IntegrityError(
            f"{folder}: is a {stored.get('kind')} of format {stored.get('format')}, and this "
            f"version reads a {KIND} of format {CORPUS_FORMAT}. Build it again."
        )
    manifest = read_as(CorpusManifest, stored, folder)
    files = manifest.files
    small = [name for name, entry in files.items() if entry.bytes <= SMALL_BYTES]
    large = [name for name, entry in files.items() if entry.bytes > SMALL_BYTES]
    for name in [*small, *(_sampled(large, files) if thorough else ())]:
        require_hash(folder / name, files[name].sha256)
    return manifest


def _stored_plan(folder: Path) -> Plan | None:
    """Return the plan of an earlier build if it and the tokenizer are intact."""
    try:
        stored = StoredPlan.model_validate(read_json(folder / PLAN))
        plan = stored.plan
        whole = stored.sha256 == content_hash(plan) and all(
            sha256_file(folder / name) == sha256 for name, sha256 in plan.tokenizer_files.items()
        )
    except (OSError, IntegrityError, ValueError):
        return None
    return plan if whole else None


def _new_plan(job: CorpusJob, mapper: Mapper, watch: Watch) -> Plan:
    """Survey the sources, train or take the tokenizer, and store the plan of all shards."""
    found, folder = survey(job, mapper, watch), Path(job.folder)
    processor = chosen_tokenizer(job.config, Sample(found, job.sources()))
    with explained(folder):
        make_folder(folder)
        names = processor.save(folder)
        for name in names:
            sync_file(folder / name)
    tokenizer_files = {name: sha256_file(folder / name) for name in names}
    plan = Plan(
        shards=tuple(
            PlannedShard(piece=piece, documents=documents)
            for piece, documents in zip(found.pieces, found.documents, strict=True)
        ),
        held_out=found.held_out,
        tokenizer_sha256=tokenizer_files[TOKENIZER],
        tokenizer_files=tokenizer_files,
    )
    atomic_write_json(folder / PLAN, StoredPlan(plan=plan, sha256=content_hash(plan)))
    return plan


def _commit(job: CorpusJob, plan: Plan, sidecars: Sequence[Sidecar]) -> None:
    """Write the manifest. Shards were hashed when they were built and are not read again."""
    folder, config = Path(job.folder), job.config
    known = {name: entry for sidecar in sidecars for name, entry in sidecar.files.items()}
    others = [PLAN, *plan.tokenizer_files, *(sidecar_file(sidecar.number) for sidecar in sidecars)]
    known |= {name: entry_of(folder / name) for name in others}
    _remove_all_but(folder, set(known))
    rejected = sum((Counter(sidecar.rejected) for sidecar in sidecars), Counter[str]())
    repaired = rejected.pop(REPAIRED, 0)
    if repaired:
        logger.warning("%s: %d × %s", config.title, repaired, REPAIRED)
    if rejected:
        logger.warning("event=left_out source=%s reasons=%s", config.title, dict(rejected))
    manifest = CorpusManifest(
        builder=f"ray-model-orchestrator {metadata.version('ray-model-orchestrator')}",
        config=config,
        source=json.loads(job.identity),
        tokenizer_sha256=plan.tokenizer_sha256,
        vocab_size=TextProcessor.load(folder).vocab_size,
        block_size=config.block_size,
        documents=_sums([sidecar.documents for sidecar in sidecars]),
        tokens=_sums([sidecar.tokens for sidecar in sidecars]),
        blocks=_blocks(sidecars, len(config.specs)),
        rejected=dict(sorted(rejected.items())),
        repaired=repaired,
        unknown=sum(sidecar.unknown for sidecar in sidecars),
        shards=tuple(
            ShardCounts(source=s.source, documents=s.documents, tokens=s.tokens, blocks=s.blocks)
            for s in sidecars
        ),
        files=dict(sorted(known.items())),
    )
    atomic_write_json(folder / MANIFEST_NAME, manifest)


def _remove_all_but(folder: Path, names: set[str]) -> None:
    """Remove leftovers of killed workers and earlier versions, which the manifest does not list."""
    with explained(folder):
        for path in folder.iterdir():
            if path.name not in names:
                remove(path)


def _sums(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {split: sum(each[split] for each in counts) for split in SPLITS}


def _blocks(sidecars: Sequence[Sidecar], sources: int) -> dict[str, tuple[int, ...]]:
    """Return the number of blocks of each source, by split."""
    return {
        split: tuple(
            sum(sidecar.blocks[split] for sidecar in sidecars if sidecar.source == source)
            for source in range(sources)
        )
        for split in SPLITS
    }


def _sampled(names: list[str], files: dict[str, FileEntry]) -> list[str]:
    """Return the names, or a sample at equal distances of about one gibibyte."""
    total = sum(files[name].bytes for name in names)
    count = len(names) if total <= HASHED_BYTES else max(1, len(names) * HASHED_BYTES // total)
    return [names[number * len(names) // count] for number in range(count)]
