"""Peak memory of making a corpus against its size: generated text, each size in its own process.

What a process has after its imports is subtracted. The rise must not grow with the corpus: what is
kept is one batch of documents, a million tokens and the words that the tokenizer counts.
Run: `python benchmarks/corpus_memory.py [--megabytes 20 80 320]`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIZES_MB = (20, 80, 320)
WORDS, LETTERS = 3_000, "etaoinshrdlucmfwypvbgkjqxz"
LINES_PER_WRITE = 10_000


def write_text(path: Path, megabytes: int) -> None:
    """Write lines of 5 to 60 words; which words, and how often, is as in a language (Zipf)."""
    rng = np.random.default_rng(0)
    letters = np.asarray(list(LETTERS))
    words = np.asarray(
        ["".join(rng.choice(letters, size)) for size in rng.integers(2, 10, WORDS)], dtype=object
    )
    frequency = 1 / np.arange(2, WORDS + 2)
    frequency /= frequency.sum()
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1_000_000:
            lengths = rng.integers(5, 60, LINES_PER_WRITE)
            chosen = words[rng.choice(WORDS, int(lengths.sum()), p=frequency)]
            lines = np.split(chosen, np.cumsum(lengths)[:-1])
            file.write("\n".join(" ".join(line) for line in lines) + "\n")


def peak_mb() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, megabytes: int) -> dict[str, float]:
    """Make a corpus in a process of its own and return its figures."""
    source = folder / "text.txt"
    write_text(source, megabytes)
    command = [sys.executable, __file__, "--source", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def make(source: Path) -> dict[str, float]:
    """Make the corpus of a file in this process."""
    sys.path.insert(0, str(ROOT))
    import pandas  # noqa: F401  (pyarrow does, so that only the making is measured)

    import orchestrator.data.sources.files  # noqa: F401
    from orchestrator.data.corpus import prepare_corpus
    from orchestrator.data.spec import CorpusConfig

    config = CorpusConfig.model_validate({"data": {"source": f"files:{source}"}, "block_size": 128})
    before, began = peak_mb(), time.perf_counter()
    corpus = prepare_corpus(config, source.parent / "corpora")
    return {
        "text_mb": source.stat().st_size / 1e6,
        "documents": corpus.documents,
        "tokens": corpus.tokens,
        "shards": corpus.shards,
        "before_mb": before,
        "rise_mb": peak_mb() - before,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=list(SIZES_MB))
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.source is not None:
        print(json.dumps(make(options.source)))
        return
    print("text MB  shards   documents       tokens  peak before MB  rise MB  MB/s")
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), megabytes)
        print(
            f"{found['text_mb']:7.0f}  {found['shards']:6}  {found['documents']:10,} "
            f"{found['tokens']:12,}  {found['before_mb']:14.0f}  {found['rise_mb']:7.0f} "
            f"{found['text_mb'] / found['seconds']:5.1f}"
        )


if __name__ == "__main__":
    main()
