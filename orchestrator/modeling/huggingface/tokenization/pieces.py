"""Tokenizers of SentencePiece models that transformers runs in Python, as ``tokenizer.json``.

Marian and Speech2Text cut a text by a SentencePiece model and number the pieces by ``vocab.json``;
SigLIP removes punctuation first. Here a Unigram model has the pieces in the order of the numbers. A
token of the vocabulary that the model does not cut (Marian's target side) begins with ``UNSPOKEN``
there, a character that texts never have after normalization; the decoder removes it.

Two things a Unigram model cannot express; they are in ``translation.json``, text of a token → id,
and ``TextProcessor`` reads them. A piece that ``vocab.json`` lacks is unknown, but cut like others:
its place is after all numbers. And a run of characters that the model does not know takes the
number of the token that is spelled like it, if there is one.

Known differences: a character with combining marks that ``precompiled_charsmap`` changes in another
way than the character alone (tokenizers looks up the shortest match, SentencePiece the longest);
and which of two cuts of one score is taken (tokenizers adds in float64, SentencePiece in float32).

Source: Kudo and Richardson 2018, "SentencePiece".
"""

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from orchestrator.errors import InputError
from orchestrator.modeling.huggingface.tokenization.letters import ENDS, uppercase

UNSPOKEN, OTHER, CODED = "\ufdd0", "\ufdd1", "\ufdd2"
"""Characters that Unicode reserves for the use within a program; the second one replaces them in
texts, the third stands for an unknown code."""
SPACE = "▁"
UNIGRAM = 1
"""``model_type`` of SentencePiece's Unigram models."""
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
"""Kinds of pieces."""
CODE, ANY_CODE = re.compile(r">>.+<<"), r"\A>>(?m:.*?)<< *"
"""Marian's code of a target language, a token at the beginning of a text."""
UNKNOWN_CODE = f"{SPACE}{CODED}"


@dataclass(frozen=True, slots=True)
class Converted:
    """A converted tokenizer.

    Attributes:
        tokenizer: With the numbers of the vocabulary.
        exceptions: Text of a token → its id, where that is not the tokenizer's.
    """

    tokenizer: Tokenizer
    exceptions: Mapping[str, int]


def pieces_tokenizer(
    model: Path,
    vocabulary: Mapping[str, int],
    opened: Any,
    front: Sequence[Any] = (),
    coded: bool = False,
) -> Converted:
    """Return the tokenizer that cuts by a SentencePiece model and numbers by a vocabulary.

    Args:
        model: File of the model.
        vocabulary: Token → id; 0 to V - 1.
        opened: The tokenizer of transformers: special tokens, and what it puts around a text.
        front: Normalizers before those of the model.
        coded: Whether a text may begin with the code of a language.

    Raises:
        InputError: The model cannot be expressed.
    """
    proto = read_proto(model)
    _require(proto, vocabulary, model.name)
    controls = [piece.piece for piece in proto.pieces if piece.type == CONTROL]
    special = [t for t in dict.fromkeys([*opened.all_special_tokens, *controls]) if t in vocabulary]
    scores = _scores(proto)
    spoken = {piece for piece in scores if piece in vocabulary and piece not in special}
    codes = [token for token in vocabulary if coded and CODE.fullmatch(token)]
    rows = {number: token for token, number in vocabulary.items()}
    listed = [_listed(rows[number], scores, spoken, special, codes) for number in range(len(rows))]
    missing = [(piece, score) for piece, score in scores.items() if piece not in vocabulary]
    missing += [(UNKNOWN_CODE, 0.0)] if coded else []
    unknown = vocabulary[opened.unk_token]
    tokenizer = Tokenizer(models.Unigram([*listed, *missing], unk_id=unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [*front, *_codes(codes, coded), *_normalizers(proto, bool(front))]
    )
    tokenizer.pre_tokenizer = _apart(special)
    tokenizer.decoder = _decoder(opened, vocabulary)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    tokenizer.post_processor = _frame(opened)
    unheard = {token: n for token, n in vocabulary.items() if _never_cut(token, scores, special)}
    return Converted(tokenizer, unheard | {piece: unknown for piece, _ in missing})


def read_proto(model: Path) -> Any:
    """Return the content of a SentencePiece model, as its protocol buffer."""
    from transformers.convert_slow_tokenizer import import_protobuf

    proto = import_protobuf().ModelProto()
    proto.ParseFromString(model.read_bytes())
    return proto


def _require(proto: Any, vocabulary: Mapping[str, int], name: str) -> None:
    spec, found = proto.normalizer_spec, sorted(vocabulary.values())
    reasons = {
        "it is not a Unigram model": proto.trainer_spec.model_type != UNIGRAM,
        "it writes unknown characters as bytes": proto.trainer_spec.byte_fallback,
        "it does not escape blanks": not spec.escape_whitespaces,
        "it marks the ends of words": proto.trainer_spec.treat_whitespace_as_suffix,
        "the ids of vocab.json are not 0, 1, 2, ...": found != list(range(len(found))),
    }
    for reason, true in reasons.items():
        if true:
            raise InputError(f"{name}: {reason}, which tokenizer.json cannot say here.")


def _scores(proto: Any) -> dict[str, float]:
    """Return the score of each piece that a text can become.

    Those that users defined win: their score is that of SentencePiece's search.
    """
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == NORMAL}
    best = max(normal.values())
    defined = [piece.piece for piece in proto.pieces if piece.type == USER_DEFINED]
    return normal | {piece: len(piece.encode()) * best - 0.1 for piece in defined}


def _listed(
    token: str,
    scores: Mapping[str, float],
    spoken: Iterable[str],
    special: Sequence[str],
    codes: Sequence[str],
) -> tuple[str, float]:
    if token in codes:
        return f"{SPACE}{UNSPOKEN}{token}", 0.0
    if token in spoken:
        return token, scores[token]
    return (token if token in special else f"{UNSPOKEN}{token}"), 0.0


def _never_cut(token: str, scores: Mapping[str, float], special: Sequence[str]) -> bool:
    """Return whether a token can be a run of characters that the model does not know."""
    return token not in special and all(each not in scores and each != SPACE for each in token)


def _codes(codes: Sequence[str], coded: bool) -> list[Any]:
    """Return what marks the code of a language; unknown ones too."""
    found = [normalizers.Replace(Regex(f"[{UNSPOKEN}{CODED}]"), OTHER)]
    found += [
        normalizers.Replace(Regex(rf"\A{re.escape(code)} *"), f"{UNSPOKEN}{code} ")
        for code in codes
    ]
    return found + ([normalizers.Replace(Regex(ANY_CODE), f"{CODED} ")] if coded else [])


def _normalizers(proto: Any, prefixed: bool) -> list[Any]:
    """Return SentencePiece's normalization, in its order.

    Args:
        proto: The model.
        prefixed: Whether it gets texts with ``SPACE`` before them.
    """
    spec = proto.normalizer_spec
    found: list[Any] = [normalizers.Prepend(SPACE)] if prefixed else []
    if spec.precompiled_charsmap:
        found.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        found += [] if prefixed else [normalizers.Replace(Regex(r"\A +"), "")]
        found.append(normalizers.Replace(Regex(" {2,}"), " "))
    found.append(normalizers.Replace(" ", SPACE))
    if spec.remove_extra_whitespaces:
        found.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    if spec.add_dummy_prefix and not prefixed:
        found.append(normalizers.Prepend(SPACE))
    return found


def _apart(special: Iterable[str]) -> Any:
    """Return what keeps a special token that is spelled in a text from being found as a piece."""
    inside = "|".join(f"(?<={re.escape(t[0])})(?={re.escape(t[1:])})" for t in special if t[1:])
    return pre_tokenizers.Split(Regex(inside), behavior="isolated")


def _decoder(opened: Any, vocabulary: Iterable[str]) -> Any:
    marks = ((f"{SPACE}{UNSPOKEN}", ""), (UNSPOKEN, ""), (SPACE, " "))
    steps: list[Any] = [decoders.Replace(old, new) for old, new in marks]
    if getattr(opened, "do_upper_case", False):
        characters = {character for token in vocabulary for character in token}
        steps += [decoders.Replace(c, up) for c, up in uppercase(characters) if c in characters]
    return decoders.Sequence([*steps, decoders.Fuse(), decoders.Replace(ENDS, "")])


def _frame(opened: Any) -> Any:
    """Return what puts the special tokens around a text, or around a pair."""
    single = opened.build_inputs_with_special_tokens([-1])
    pair = opened.build_inputs_with_special_tokens([-1], [-2])
    added = sorted({*pair} - {-1, -2})
    placed = {**{number: f"special_{number}" for number in added}, -1: "$A", -2: "$B"}
    return processors.TemplateProcessing(
        single=[placed[number] for number in single],
        pair=[placed[number] for number in pair],
        special_tokens=[
            {"id": placed[n], "ids": [n], "tokens": [opened.convert_ids_to_tokens(n)]}
            for n in added
        ],
    )


def without_punctuation(opened: Any) -> list[Any]:
    """Return the steps of SigLIP before SentencePiece (``canonicalize_text``).

    SigLIP puts the first ``SPACE`` before a text itself, so that a blank there can remain.
    """
    lower = [
        # tokenizers lowers characters one by one, Python writes the last sigma of a word otherwise
        normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"),
        normalizers.Lowercase(),
    ]
    return [
        normalizers.Replace(SPACE, " "),
        *(lower if opened.do_lower_case else ()),
        normalizers.Replace(Regex(f"[{re.escape(string.punctuation)}]"), ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Replace(Regex(r"\s+\z"), ""),
    ]
