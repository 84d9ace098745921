"""``builtin:morse``: words of docstrings as Morse code, and their transcripts.

Real speech is not installed with any library; Morse code is sound that we can make, with a
transcription that is certain. International code (ITU-R M.1677-1): a dot is one unit, a dash three,
one unit of silence inside a letter, three between letters, seven between words. Each recording has
its own speed, pitch, loudness and noise, which depend on (seed, number) alone.

Legend: N samples.
"""

import re
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from orchestrator.data.randomness import Purpose, draw, uniform
from orchestrator.data.rows.splitting import rank
from orchestrator.data.sources.contents import Entries, Entry
from orchestrator.data.spec import DatasetSpec

FORMAT = 1
RATE = 8000
USUAL_ROWS = 3000
DOCUMENTS = 500
"""Docstrings whose words are taken."""
MOST_LETTERS, MOST_WORDS = 5, 2
UNIT_SECONDS = (0.03, 0.04)
PITCH_HZ = (500.0, 900.0)
LEVEL = (0.2, 0.8)
NOISE = (0.0, 0.05)
"""Standard deviation of the noise relative to the level."""
RAMP_SECONDS = 0.004
"""Rise and fall of a tone, without which it clicks."""
LETTERS = re.compile(r"[a-z]+")
CODES = {
    "a": ".-", "b": "-...", "c": "-.-.", "d": "-..", "e": ".", "f": "..-.", "g": "--.",
    "h": "....", "i": "..", "j": ".---", "k": "-.-", "l": ".-..", "m": "--", "n": "-.",
    "o": "---", "p": ".--.", "q": "--.-", "r": ".-.", "s": "...", "t": "-", "u": "..-",
    "v": "...-", "w": ".--", "x": "-..-", "y": "-.--", "z": "--..",
}  # fmt: skip

Sound = npt.NDArray[np.float64]


def morse_entries(spec: DatasetSpec, cache: Path | None) -> Entries:
    """Return as many recordings as the cap says (3,000 without one).

    A text may be recorded more than once; all its recordings are in one split.
    """
    from orchestrator.data.sources.pydoc import corpus_identity, corpus_records

    rows = spec.max_rows or USUAL_ROWS
    texts = _phrases(corpus_records(DOCUMENTS, None, cache).text.tolist(), spec.seed)
    takes = islice(cycle(texts), rows)
    found = [Entry(key=text, text=text, place=index) for index, text in enumerate(takes)]
    identity: dict[str, object] = {
        "builtin": "morse",
        "format": FORMAT,
        "rows": rows,
        "seed": spec.seed,
        "documents": corpus_identity(DOCUMENTS, None),
    }
    return Entries(lambda: identity, found, lambda e: _recording(e.text, spec.seed, e.place))


def _phrases(documents: list[str], seed: int) -> list[str]:
    """Return different words and short phrases, in an order that depends on the seed."""
    found: set[str] = set()
    for document in documents:
        words = LETTERS.findall(document.lower())
        for count in range(1, MOST_WORDS + 1):
            runs = zip(*(islice(words, start, None) for start in range(count)), strict=False)
            texts = (" ".join(run) for run in runs)
            found.update(text for text in texts if len(text) <= MOST_LETTERS)
    return sorted(found, key=lambda text: rank(seed, text))


def keying(text: str) -> list[bool]:
    """Return whether there is a tone in each unit of a text's code, a pause at both ends."""
    marks = {".": "1", "-": "111"}
    words = [
        "000".join("0".join(marks[mark] for mark in CODES[letter]) for letter in word)
        for word in text.split()
    ]
    return [unit == "1" for unit in f"000{'0000000'.join(words)}000"]


def synthesize(text: str, unit_s: float, pitch_hz: float, level: float) -> Sound:
    """Return a text in Morse code, [N] at 8,000 samples per second, between -level and level."""
    size = round(unit_s * RATE)
    tone = np.repeat(np.asarray(keying(text), dtype=np.float64), size)
    ramp = np.hanning(2 * round(RAMP_SECONDS * RATE) + 1)
    envelope = np.convolve(tone, ramp / ramp.sum(), mode="same")
    wave: Sound = level * envelope * np.sin(2 * np.pi * pitch_hz * np.arange(len(tone)) / RATE)
    return wave


def _recording(text: str, seed: int, number: int) -> bytes:
    """Return a recording with its own speed, pitch, loudness and noise, as a FLAC file."""
    import soundfile  # type: ignore[import-untyped]

    index = np.asarray([number])
    luck = [float(uniform(word)[0, 0]) for word in draw(seed, Purpose.MORSE, 0, index, 1)]
    ranges = (UNIT_SECONDS, PITCH_HZ, LEVEL, NOISE)
    unit_s, pitch_hz, level, noise = (
        low + share * (high - low) for share, (low, high) in zip(luck, ranges, strict=True)
    )
    sound = synthesize(text, unit_s, pitch_hz, level)
    four = draw(seed, Purpose.NOISE, 0, index, len(sound))
    # the sum of four uniform numbers has variance 1/3 and is close to normal
    hiss = (sum(uniform(word)[0] for word in four) - 2) * np.sqrt(3)
    file = BytesIO()
    soundfile.write(file, sound + level * noise * hiss, RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()
