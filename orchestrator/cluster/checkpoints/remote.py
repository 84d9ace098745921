"""Training checkpoints of a run on an object store.

Every rank copies what it has written; rank 0 stores index, extra and at last the manifest, which is
the commit. Objects cannot be renamed, so a checkpoint has its final name from the beginning:
``checkpoints/step-<step>-<group>/``, with the number of the worker group that writes it
(`storage.claims`). So no two groups ever write the same object, a step that is committed again
replaces nothing that somebody reads, and what has no manifest is the rest of an older group. Of
several checkpoints of one step, that of the newest group counts.

Each host has a staging folder with the same names. Of a checkpoint that is loaded, a rank fetches
its share of the files while it verifies them, and another file when it is opened (`partial`).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from orchestrator.cluster.checkpoints.meetings import FAILED, WRITTEN, RemoteFolder
from orchestrator.cluster.checkpoints.reading import EXTRA, PREFIX, Source, step_of
from orchestrator.cluster.checkpoints.store import CHECKPOINTS, KEEP, CheckpointFolder
from orchestrator.errors import IntegrityError, StageError
from orchestrator.storage import FileEntry, atomic_write_bytes, sweep_temporary
from orchestrator.storage.commit import MANIFEST_NAME
from orchestrator.storage.disk_failures import explained
from orchestrator.storage.json_files import MAX_JSON_BYTES, json_bytes, parse_json
from orchestrator.storage.remote.mirror import Mirror
from orchestrator.storage.remote.partial import mark_partial
from orchestrator.storage.verify import check_manifest, require_sizes
from orchestrator.training.engines.engine import Engine
from orchestrator.training.engines.state_index import INDEX


class RemoteCheckpoints(CheckpointFolder):
    """The checkpoints of one run on an object store.

    Args:
        mirror: The run's folder of checkpoints.
        group: Number of the worker group that writes; 0: nobody writes, or a branch begins.
        keep: How many committed checkpoints stay.
    """

    def __init__(self, mirror: Mirror, group: int = 0, keep: int = KEEP) -> None:
        super().__init__(mirror.folder, keep)
        self.mirror, self.group = mirror, group
        self.where = mirror.store.root

    def name_of(self, step: int) -> str:
        """Return the name of a checkpoint that this group writes."""
        return f"{PREFIX}{step:08d}-{self.group:08d}"

    def steps(self) -> list[int]:
        """Return the steps of the committed checkpoints, in order."""
        return sorted(self._newest())

    def _listing(self) -> dict[str, dict[str, int]]:
        """Return name → file → bytes of every checkpoint, whether it is committed or not."""
        found: dict[str, dict[str, int]] = {}
        for path, size in self.mirror.store.sizes("").items():
            name, _, file = path.partition("/")
            if name.startswith(PREFIX) and file:
                found.setdefault(name, {})[file] = size
        return found

    def _newest(self) -> dict[int, str]:
        """Return step → name of the committed checkpoint that counts."""
        names = (name for name, files in self._listing().items() if MANIFEST_NAME in files)
        return {step_of(name): name for name in sorted(names, key=_group_of)}

    def _new_folder(self, step: int) -> Path:
        return self.root / self.name_of(step)

    def _folder(self, step: int) -> Path:
        return self.root / self._newest().get(step, self.name_of(step))

    def _meeting(self, staged: Path, final: Path) -> RemoteFolder:
        return RemoteFolder(self.mirror, final.name, staged)

    def _needed_bytes(self, engine: Engine) -> int:
        """Return the space that rank 0's share needs; other ranks may write on other hosts."""
        return super()._needed_bytes(engine) // engine.world

    def _publish(
        self, staged: Path, final: Path, header: dict[str, int], known: Mapping[str, FileEntry]
    ) -> None:
        """Store index and extra, see that everything has arrived, and store the manifest.

        Raises:
            StageError: The store failed for too long; names what was not stored.
        """
        name = final.name
        self.mirror.push([INDEX, EXTRA], name, staged)
        found = self.mirror.store.sizes(name)
        for each, entry in known.items():
            if found.get(each) != entry.bytes:
                raise StageError(
                    f"{self.where}/{name}/{each}: {found.get(each, 0):,} of {entry.bytes:,} bytes "
                    "arrived. Nothing was committed; start again."
                )
        files = {each: entry.model_dump() for each, entry in sorted(known.items())}
        content = json_bytes({**header, "files": files})
        with explained(staged):
            atomic_write_bytes(staged / MANIFEST_NAME, content)
            mark_partial(staged, f"{self.where}/{name}")
        self.mirror.push([MANIFEST_NAME], name, staged)

    def clear(self, keep_every: int = 0, keep_last: int = 0) -> None:
        """See `CheckpointFolder.clear`; what was never committed goes as well."""
        super().clear(keep_every, keep_last)
        for name in set(self._listing()) - set(self._newest().values()):
            self._drop(name)

    def _remove(self, step: int) -> None:
        for name in self._listing():
            if step_of(name) == step:
                self._drop(name)

    def _drop(self, name: str) -> None:
        self.mirror.store.drop(name)
        shutil.rmtree(self.root / name, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what older groups left: without a manifest, or replaced by a newer group."""
        sweep_temporary(self.root, grace_s=0)
        listing, newest = self._listing(), set(self._newest().values())
        for name in listing:
            if name not in newest and _group_of(name) < max(self.group, 1):
                self._drop(name)

    def _source(self, step: int) -> Source:
        return RemoteSource(self.mirror, self._folder(step).name)


class RemoteSource(Source):
    """A committed checkpoint on an object store.

    Args:
        mirror: The run's folder of checkpoints.
        name: Of the checkpoint.
    """

    def __init__(self, mirror: Mirror, name: str) -> None:
        super().__init__(mirror.folder / name)
        self._mirror, self._name = mirror, name
        self.where = f"{mirror.store.root}/{name}"

    def listed(self) -> bytes:
        """See `Source.listed`."""
        try:
            return self._mirror.store.read(f"{self._name}/{MANIFEST_NAME}", MAX_JSON_BYTES)
        except FileNotFoundError as error:
            raise IntegrityError(f"{self.where}: was removed meanwhile.") from error

    def manifest(self) -> bytes:
        """See `Source.manifest`."""
        content = self.listed()
        manifest = check_manifest(parse_json(content, self.where), self.where)
        found = self._mirror.store.sizes(self._name)
        own = {name: size for name, size in found.items() if not _is_mark(name)}
        require_sizes(self.where, manifest["files"], own)
        return content

    def begin(self, manifest: bytes) -> None:
        """See `Source.begin`: make the folder one whose files come when they are needed."""
        atomic_write_bytes(self.folder / MANIFEST_NAME, manifest)
        mark_partial(self.folder, self.where)
        entry = check_manifest(parse_json(manifest, self.where), self.where)["files"].get(INDEX)
        if entry is not None:
            self.require(INDEX, entry["sha256"])

    def require(self, name: str, sha256: str) -> None:
        """See `Source.require`."""
        self._mirror.pull({name: sha256}, self._name)


def _is_mark(name: str) -> bool:
    return name in (MANIFEST_NAME, FAILED) or name.startswith(WRITTEN)


def _group_of(name: str) -> int:
    return int(name.split("-")[2])


def checkpoints_of(folder: Path, mirror: Mirror | None, group: int = 0) -> CheckpointFolder:
    """Return the checkpoints of a run.

    Args:
        folder: Its folder, or this host's staging folder.
        mirror: The run on an object store; None: it is in the folder.
        group: See `RemoteCheckpoints`.
    """
    if mirror is None:
        return CheckpointFolder(folder / CHECKPOINTS)
    return RemoteCheckpoints(mirror.within(CHECKPOINTS), group)
