"""Memory of making a corpus and of reading it, against its size: generated text.

Making: the peak of a process above what it has after its imports. It must not grow with the corpus:
it holds one batch of documents, a million tokens and the words that the tokenizer counts.

Reading: what a process holds for samples of a kind, and the peak of making them and some steps of
batches in random order, above what it has when a batch of another kind was made. Only anonymous
memory is counted there: pages of mapped files are taken back by the system when it needs them.
Times are those of the processor.

Each build and each reading runs in its own process.
Run: `python benchmarks/corpus_memory.py [--megabytes 20 60 180]`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIZES_MB = (20, 60, 180)
WORDS, LETTERS = 3_000, "etaoinshrdlucmfwypvbgkjqxz"
LINES_PER_WRITE = 10_000
WORDS_PER_SENTENCE = 10
KINDS = {
    "masked": {"mlm": "mlm"},
    "pairs": {"nsp": "nsp", "mlm": "mlm"},
    "spans": {"lm": "lm"},
}
BATCH, STEPS = 32, 200
LOOK_S = 0.005


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
            chosen[rng.random(len(chosen)) < 1 / WORDS_PER_SENTENCE] += "."
            lines = np.split(chosen, np.cumsum(lengths)[:-1])
            file.write("\n".join(" ".join(line) for line in lines) + "\n")


def peak_mb() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def anonymous_mb() -> float:
    """Return the memory that this process has now, without pages of files."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def in_a_process(*arguments: str) -> dict[str, float]:
    """Run this file in a process of its own and return its figures."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(folder: Path, megabytes: int) -> dict[str, float]:
    """Write text, make a corpus of it and return the figures of the making."""
    source = folder / "text.txt"
    write_text(source, megabytes)
    return in_a_process("--make", str(source))


def make(source: Path) -> dict[str, float]:
    """Make the corpus of a file in this process."""
    import pandas  # noqa: F401  (pyarrow does, so that only the making is measured)

    import orchestrator.data.sources.files  # noqa: F401
    from orchestrator.data.corpora.corpus import prepare_corpus
    from orchestrator.data.spec import CorpusConfig

    settings = {"data": {"source": f"files:{source}"}, "tokenizer": {"sentinels": 100}}
    config = CorpusConfig.model_validate(settings | {"block_size": 128})
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


class Peak(threading.Thread):
    """Sees the most anonymous memory that the process has while this is entered."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mb, self._over = 0.0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            self.mb = max(self.mb, anonymous_mb())

    def __enter__(self) -> "Peak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def read(corpora: Path, kind: str) -> dict[str, float]:
    """Read the corpus in a folder in this process."""
    from orchestrator.data.corpora.corpus import open_corpus
    from orchestrator.data.samples.base import SampleInputs, build_samples
    from orchestrator.data.samples.block_samples import MlmSamples
    from orchestrator.data.samples.kinds import samples
    from orchestrator.data.steps import StepSource

    (path,) = corpora.glob("corpus-*")
    corpus = open_corpus(path, thorough=False)
    first = MlmSamples(corpus.validation, corpus.processor, seed=1)
    first.collate(np.arange(BATCH), 0)  # imports and the like, which no corpus makes larger
    config = samples.config_class(kind)()
    inputs = SampleInputs(corpus.train, corpus.processor, KINDS[kind], 1)
    before, began = anonymous_mb(), time.thread_time()
    with Peak() as peak:
        built_samples = build_samples(config, inputs)
        built = time.thread_time()
        source = StepSource(built_samples, BATCH, BATCH, 1)
        source.window(0)
        ready = time.thread_time()
        for step in range(STEPS):
            source.window(step)
    return {
        "samples": len(built_samples),
        "held_mb": anonymous_mb() - before,
        "peak_mb": peak.mb - before,
        "build_seconds": built - began,
        "batch_ms": (time.thread_time() - ready) / STEPS * 1000,
    }


def report(sizes: list[int]) -> None:
    """Measure and print everything."""
    for megabytes in sizes:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), megabytes)
            print(
                f"{found['text_mb']:.0f} MB of text: {found['shards']} shards, "
                f"{found['documents']:,} documents, {found['tokens']:,} tokens; "
                f"made with {found['rise_mb']:.0f} MB above the imports "
                f"({found['before_mb']:.0f} MB), {found['text_mb'] / found['seconds']:.1f} MB/s"
            )
            print("  kind        samples  held MB  peak MB  build s  ms a batch")
            for kind in KINDS:
                row = in_a_process("--read", str(Path(folder) / "corpora"), kind)
                print(
                    f"  {kind:8} {row['samples']:10,} {row['held_mb']:8.1f} {row['peak_mb']:8.1f} "
                    f"{row['build_seconds']:8.2f} {row['batch_ms']:11.2f}",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, nargs="+", default=list(SIZES_MB))
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.make is not None:
        print(json.dumps(make(options.make)))
    elif options.read is not None:
        print(json.dumps(read(Path(options.read[0]), options.read[1])))
    else:
        report(options.megabytes)


if __name__ == "__main__":
    main()
