"""Sources of checkpoints, folders or repositories of the Hub, and the files that are used."""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import nearest
from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.config import INDEX, WEIGHTS
from orchestrator.modeling.huggingface.folder import CONFIG
from orchestrator.storage.files import sha256_file

SCHEME = "hf:"
PROCESSOR_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "tokenizer.model", "source.spm", "target.spm", "spm.model", "normalizer.json",
    "chat_template.jinja", "chat_template.json", "preprocessor_config.json",
    "processor_config.json", "video_preprocessor_config.json", "generation_config.json",
)  # fmt: skip
"""Data of tokenizers, processors and generation that travels with a model, byte for byte."""
OF_TEXT_AND_GENERATION = (
    "chat_template.jinja", "chat_template.json", "normalizer.json", "generation_config.json",
)  # fmt: skip
"""Those that our processors do not write, and that hold for a fine-tuned model as well."""
WEIGHT_PATTERNS = (WEIGHTS, INDEX, "model-*.safetensors")
SENTENCE_PATTERNS = (
    "modules.json", "sentence_*_config.json", "config_sentence_transformers.json",
    "[0-9]*_*/config.json", "[0-9]*_*/model.safetensors",
)  # fmt: skip
"""Files of sentence-transformers, and those of its modules in folders such as ``1_Pooling``."""
WANTED = (
    CONFIG, "adapter_config.json", "adapter_model.safetensors", *WEIGHT_PATTERNS,
    *PROCESSOR_FILES, *SENTENCE_PATTERNS,
)  # fmt: skip
"""Files that are downloaded from the Hub; no others are requested."""
MAX_PROCESSOR_BYTES = 256 * 2**20
_REPOSITORY = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True, slots=True)
class Origin:
    """A checkpoint on this machine.

    Attributes:
        source: What the user named, ``hf:...``.
        folder: Where the files are.
        root: Folder that no link may lead out of.
        revision: Commit of the repository, if it comes from the Hub.
    """

    source: str
    folder: Path
    root: Path
    revision: str | None = None

    @property
    def name(self) -> str:
        """A package name made from the source."""
        last = Path(self.source.removeprefix(SCHEME)).name or self.folder.resolve().name
        return package_name(last)


def package_name(text: str) -> str:
    """Return a text as the name of a package: small letters, digits, ``.``, ``_`` and ``-``."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:64] or "model"


def locate(source: str, revision: str | None = None) -> Origin:
    """Find a checkpoint, and download it if it is a repository's name.

    Args:
        source: ``hf:<folder>`` or ``hf:<owner>/<repository>``.
        revision: Branch, tag or commit of a repository.

    Raises:
        InputError: The folder does not exist, the name is not valid, or the Hub does not answer.
        IntegrityError: A link leads out of the folder.
    """
    where = source.removeprefix(SCHEME)
    folder = Path(where).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"{where} is a folder, which has no revisions. Leave --revision out.")
        origin = Origin(source, folder, _root_of(folder))
    elif _is_path(where):
        names = [path.name for path in folder.parent.glob("*")] if folder.parent.is_dir() else []
        near = nearest(folder.name, names)
        hint = f" Did you mean {near!r}?" if near else ""
        raise InputError(f"{where} is not a folder.{hint} Give a checkpoint's folder or a Hub id.")
    else:
        origin = _download(source, where, revision)
    _refuse_links_out(origin)
    return origin


def _is_path(where: str) -> bool:
    return where.startswith(("/", ".", "~")) or not _REPOSITORY.match(where)


def _download(source: str, repository: str, revision: str | None) -> Origin:
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=list(WANTED)
        )
    except Exception as error:  # many types, from HTTP to the cache; all mean the same here
        text = str(error).strip() or type(error).__name__
        raise InputError(
            f"There is no folder {repository!r} here, and the Hugging Face Hub did not give "
            f"{repository!r} (revision {revision or 'main'}): {text.splitlines()[0]} Check name, "
            f"revision and network, or copy the files here and give {SCHEME}<folder>."
        ) from error
    folder = Path(found)
    commit = folder.name if _COMMIT.match(folder.name) else revision
    return Origin(source, folder, _root_of(folder), commit)


def _root_of(folder: Path) -> Path:
    """Return the folder that no link may lead out of.

    In the cache of the Hub, <cache>/models--owner--name/snapshots/<commit>/file is a link to
    <cache>/models--owner--name/blobs/...
    """
    there = folder.resolve()
    cached = there.parent.name == "snapshots" and there.parents[1].name.startswith("models--")
    return there.parents[1] if cached else folder


def _refuse_links_out(origin: Origin) -> None:
    root = origin.root.resolve()
    for path in sorted(origin.folder.rglob("*")):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise IntegrityError(
                f"{path} is a link out of the folder. Replace it by the file itself."
            )


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a checkpoint.

    Attributes:
        hashes: Name of each file that was used → SHA-256.
        processor: Names of those that travel with the model.
        left_out: Names of all others.
    """

    hashes: dict[str, str]
    processor: tuple[str, ...]
    left_out: tuple[str, ...]


def hash_files(origin: Origin, weights: Iterable[Path], modules: Iterable[str] = ()) -> Files:
    """Hash what is used of a checkpoint and name the rest.

    Args:
        origin: The checkpoint.
        weights: Files of the encoder's tensors.
        modules: Names of files of further modules.

    Raises:
        IntegrityError: A file of the processor is too large to be one.
    """
    folder = origin.folder
    processor = tuple(name for name in PROCESSOR_FILES if (folder / name).is_file())
    for name in processor:
        if (folder / name).stat().st_size > MAX_PROCESSOR_BYTES:
            raise IntegrityError(f"{folder / name} is larger than {MAX_PROCESSOR_BYTES} bytes.")
    used = [CONFIG, *processor, *modules, *(path.name for path in set(weights))]
    used += [INDEX] if (folder / INDEX).is_file() else []
    hashes = {name: sha256_file((folder / name).resolve()) for name in sorted(used)}
    others = [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]
    return Files(hashes, processor, tuple(sorted(set(others) - set(used))))


def copy_processor(folder: Path, names: Iterable[str], target: Path) -> None:
    """Copy files of a tokenizer or processor, contents only."""
    for name in names:
        shutil.copyfile(folder / name, target / name)
