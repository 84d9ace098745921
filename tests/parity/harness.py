"""Compare a model of transformers, with every parameter random, with ours read from its folder.

Everything goes through folders that ``save_pretrained`` writes, gradients too: they are put in the
place of the parameters and saved like them.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from orchestrator.config import validate_config
from orchestrator.modeling.builder import build_model
from orchestrator.modeling.config import ModelConfig
from orchestrator.modeling.huggingface.classes import architecture_of
from orchestrator.modeling.huggingface.exporting import values_of, write_values, write_weights
from orchestrator.modeling.huggingface.folder import open_source
from tests.support.checkpoints import read_tensors

TOLERANCE = 1e-5
VOCAB, LENGTH, BATCH, LAYERS = 61, 12, 4, 2

torch.set_num_threads(1)


@dataclass
class Case:
    """One class of transformers with inputs.

    Attributes:
        theirs: The model; its parameters are made random here.
        their_inputs: Keyword arguments of its forward pass, labels included.
        batch: The same for ours, labels included.
        logits: Name of our target -> how to get its logits from their output.
        where: Name of our target -> which of its logits are compared (padding is not); default all.
        untrained: Our names of what is not trained there (buffers).
        twin: Another class that is the same model, and is found first.
        loss: How to get the loss from their output, where their class has none.
    """

    theirs: Any
    their_inputs: dict[str, Any]
    batch: dict[str, torch.Tensor]
    logits: dict[str, Any]
    where: dict[str, torch.Tensor] = field(default_factory=dict)
    untrained: tuple[str, ...] = ()
    twin: str = ""
    loss: Any = lambda output: output.loss


def randomize(model, seed=3):
    """Make every parameter that is trained random, norms around one; the others are sine waves."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in (each for each in model.parameters() if each.requires_grad):
            center = float(parameter.mean())
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15 + center)


def padded_batch(side="right", vocab=VOCAB, first=2, pad=0):
    """Return ids, mask and segments [BATCH, LENGTH]; padding is ``pad``, other ids are not."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(first, vocab, (BATCH, LENGTH), generator=generator)
    lengths = torch.tensor([LENGTH, 7, 3, 10])
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    mask = mask if side == "right" else mask.flip(1)
    segments = torch.randint(0, 2, (BATCH, LENGTH), generator=generator) * mask
    ids = torch.where(mask.bool(), ids, pad)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": segments}


def token_labels(mask, share=0.4, vocab=VOCAB):
    """Return labels [B, S] at a share of the real positions, -100 elsewhere."""
    generator = torch.Generator().manual_seed(7)
    chosen = torch.rand(mask.shape, generator=generator) < share
    labels = torch.randint(1, vocab, mask.shape, generator=generator)
    return torch.where(chosen & mask.bool(), labels, -100)


def next_token_labels(mask, vocab=VOCAB):
    """Return (their labels, ours): theirs stand at the token itself, ours are shifted."""
    labels = token_labels(mask, 1.1, vocab)
    labels[:, 1:][mask[:, :-1] == 0] = -100  # nothing is predicted from padding
    last = torch.full((len(mask), 1), -100)
    return labels, torch.cat([labels[:, 1:], last], dim=1)


def ours_from(folder, attention="sdpa"):
    """Return our model with the tensors of a folder."""
    source = open_source(folder)
    raw = source.config.model_dump()
    streams = [raw["encoder"].get(name) for name in ("first", "second")]
    for stack in (raw["encoder"], raw["decoder"], *streams):
        if stack and stack["type"] == "transformer":
            stack["attention"] = attention
    model = build_model(validate_config(ModelConfig, raw, "parity")).eval()
    missing, unexpected = model.load_state_dict(read_tensors(source), strict=False)
    assert set(missing) == set(model.tied_names())
    assert not unexpected
    return source, model


def mean_loss(model, batch):
    """Return the weighted sum of the targets' mean losses."""
    result = model(batch)
    weights = {target.name: target.weight for target in model.config.target}
    names = [key.removeprefix("loss.") for key in result if key.startswith("loss.")]
    return sum(weights[n] * result[f"loss.{n}"] / result[f"count.{n}"] for n in names)


def check_outputs_loss_and_gradients(case, folder, attention="sdpa"):
    """Forward, loss and the gradient of every parameter, within 1e-5."""
    theirs = case.theirs.eval()
    randomize(theirs)
    theirs.save_pretrained(folder / "weights")
    _, ours = ours_from(folder / "weights", attention)
    their_output = theirs(**case.their_inputs)
    found = ours.predict(case.batch)
    for target, get in case.logits.items():
        where = case.where.get(target, slice(None))
        close(found[target][where], get(their_output)[where], target)

    loss = mean_loss(ours, case.batch)
    their_loss = case.loss(their_output)
    close(loss, their_loss, "loss")
    loss.backward()
    their_loss.backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            gradient = parameter.grad
            parameter.copy_(torch.zeros(()) if gradient is None else gradient)
    theirs.save_pretrained(folder / "gradients")
    expected = read_tensors(open_source(folder / "gradients"))
    parameters = dict(ours.named_parameters())
    assert set(expected) == set(parameters)
    for name, parameter in parameters.items():
        if name not in case.untrained:
            assert parameter.grad is not None, name
            close(parameter.grad, expected[name], name)


def close(found, expected, name):
    """Require a largest difference of 1e-5."""
    torch.testing.assert_close(
        found, expected, atol=TOLERANCE, rtol=0, msg=lambda text: f"{name}: {text}"
    )


def check_there_and_back(case, folder):
    """Import and export: the same tensors byte for byte, the same config, and it opens."""
    theirs = case.theirs.eval()
    randomize(theirs)
    theirs.save_pretrained(folder / "first")
    source, ours = ours_from(folder / "first")
    tied = ours.tied_names()
    state = {name: tensor for name, tensor in ours.state_dict().items() if name not in tied}
    architecture = source.architecture
    assert architecture.name == type(theirs).__name__
    assert architecture_of(source.config).name == (case.twin or architecture.name)
    (folder / "second").mkdir()
    table = architecture.table(source.config)
    write_weights(folder / "second", table, state, state.__getitem__)
    write_values(folder / "second", values_of(architecture, source.config))
    assert files(folder / "first").keys() == files(folder / "second").keys()
    for name, tensor in files(folder / "first").items():
        assert torch.equal(tensor, files(folder / "second")[name]), name
    opened, report = type(theirs).from_pretrained(folder / "second", output_loading_info=True)
    assert not any(report.values()), report
    outputs = []
    for model in (theirs, opened.eval()):
        torch.manual_seed(0)  # ViLT shuffles patches
        outputs.append(model(**case.their_inputs))
    expected, found = outputs
    for get in case.logits.values():
        assert torch.equal(get(found), get(expected))


def files(folder):
    """Return the tensors of a folder by name."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
