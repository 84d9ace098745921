"""Every registered component, in the manner of timm: build, run, learn, store.

The list comes from the registries: a component that is added is tested without being named here.
"""

import pytest
import torch

from orchestrator.modeling.builder import build_model, build_on_meta
from orchestrator.modeling.catalog import describe_components
from orchestrator.modeling.component import embeddings, encoders, targets
from orchestrator.modeling.config import REGISTERED
from orchestrator.modeling.package import load_model, write_model

from .small import LENGTH, VOCAB, make_batch, make_config

COMPONENTS = [(kind, name) for kind, registry in REGISTERED.items() for name in registry.names()]
IMAGE, PATCH = 8, 4
SOUND, MEL_BINS = 4 * LENGTH, 5
IMAGES = ("patch", "masked_patch", "word_patch")
SMALL = {
    "transformer": {"num_heads": 2, "intermediate_size": 32, "dropout": 0.0},
    "patch": {"image_size": IMAGE, "patch_size": PATCH, "distillation_token": True},
    "masked_patch": {"image_size": IMAGE, "patch_size": PATCH},
    "mim": {"num_codes": VOCAB},
    "word_patch": {
        "text": {"parts": ["word", "pos"], "dropout": 0.0},
        "image": {"parts": [{"type": "patch", "image_size": IMAGE, "patch_size": PATCH}, "pos"]},
    },
    "speech": {"mel_bins": MEL_BINS, "channels": 12},
    "waveform": {"channels": [6, 8], "kernels": [4, 3], "strides": [2, 2]},
    "convpos": {"kernel_size": 4, "groups": 2},
    "cls": {"num_labels": 3, "dropout": 0.0},
    "tags": {"dropout": 0.0},
    "multilabel": {"dropout": 0.0},
    "regression": {"pooling": "first", "dropout": 0.0},
    "vector": {"hidden": True},
    "choice": {"dropout": 0.0},
}
TARGET_FOR = {"past": "lm", "everything": "mlm", "halves": "bilm"}
ENCODER_FOR = {"past": "gru", "halves": "bigru", None: "transformer"}


def small(name):
    return {"type": name, **SMALL.get(name, {})}


def parts_with(name):
    if embeddings.config_class(name).reads_content:
        return [small(name)]
    return ["word", small(name)]


def two_streams(target):
    """Return a model of pairs."""
    stack = {"parts": ["word", "pos"], "dropout": 0.0}
    dual = {"parts": [{"type": "dual", "first": stack}], "layernorm": False, "dropout": 0.0}
    encoder = {"type": "dual", "first": small("transformer")}
    return make_config(embedding=dual, encoder=encoder, target=small(target))


def assembly(kind, name):
    """Return a model config in which the component is used, and can learn."""
    if getattr(REGISTERED[kind].config_class(name), "two_streams", False):
        return two_streams(name if kind == "target" else "clr")
    raw = {"embedding": {"parts": ["word", "pos"], "dropout": 0.0}, "encoder": small("transformer")}
    raw["target"] = small("cls")
    if kind == "embedding":
        raw["embedding"]["parts"] = parts_with(name)
    elif kind == "encoder":
        raw["encoder"] = small(name)
        raw["target"] = TARGET_FOR[encoders.config_class(name)().visibility]
    elif kind == "target":
        raw["target"] = small(name)
        needed = targets.config_class(name)().needs_visibility
        raw["encoder"] = small(ENCODER_FOR[needed])
        beside = targets.config_class(name)()
        if beside.balances or not beside.has_loss:  # beside a target with something to learn
            raw["target"] = [small("cls"), small(name)]
        if beside.balances:
            raw["encoder"] |= {"experts": {"num_experts": 4}}
    else:
        parts = parts_with(name) if kind == "target_embedding" else ["word", "pos"]
        raw["target_embedding"] = {"parts": parts, "dropout": 0.0}
        raw["decoder"] = small("transformer")
        raw["target"] = {"type": "lm", "tie": "word" in str(parts)}
    return make_config(**raw)


def reads_images(config):
    return any(part.type in IMAGES for part in config.embedding.parts)


def make_sound(kind):
    """Return 4 spectrograms or waveforms, different ones in length."""
    shape = {"speech": (4, SOUND, MEL_BINS), "waveform": (4, SOUND)}[kind]
    mask = (torch.arange(SOUND) < torch.tensor([SOUND, 21, 18, 30])[:, None]).long()
    name = {"speech": "input_features", "waveform": "input_values"}[kind]
    return {name: torch.randn(shape), "attention_mask": mask}


def batch_for(config):
    batch = make_batch()
    if reads_images(config):
        batch = batch if config.embedding.reads_words else {}
        batch["pixel_values"] = torch.randn(4, 3, IMAGE, IMAGE)
        batch["masked_positions"] = torch.eye(4).bool()
    if config.embedding.parts[0].type in ("speech", "waveform"):
        batch = make_sound(config.embedding.parts[0].type)
    if config.embedding.two_streams:
        batch |= {f"second.{key}": value for key, value in make_batch().items()}
    real = batch.get("attention_mask", torch.ones(4, LENGTH)).bool()
    if config.decoder is not None:
        batch["decoder_input_ids"] = torch.randint(1, VOCAB, (4, LENGTH))
        batch["decoder_attention_mask"] = batch["attention_mask"]
    for target in config.target:
        if target.has_loss:
            batch[f"labels.{target.name}"] = labels_for(target.type, real)
    return batch


def labels_for(target, real):
    """Return labels of the first two classes of everything; real is [4, LENGTH]."""
    token_shapes = {"bilm": (4, LENGTH, 2), "mlm": (4, LENGTH), "lm": (4, LENGTH)}
    token_shapes |= {"tags": (4, LENGTH), "rtd": (4, LENGTH), "mim": (4, LENGTH)}
    if target in token_shapes:
        labels = torch.randint(0, 2 if target in ("tags", "rtd") else VOCAB, token_shapes[target])
        labels[~real] = -100
        return labels
    if target == "clr":
        return torch.ones(4, dtype=torch.int64)
    if target == "span":
        first, last = real.int().argmax(1), LENGTH - 1 - real.flip(1).int().argmax(1)
        return torch.stack([first, last], dim=1)
    if target in ("choice", "similarity"):  # two sequences are one row
        return torch.ones(2, dtype=torch.int64)
    if target == "ctc":
        return torch.randint(1, VOCAB, (4, 2))
    return torch.randint(0, 2, {"multilabel": (4, 2)}.get(target, (4,)))


def cases():
    """Leave out what cannot stand on the target side: a decoder reads tokens, in their order."""
    for kind, name in COMPONENTS:
        if kind != "target_embedding" or feeds_decoders(name):
            yield kind, name


def feeds_decoders(name):
    config = embeddings.config_class(name)(**SMALL.get(name, {}))
    reads_tokens = config.reads_words or not config.reads_content
    return reads_tokens and not config.looks_ahead and config.type not in ("dual", "word_patch")


def mean_loss(model, batch):
    result = model(batch)
    name = next(iter(model.targets))
    return result[f"loss.{name}"] / result[f"count.{name}"]


SHIFTS = ("key.bias", "targets.choice.output.bias")
"""Parameters that add the same to everything a softmax compares: their gradient is rounding."""


@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_component_builds_runs_forward_and_backward(kind, name):
    config = assembly(kind, name)
    model = build_model(config)
    batch = batch_for(config)
    loss = mean_loss(model, batch)
    loss.backward()
    assert loss.isfinite()
    silent = tuple(f"targets.{target.name}." for target in config.target if not target.has_loss)
    for key, parameter in model.named_parameters():
        if key.startswith(silent):
            continue
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0 or key.endswith(SHIFTS), key


@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_component_learns_one_batch_by_heart(kind, name):
    config = assembly(kind, name)
    model = build_model(config)
    batch = batch_for(config)
    # Contrast collapses at larger steps, and CTC answers blank everywhere.
    rate = 1e-2 if config.embedding.two_streams else 2e-2 if name == "ctc" else 5e-2
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    for _ in range(400):
        optimizer.zero_grad()
        loss = mean_loss(model, batch)
        if loss < 0.1:
            break
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_component_runs_in_bf16(kind, name):
    config = assembly(kind, name)
    model = build_model(config)
    batch = batch_for(config)
    expected = mean_loss(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mean_loss(model, batch)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.05)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def streams(found):
    return found if isinstance(found, tuple) else (found,)


PLAIN = (torch.Tensor, bool, type(None))


def is_plain(value):
    if isinstance(value, tuple):
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(is_plain(item) for item in value.values())
    return isinstance(value, PLAIN)


@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_hooks_find_every_tensor_between_modules(kind, name):
    """Hooks of sharded training gather weights by the tensors they see going in and out."""
    config = assembly(kind, name)
    model = build_model(config)
    seen = []

    def check(module, inputs, output):
        if "torch.nn.modules.rnn" not in type(module).__module__:
            seen.append(is_plain(inputs) and is_plain(output))

    for module in model.modules():
        module.register_forward_hook(check)
    model(batch_for(config))
    assert seen
    assert all(seen)


@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_component_survives_storage(kind, name, tmp_path):
    config = assembly(kind, name)
    model = build_model(config).eval()
    batch = batch_for(config)
    write_model(tmp_path, model, config)
    again = load_model(tmp_path).eval()
    for target, logits in model.predict(batch).items():
        assert torch.equal(logits, again.predict(batch)[target])


@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_component_builds_without_memory(kind, name):
    config = assembly(kind, name)
    skeleton = build_on_meta(config)
    assert all(tensor.is_meta for tensor in skeleton.state_dict().values())
    real = build_model(config)
    shapes = {key: tensor.shape for key, tensor in skeleton.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in real.state_dict().items()}
    if getattr(config.encoder, "experts", None):  # which tokens an expert gets depends on values
        return
    hidden = skeleton.encode({key: tensor.to("meta") for key, tensor in batch_for(config).items()})
    assert all(stream.is_meta for stream in streams(hidden))


@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_padding_changes_nothing_at_real_positions(kind, name):
    config = assembly(kind, name)
    if reads_images(config) and not config.embedding.reads_words:
        pytest.skip("images are not padded")
    model = build_model(config).eval()
    batch = batch_for(config)
    spoiled = dict(batch)
    inputs = ("input_ids", "token_type_ids", "input_features", "input_values")
    for name in (each for each in batch if each.endswith(inputs)):
        real = batch[name.removesuffix(name.split(".")[-1]) + "attention_mask"].bool()
        assert not real.all()
        values = batch[name].clone()
        values[~real] = 1
        spoiled[name] = values
    before, positions = model.read(batch)
    after, _ = model.read(spoiled)
    for old, new, where in zip(*map(streams, (before, after, positions)), strict=True):
        assert torch.equal(old[where], new[where])


def test_every_component_is_described():
    found = {(item.kind, item.name) for item in describe_components()}
    assert found == set(COMPONENTS)
    for item in describe_components():
        assert item.summary.endswith("."), item.name
        assert all(option.description for option in item.options), item.name
