"""State that survives a killed process: atomic commits, hashes, locks, run folders, stores."""

from orchestrator.storage.atomic import (
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    is_temporary,
    sweep_temporary,
    temporary_sibling,
)
from orchestrator.storage.commit import FolderExistsError, commit_folder, commit_new_folder, staged
from orchestrator.storage.files import FileEntry, sha256_bytes, sha256_file, write_hashed
from orchestrator.storage.json_files import jsonable, read_json, read_model
from orchestrator.storage.locks import FileLock, LockedError, locked
from orchestrator.storage.runs import RunFolder
from orchestrator.storage.verify import newest_valid, read_manifest, verify_folder

__all__ = [
    "FileEntry",
    "FileLock",
    "FolderExistsError",
    "LockedError",
    "RunFolder",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "commit_folder",
    "commit_new_folder",
    "is_temporary",
    "jsonable",
    "locked",
    "newest_valid",
    "read_json",
    "read_manifest",
    "read_model",
    "sha256_bytes",
    "sha256_file",
    "staged",
    "sweep_temporary",
    "temporary_sibling",
    "verify_folder",
    "write_hashed",
]
