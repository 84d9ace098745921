"""Recurrent, convolution and attention components against torch, one sequence at a time.

The references know nothing of padding: every sequence is cut to its real length (and read
backwards where needed) and run alone.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from orchestrator.modeling.component import Dimensions, decoders, encoders
from orchestrator.modeling.decoders import TransformerDecoderConfig
from orchestrator.modeling.encoders.configs import GatedCnnConfig, TransformerConfig

TOLERANCE = 1e-5
WIDTH, LENGTH = 12, 9
SIZES = Dimensions(
    hidden_size=WIDTH,
    vocab_size=20,
    max_position_embeddings=LENGTH,
    type_vocab_size=2,
    pad_token_id=0,
)
MASKS = {
    "right": [[1] * 9, [1] * 4 + [0] * 5, [1] + [0] * 8],
    "left": [[1] * 9, [0] * 5 + [1] * 4, [0] * 8 + [1]],
    "holes": [[1] * 9, [0, 1, 1, 0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0, 0, 0, 0]],
}

torch.set_num_threads(1)


def build(registry, config):
    torch.manual_seed(0)
    module = registry.component_class(config.type_name())(config, SIZES).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.2)
    return module


def inputs(mask_name, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor(MASKS[mask_name], dtype=torch.bool)
    hidden = torch.randn(3, LENGTH, WIDTH, generator=generator)
    return hidden.requires_grad_(), mask


def compare(encoder, reference, mask_name, *, grads_of):
    """Compare outputs at real positions and gradients of the input and of the parameters."""
    hidden, mask = inputs(mask_name)
    weights = torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(2)) * 0.1
    found = encoder(hidden, mask, {})
    assert found.isfinite().all()
    (found * weights * mask[..., None]).sum().backward()
    own = {name: p.grad.clone() for name, p in encoder.named_parameters()}
    own_input = hidden.grad.clone()

    encoder.zero_grad()
    other = hidden.detach().clone().requires_grad_()
    total = torch.zeros(())
    for row in range(3):
        expected = reference(other[row][mask[row]][None])[0]
        torch.testing.assert_close(found[row][mask[row]], expected, atol=TOLERANCE, rtol=0)
        total = total + (expected * weights[row][mask[row]]).sum()
    total.backward()
    torch.testing.assert_close(own_input, other.grad, atol=TOLERANCE, rtol=0)
    for name, parameter in grads_of.named_parameters():
        torch.testing.assert_close(own[name], parameter.grad, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("mask_name", list(MASKS))
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_one_stack_equals_torch(name, bidirectional, mask_name):
    config = encoders.config_class(name)(num_layers=2, bidirectional=bidirectional)
    encoder = build(encoders, config)
    compare(encoder, lambda x: encoder.stack(x)[0], mask_name, grads_of=encoder)


@pytest.mark.parametrize("mask_name", list(MASKS))
@pytest.mark.parametrize("name", ["birnn", "bilstm", "bigru"])
def test_two_stacks_equal_two_torch_modules_of_which_one_reads_backwards(name, mask_name):
    encoder = build(encoders, encoders.config_class(name)(num_layers=2))

    def reference(x):
        forward = encoder.forward_stack(x)[0]
        backward = encoder.backward_stack(x.flip(1))[0].flip(1)
        return torch.cat([forward, backward], dim=-1)

    compare(encoder, reference, mask_name, grads_of=encoder)


@pytest.mark.parametrize("name", ["bilstm", "bigru", "birnn"])
def test_halves_of_two_stacks_never_see_the_other_side(name):
    encoder = build(encoders, encoders.config_class(name)(num_layers=2))
    hidden, mask = inputs("right")
    before = encoder(hidden, mask, {})
    changed = hidden.detach().clone()
    changed[:, 4] += 1.0
    after = encoder(changed, mask, {})
    half = WIDTH // 2
    assert torch.equal(before[:, :4, :half], after[:, :4, :half])
    assert torch.equal(before[:, 5:, half:], after[:, 5:, half:])
    assert not torch.equal(before[0, 4], after[0, 4])


def gated_reference(encoder, kernel, causal, block):
    """Equation 1 with explicit loops over positions, for one sequence [1, S, D]."""

    def run(x):
        x = x[0]
        residual = x
        left = kernel - 1 if causal else (kernel - 1) // 2
        for index, layer in enumerate(encoder.layers):
            padded = F.pad(x, (0, 0, left, kernel - 1 - left))
            outputs = []
            for position in range(len(x)):
                window = padded[position : position + kernel]
                mixed = torch.einsum("ock,kc->o", layer.weight, window) + layer.bias
                outputs.append(mixed[:WIDTH] * torch.sigmoid(mixed[WIDTH:]))
            x = torch.stack(outputs)
            if (index + 1) % block == 0:
                x = residual = x + residual
        return x[None]

    return run


@pytest.mark.parametrize("mask_name", ["right", "left"])
@pytest.mark.parametrize(
    ("mask", "kernel"), [("causal", 3), ("causal", 1), ("bidirectional", 3), ("bidirectional", 4)]
)
def test_gated_convolution_equals_its_equation(mask, kernel, mask_name):
    config = GatedCnnConfig(num_layers=5, kernel_size=kernel, block_size=2, mask=mask)
    encoder = build(encoders, config)
    reference = gated_reference(encoder, kernel, mask == "causal", 2)
    compare(encoder, reference, mask_name, grads_of=encoder)


def fused(attention):
    """Weights of torch's fused in_proj."""
    parts = (attention.query, attention.key, attention.value)
    return torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])


def copy_block(ours, theirs):
    """Fill a torch transformer layer with the weights of one of ours."""
    pairs = [(ours.attention, theirs.self_attn)]
    norms = [(ours.norm1, theirs.norm1), (ours.norm2, theirs.norm2)]
    if hasattr(ours, "cross_attention"):
        pairs.append((ours.cross_attention, theirs.multihead_attn))
        norms = [
            (ours.norm1, theirs.norm1),
            (ours.cross_norm, theirs.norm2),
            (ours.norm2, theirs.norm3),
        ]
    with torch.no_grad():
        for own, other in pairs:
            weight, bias = fused(own)
            other.in_proj_weight.copy_(weight)
            other.in_proj_bias.copy_(bias)
            other.out_proj.load_state_dict(own.output.state_dict())
        theirs.linear1.load_state_dict(ours.feed_forward.up.state_dict())
        theirs.linear2.load_state_dict(ours.feed_forward.down.state_dict())
        for own, other in norms:
            other.load_state_dict(own.state_dict())


@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_decoder_equals_torch(norm_position):
    config = TransformerDecoderConfig(
        num_layers=2, num_heads=3, intermediate_size=20, norm_position=norm_position
    )
    decoder = build(decoders, config)
    layer = nn.TransformerDecoderLayer(
        WIDTH, 3, 20, activation="gelu", batch_first=True, norm_first=norm_position == "pre"
    )
    theirs = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(WIDTH) if decoder.norm else None)
    for own, other in zip(decoder.layers, theirs.layers, strict=True):
        copy_block(own, other)
    if decoder.norm is not None:
        theirs.norm.load_state_dict(decoder.norm.state_dict())
    hidden, mask = inputs("right")
    memory, memory_mask = inputs("left", seed=4)
    found = decoder(hidden, mask, memory, memory_mask)
    expected = theirs.eval()(
        hidden,
        memory,
        tgt_mask=~torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril(),
        tgt_key_padding_mask=~mask,
        memory_key_padding_mask=~memory_mask,
    )
    torch.testing.assert_close(found[mask], expected[mask], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("norm_position", ["post", "pre"])
def test_encoder_equals_torch(norm_position, activation):
    config = TransformerConfig(
        num_layers=2,
        num_heads=3,
        intermediate_size=20,
        norm_position=norm_position,
        activation=activation,
    )
    encoder = build(encoders, config)
    layer = nn.TransformerEncoderLayer(
        WIDTH, 3, 20, activation=activation, batch_first=True, norm_first=norm_position == "pre"
    )
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for own, other in zip(encoder.layers, theirs.layers, strict=True):
        copy_block(own, other)
    if encoder.norm is not None:
        theirs.norm = nn.LayerNorm(WIDTH)
        theirs.norm.load_state_dict(encoder.norm.state_dict())
    hidden, mask = inputs("holes")
    found = encoder(hidden, mask, {})
    expected = theirs(hidden, src_key_padding_mask=~mask)
    torch.testing.assert_close(found[mask], expected[mask], atol=TOLERANCE, rtol=0)
