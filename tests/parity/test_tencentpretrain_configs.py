"""Every configuration that TencentPretrain ships: imported equal to its formulas, or refused."""

import json

import pytest
import torch

from orchestrator.errors import InputError, IntegrityError
from orchestrator.modeling.interfaces import Streams

from .harness import LENGTH, VOCAB, close, padded_batch
from .tencentpretrain_configs import CLIP_LARGE, GATED, REFUSED, S2T, SBERT, SHIPPED, VIT
from .tencentpretrain_reference import Reference, listed
from .test_tencentpretrain_trained import imported, two_texts

OUR_NAMES = {"bert": "nsp", "albert": "sop", "vilt": "itm"}
FRAMES = 36


def text(options, padded=True):
    """Return ids and their segments [B, S], and our batch."""
    batch, parts = padded_batch(), listed(options)["embedding"]
    if not padded:
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    segments = batch["attention_mask"] * (batch["token_type_ids"] + 1)
    if "seg" not in parts:
        del batch["token_type_ids"]
        segments = batch["attention_mask"]
    if options.get("mask") == "prefix":
        mask = batch["attention_mask"]
        ends = mask.sum(1, keepdim=True) // 2
        segments = mask + mask * (torch.arange(LENGTH) >= ends)  # a prefix, then the rest
        batch["token_type_ids"] = (segments - 1).clamp(min=0)
        batch["prefix_mask"] = (segments == 1).long()
    return batch["input_ids"], segments, batch


def picture(options, rows):
    size = options["image_height"]
    generator = torch.Generator().manual_seed(9)
    pixels = torch.randn(rows, 3, size, size, generator=generator)
    positions = (size // options["patch_size"]) ** 2 + 1
    return pixels, torch.ones(rows, positions, dtype=torch.long)


def inputs(options):
    """Return the arguments of the reference, our batch, and our mask [B, positions]."""
    parts = options["embedding"]
    if options.get("encoder") == "dual":
        return dual(options)
    if "speech" in parts:
        (_, _, words, real), batch = two_texts()
        frames = torch.tensor([FRAMES, 28, 12, 36])
        mask = (torch.arange(FRAMES) < frames[:, None]).long()
        sound = torch.randn(4, FRAMES, 10) * mask[..., None]
        segments = (torch.arange(FRAMES // 4) < (frames // 4)[:, None]).long()
        batch = {k: v for k, v in batch.items() if k.startswith("decoder")}
        batch |= {"input_features": sound, "attention_mask": mask}
        return (sound, segments, words, real), batch, real.bool()
    if options.get("decoder"):
        arguments, batch = two_texts()
        return arguments, batch, arguments[3].bool()
    if parts[0] in ("patch", "masked_patch"):
        pixels, segments = picture(options, 3)
        return (pixels, segments), {"pixel_values": pixels}, segments.bool()
    backward = str(options["encoder"]).startswith("bi")
    ids, segments, batch = text(options, padded=not backward)
    if parts[0] == "word_patch":
        pixels, seen = picture(options, len(ids))
        batch.pop("token_type_ids")
        segments = torch.cat([(segments > 0).long(), 2 * seen], 1)
        return ((ids, pixels), segments), batch | {"pixel_values": pixels}, segments > 0
    return (ids, segments), batch, segments > 0


def dual(options):
    both = [options["stream_0"], options["stream_1"]]
    ids, segments, batch = text(both[0])
    if both[1]["embedding"][0] == "patch":
        pixels, seen = picture(options, len(ids))
        batch["second.pixel_values"] = pixels
        return ((ids, pixels), (segments, seen)), batch, None
    batch |= {f"second.{key}": value.flip(0) for key, value in batch.items()}
    return ((ids, ids.flip(0)), (segments, segments.flip(0))), batch, None


def check(options, folder, labels=3):
    """Import a model with random weights; every output must be equal."""
    theirs = Reference(options, VOCAB, labels=labels)
    arguments, batch, mask = inputs(theirs.options)
    expected = theirs.forward(*arguments)
    package, report, ours = imported(folder, options, theirs.weights)
    found = ours.predict(batch) if ours.config.target else {}
    pair = OUR_NAMES.get(options.get("data_processor"), "sp")
    assert found.keys() == {pair if name == "sp" else name for name in expected}
    for name, logits in expected.items():
        own = found[pair if name == "sp" else name]
        where = mask if mask is not None and logits.dim() > 2 else slice(None)
        close(own[where], logits[where], name)
    return package, report, ours


DISTINCT = {json.dumps(options, sort_keys=True): name for name, options in SHIPPED.items()}
"""Options → a file that has them: sizes alone make no other case."""


@pytest.mark.parametrize("name", list(DISTINCT.values()))
def test_a_shipped_configuration_is_imported(name, tmp_path):
    package, report, _ = check(SHIPPED[name], tmp_path)
    assert report["numeric_check"].startswith("outputs are finite")
    modality = package.manifest.task.modality
    folder = name.partition("/")[0]
    vision = folder in ("vit", "beit", "vilt", "clip")
    assert modality == ("vision" if vision else "audio" if folder == "s2t" else "text")


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_shipped_configuration_is_refused_with_what_is_missing(name, tmp_path):
    options, reason = REFUSED[name]
    theirs = Reference(S2T | {"conv_channels": options.get("conv_channels", [96, 64])}, VOCAB)
    arguments = inputs(theirs.options)[0]
    if name.startswith("s2t"):  # as in their code
        with pytest.raises(RuntimeError, match="size of tensor"):
            theirs.forward(*arguments)
    else:
        theirs.forward(*arguments)
    with pytest.raises(InputError) as caught:
        imported(tmp_path, options, theirs.weights)
    assert reason in str(caught.value)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru", "birnn", "bilstm", "bigru"])
@pytest.mark.parametrize("width", [20, 32])
def test_every_recurrent_encoder_is_imported(kind, width, tmp_path):
    options = SHIPPED["rnn/lstm_config.json"] | {"encoder": kind, "emb_size": width}
    if kind.startswith("bi"):
        options |= {"target": ["bilm"], "data_processor": "bilm", "has_lmtarget_bias": True}
    _, report, ours = check(options, tmp_path)
    assert ours.config.encoder.input_size == (20 if width == 20 else None)
    backward = any("backward direction" in line for line in report["deviations"])
    assert backward == kind.startswith("bi")


def test_a_recurrent_encoder_that_reads_both_ways_is_imported(tmp_path):
    options = SHIPPED["rnn/gru_config.json"] | {"bidirectional": True, "target": ["cls"]}
    options |= {"pooling": "max", "data_processor": "cls"}
    theirs = Reference(options, VOCAB)
    ids, segments, batch = text(options, padded=False)
    expected = theirs.forward(ids, segments)["cls"]
    close(imported(tmp_path, options, theirs.weights)[2].predict(batch)["cls"], expected, "cls")


@pytest.mark.parametrize("block", [1, 2, 3])
def test_residual_connections_of_gated_convolutions_begin_after_the_first(block, tmp_path):
    _, _, ours = check(GATED | {"block_size": block}, tmp_path)
    assert ours.config.encoder.residual_from == "first_layer"


def test_a_missing_gate_is_named(tmp_path):
    theirs = Reference(GATED, VOCAB)
    theirs.forward(*inputs(theirs.options)[0])
    del theirs.weights["encoder.gate_b.1"]
    with pytest.raises(IntegrityError, match=r"missing: encoder\.gate_b\.1"):
        imported(tmp_path, GATED, theirs.weights)


@pytest.mark.parametrize("pooling", ["first", "mean", "last", "max"])
def test_both_streams_are_normalized_twice(pooling, tmp_path):
    stream = CLIP_LARGE["stream_0"] | {"remove_embedding_layernorm": False, "pooling": pooling}
    _, _, ours = check(CLIP_LARGE | {"stream_0": stream}, tmp_path)
    assert ours.config.embedding.parts[0].norms == ("first", "second")


def test_a_converted_checkpoint_has_one_norm_for_each_stream(tmp_path):
    """Their conversion writes the outer norm alone; the inner one stays as it was made."""
    theirs = Reference(CLIP_LARGE, VOCAB)
    arguments, batch, _ = inputs(CLIP_LARGE)
    inner = "embedding.dual.embedding_1.layer_norm"
    theirs.weights[f"{inner}.gamma"] = torch.ones(24)
    theirs.weights[f"{inner}.beta"] = torch.zeros(24)
    expected = theirs.forward(*arguments)["clr"]
    state = {name: t for name, t in theirs.weights.items() if not name.startswith(inner)}
    _, _, ours = imported(tmp_path, CLIP_LARGE, state)
    assert ours.config.embedding.parts[0].norms == ()
    torch.testing.assert_close(ours.predict(batch)["clr"], expected, atol=1e-4, rtol=1e-4)


def test_a_classifier_of_two_streams_is_imported(tmp_path):
    theirs = Reference(SBERT, VOCAB)
    arguments, batch, _ = dual(SBERT)
    theirs.forward(*arguments)
    state = dict(theirs.weights)
    state["classifier.weight"], state["classifier.bias"] = torch.randn(3, 128), torch.randn(3)
    _, report, ours = imported(tmp_path, SBERT, state)
    hidden = ours.encode(batch)
    assert isinstance(hidden, Streams)
    u, v = (each[:, 0] for each in hidden)
    read = torch.cat([u, v, (u - v).abs(), u * v], 1)
    expected = read @ state["classifier.weight"].T + state["classifier.bias"]
    close(ours.predict(batch)["siamese"], expected, "siamese")
    assert "(T12)" in " ".join(report["deviations"])


def test_a_body_without_its_head_is_imported_and_named(tmp_path):
    theirs = Reference(VIT, VOCAB)
    arguments, batch, _ = inputs(VIT)
    theirs.forward(*arguments)
    state = {name: t for name, t in theirs.weights.items() if not name.startswith("target.")}
    state["embedding.patch.projection.bias"] = torch.randn(32)  # as their conversion writes it
    package, report, ours = imported(tmp_path, VIT, state)
    assert ours.config.target == ()
    assert ours.config.embedding.parts[0].bias
    assert "the weights hold no head: cls is left out" in report["deviations"]
    assert ours.encode(batch).shape == (3, 17, 32)
    assert package.manifest.task.kind == "embedding"


@pytest.mark.parametrize("name", ["bert/base", "albert/base", "gpt2/", "llama/7b", "t5/base"])
def test_residual_attention_is_imported(name, tmp_path):
    options = SHIPPED[f"{name}_config.json".replace("/_", "/")] | {"has_residual_attention": True}
    _, report, ours = check(options, tmp_path)
    assert ours.config.encoder.residual_attention
    assert "(T20)" in " ".join(report["deviations"])


def test_deep_initialization_is_of_new_weights_alone(tmp_path):
    _, _, ours = check(SHIPPED["bert/base_config.json"] | {"deep_init": True}, tmp_path)
    assert ours.config.initialization == "gpt2"


def test_two_vocabularies_are_refused(tmp_path):
    options = SHIPPED["transformer/base_config.json"]
    theirs = Reference(options, VOCAB)
    theirs.forward(*two_texts()[0])
    name = "tgt_embedding.word.embedding.weight"
    state = theirs.weights | {name: torch.zeros(70, 32)}
    with pytest.raises(InputError, match="two vocabularies in one model"):
        imported(tmp_path, options, state)
