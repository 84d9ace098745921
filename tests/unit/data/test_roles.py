"""Roles and frames of published tokenizers, and the samples that are made with them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

from orchestrator.data.corpora.corpus import prepare_corpus
from orchestrator.data.processors.roles import FIRST, OURS, SECOND
from orchestrator.data.processors.text import TextProcessor
from orchestrator.data.samples.base import SampleInputs, build_samples
from orchestrator.data.samples.kinds import (
    DenoisingConfig,
    GapsConfig,
    MaskedConfig,
    MaskingConfig,
    NeighboursConfig,
    NextConfig,
    PairsConfig,
    PrefixConfig,
    ReplacedConfig,
    SpansConfig,
)
from orchestrator.data.spec import CorpusConfig, DatasetSpec, TokenizerConfig
from orchestrator.errors import InputError
from tests.support.published_tokenizers import PUBLISHED, documents, save_tokenizer

S = 32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus per family, made with its tokenizer."""
    root = tmp_path_factory.mktemp("published")
    texts = documents(seed=3)
    (root / "texts.txt").write_text("\n".join(texts))
    found = {}
    for family in PUBLISHED:
        save_tokenizer(family, root / family)
        config = CorpusConfig(
            data=DatasetSpec(source=f"files:{root / 'texts.txt'}"),
            tokenizer=TokenizerConfig(path=str(root / family)),
            block_size=S,
        )
        found[family] = (prepare_corpus(config, root / "cache"), root / family, texts)
    return found


@pytest.fixture(params=list(PUBLISHED))
def one(request, made):
    corpus, folder, texts = made[request.param]
    return request.param, corpus, folder, texts


def test_roles_are_those_of_transformers(one):
    _, corpus, folder, _ = one
    theirs, roles = AutoTokenizer.from_pretrained(folder), corpus.processor.roles
    for role in ("pad", "unk", "mask", "bos", "eos"):
        assert getattr(roles, role) == getattr(theirs, f"{role}_token_id"), role
    ids = theirs("the value", "of rows")
    words = [
        theirs(text, add_special_tokens=False)["input_ids"] for text in ("the value", "of rows")
    ]
    joined, types = roles.joined(*map(np.asarray, words))
    assert joined.tolist() == ids["input_ids"]
    if "token_type_ids" in ids:
        assert types.tolist() == ids["token_type_ids"]
    single = theirs("the value")["input_ids"]
    assert [*roles.begin, *words[0], *roles.end] == single


def test_frames_of_the_five_families():
    frames = {}
    for family, make in PUBLISHED.items():
        tokenizer, names, _ = make()
        special = {role: tokenizer.token_to_id(token) for role, token in names.items()}
        frames[family] = special
    assert frames["bert"] == {"unk": 100, "sep": 102, "pad": 0, "cls": 101, "mask": 103}
    assert {frames["roberta"][role] for role in ("bos", "pad", "eos", "unk")} == {0, 1, 2, 3}


FRAMES = {
    "bert": ((101,), (102,), False),
    "roberta": ((0,), (2,), False),
    "llama": ((1,), (), False),
    "t5": ((1,), (), True),
}


def test_documents_are_framed_as_texts_are_and_come_back_whole(one):
    family, corpus, _, texts = one
    roles, processor = corpus.processor.roles, corpus.processor
    end = processor.tokenizer.token_to_id("<|endoftext|>")
    opening, closing, ends = FRAMES.get(family, ((end,), (), True))
    assert (roles.opening, roles.closing, roles.opening_ends) == (opening, closing, ends)
    found = []
    for split in (corpus.train, corpus.validation):
        ids = split.rows(np.arange(len(split)))
        real = ids[~roles.padding(ids)].tolist()
        borders = [i for i, token in enumerate(real) if token == opening[0]] + [len(real)]
        for start, stop in pairwise(borders):
            document = real[start + 1 : stop - len(closing)]
            assert real[stop - len(closing) : stop] == list(closing)
            found.append(tuple(document))
    expected = {tuple(ids) for ids in processor.encode(texts)}
    assert set(found) - {()} == expected
    assert found.count(()) <= 2  # a mark that fills the last block of a split


def inputs_of(corpus, target, packing="stream"):
    return SampleInputs(corpus.train, corpus.processor, {target: target}, 7, packing)


def batch_of(samples, count=8):
    return {
        k: v.numpy() for k, v in samples.collate(np.arange(min(count, len(samples))), 0).items()
    }


@pytest.mark.parametrize("family", ["bert", "roberta"])
@pytest.mark.parametrize("units", ["tokens", "words", "spans"])
def test_masks_hide_words_only_and_random_tokens_are_words(made, family, units):
    corpus, folder, _ = made[family]
    rule = MaskingConfig(units=units, share=0.4, hidden=0.3, random=0.7)
    batch = batch_of(
        build_samples(MaskedConfig(masking=rule), inputs_of(corpus, "mlm")), len(corpus.train)
    )
    theirs = AutoTokenizer.from_pretrained(folder)
    special = set(theirs.all_special_ids)
    labels, read = batch["labels.mlm"], batch["input_ids"]
    chosen = labels != -100
    assert not special & set(labels[chosen].tolist())
    changed = read[chosen & (read != labels)]
    assert (changed == theirs.mask_token_id).any()
    drawn = set(changed.tolist()) - {theirs.mask_token_id}
    assert len(drawn) > 50
    assert not special & drawn
    assert max(drawn) < len(theirs)


def test_added_words_may_be_hidden_and_are_never_drawn(tmp_path):
    save_tokenizer("roberta", tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_tokens(["estimator"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    roles = TextProcessor.load(tmp_path).roles
    number = tokenizer.token_to_id("estimator")
    size = tokenizer.get_vocab_size()
    assert roles.ordinary(size)[number]
    assert number not in roles.drawable(size)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_next_tokens_of_tokenizers_without_padding(made, family, packing):
    corpus, _, _ = made[family]
    samples = build_samples(NextConfig(), inputs_of(corpus, "lm", packing))
    batch = batch_of(samples, len(samples))
    ids, labels, real = (batch[k] for k in ("input_ids", "labels.lm", "attention_mask"))
    mark = corpus.processor.roles.opening[0]
    inside = (labels[:, :-1] != -100).ravel()
    assert (labels[:, :-1].ravel()[inside] == ids[:, 1:].ravel()[inside]).all()
    assert (real[:, 1:].ravel()[inside] == 1).all()
    if family == "gpt2":  # the end of a text is learned, and so is how one begins
        assert (labels == mark).sum() >= (ids[:, 1:] == mark).sum() - (real == 0).sum()
        assert (labels[:, :-1][(ids == mark)[:, :-1] & (real[:, 1:] == 1)] != -100).all()
    else:
        assert not (labels == mark).any()
    assert (real == 0).sum() < S
    if packing == "documents":
        starts = (ids == mark) & (real == 1)
        assert (batch["position_ids"][starts] == 0).all()
        numbers = batch["document_ids"]
        assert (np.diff(numbers, axis=1)[starts[:, 1:]] == 1).all()


def test_spans_use_the_sentinels_of_t5_downwards(made):
    corpus, folder, texts = made["t5"]
    theirs = AutoTokenizer.from_pretrained(folder)
    batch = batch_of(build_samples(SpansConfig(), inputs_of(corpus, "lm")))
    first = theirs.convert_tokens_to_ids("<extra_id_0>")
    assert first == len(theirs) - 1
    sentinels = [first - number for number in range(20)]
    originals = {tuple(ids) for ids in corpus.processor.encode(texts)}
    for row in range(len(batch["input_ids"])):
        source = batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist()
        target = batch["labels.lm"][row]
        target = target[target != -100].tolist()
        assert source[-1] == target[-1] == theirs.eos_token_id
        used = [token for token in source if token in sentinels]
        assert used == sentinels[: len(used)]
        assert [token for token in target if token in sentinels] == used
        assert batch["decoder_input_ids"][row, 0] == theirs.pad_token_id
        spans = {}
        for token in target[:-1]:
            if token in sentinels:
                spans[token] = here = []
            else:
                here.append(token)
        whole = [t for token in source[:-1] for t in (spans.get(token, [token]))]
        assert any("".join(map(chr, whole)) in "".join(map(chr, text)) for text in originals)


def test_denoising_frames_with_the_tokens_of_bart(made):
    corpus, folder, _ = made["roberta"]
    theirs = AutoTokenizer.from_pretrained(folder)
    batch = batch_of(build_samples(DenoisingConfig(), inputs_of(corpus, "lm")))
    assert (batch["input_ids"][:, 0] == theirs.bos_token_id).all()
    assert (batch["labels.lm"][:, 0] == theirs.bos_token_id).all()
    assert (batch["decoder_input_ids"][:, 0] == theirs.eos_token_id).all()
    assert (batch["input_ids"] == theirs.mask_token_id).any()
    for ids, real in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        assert ids[real.sum() - 1] == theirs.eos_token_id


@pytest.mark.parametrize("family", ["bert", "roberta", "t5"])
def test_pairs_are_framed_as_transformers_frames_them(made, family):
    corpus, folder, _ = made[family]
    roles = corpus.processor.roles
    batch = batch_of(build_samples(PairsConfig(), inputs_of(corpus, "nsp")))
    theirs = AutoTokenizer.from_pretrained(folder)
    frame = [piece for piece, _ in roles.pair if piece not in (FIRST, SECOND)]
    for ids, real in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        tokens = ids[real == 1].tolist()
        assert [token for token in tokens if token in theirs.all_special_ids] == frame
        assert (ids[real == 0] == theirs.pad_token_id).all()
    assert batch["token_type_ids"].any() == (family == "bert")


@pytest.mark.parametrize(
    ("family", "config", "target", "says"),
    [
        ("gpt2", MaskedConfig(), "mlm", "no mask token .it has bos, eos.*target lm"),
        ("gpt2", PairsConfig(), "nsp", "no token between two texts.*single texts"),
        ("llama", DenoisingConfig(), "lm", "no mask token"),
        ("bert", SpansConfig(), "lm", "(no|0) sentinels.*extra_id_0"),
        ("t5", GapsConfig(), "lm", "no mask token"),
        ("gpt2", GapsConfig(), "lm", "no mask token"),
    ],
)
def test_what_the_tokenizer_lacks_is_refused_by_name(made, family, config, target, says):
    corpus, _, _ = made[family]
    with pytest.raises(InputError, match=says):
        build_samples(config, inputs_of(corpus, target))
    with pytest.raises(InputError, match=says):
        corpus.processor.roles.require_all(config.needs([target]), "samples")


@pytest.mark.parametrize("family", list(PUBLISHED))
def test_replaced_tokens_and_both_neighbours_need_no_role(made, family):
    corpus, _, _ = made[family]
    ordinary = corpus.processor.roles.ordinary(corpus.processor.vocab_size)
    for kind in ("unigram", "uniform"):
        config = ReplacedConfig(replacements=kind)
        batch = batch_of(build_samples(config, inputs_of(corpus, "rtd")))
        assert ordinary[batch["input_ids"][batch["labels.rtd"] == 1]].all()
    batch = batch_of(build_samples(NeighboursConfig(), inputs_of(corpus, "bilm")))
    assert (batch["labels.bilm"] != -100).any(axis=(0, 1)).all()
    batch = batch_of(build_samples(PrefixConfig(), inputs_of(corpus, "lm", "documents")))
    assert (batch["prefix_mask"] <= batch["attention_mask"]).all()


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "characters"])
def test_tokenizers_trained_here_have_our_roles(kind, tmp_path):
    processor = TextProcessor.train(documents(), 400, kind)
    assert processor.roles == OURS
    processor.save(tmp_path)
    assert TextProcessor.load(tmp_path).roles == OURS


def test_tokenizer_files_are_written_again_byte_by_byte(one, tmp_path):
    _, corpus, folder, _ = one
    original = (folder / "tokenizer.json").read_bytes()
    assert (corpus.path / "tokenizer.json").read_bytes() == original
    processor = TextProcessor.load(folder)
    processor.tokenizer.add_tokens(["more"])
    processor.save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() != original
    assert TextProcessor.load(tmp_path).tokenizer.token_to_id("more") is not None


def test_frames_decide_which_corpus_it_is(made, tmp_path):
    _, folder, texts = made["gpt2"]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    paths = []
    for name in ("<|endoftext|>", "other"):
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens(["other"])
        target = tmp_path / name.strip("<|>")
        target.mkdir()
        tokenizer.save(str(target / "tokenizer.json"))
        (target / "tokenizer_config.json").write_text(f'{{"eos_token": "{name}"}}')
        config = CorpusConfig(
            data=DatasetSpec(source=f"files:{tmp_path / 'texts.txt'}"),
            tokenizer=TokenizerConfig(path=str(target)),
            block_size=S,
        )
        found = prepare_corpus(config, tmp_path / "cache")
        paths.append(found.path)
        mark = tokenizer.token_to_id(name)
        assert found.processor.roles.opening == (mark,)
        assert (found.train.rows(np.arange(2)) == mark).any()
    assert len(set(paths)) == 2


def test_the_config_of_the_model_names_what_the_tokenizer_does_not(tmp_path):
    save_tokenizer("gpt2", tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_special_tokens(["stop"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert TextProcessor.load(tmp_path).roles.eos == tokenizer.token_to_id("<|endoftext|>")
    number = tokenizer.token_to_id("stop")
    (tmp_path / "config.json").write_text(f'{{"model_type": "gpt2", "eos_token_id": {number}}}')
    processor = TextProcessor.load(tmp_path)
    assert processor.roles.eos == number
    processor.save(tmp_path / "again")  # without the model's config
    assert TextProcessor.load(tmp_path / "again").roles == processor.roles


def test_a_tokenizer_that_cannot_separate_documents_is_refused(tmp_path):
    Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    roles = TextProcessor.load(tmp_path).roles
    with pytest.raises(InputError, match="no token that separates documents"):
        assert roles.opening
    with pytest.raises(InputError, match="no token that ends a text"):
        assert roles.ending


def test_a_mark_at_both_ends_stands_once_between_documents():
    roles = replace(OURS, single=((2, 0), (FIRST, 0), (2, 0)), sep=2)
    assert (roles.opening, roles.closing, roles.opening_ends) == ((2,), (), True)
