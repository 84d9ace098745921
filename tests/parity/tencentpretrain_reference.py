"""The models of TencentPretrain as formulas on tensors under its names, independent of ours.

Written from its documentation and options. Deviations of its code that an import names are repaired
here: LayerNorm is the standard one (T1), masks leave positions out (T4), pooling reads real
positions once (T13).

Legend: B batch, S and T positions, E embedding width, D hidden width, H heads, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from transformers.models.t5.modeling_t5 import T5Attention

EPS = 1e-6
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
DEFAULTS = {
    "hidden_act": "gelu",
    "layernorm": "normal",
    "layernorm_eps": EPS,
    "layernorm_positioning": "post",
    "feed_forward": "dense",
    "mask": "fully_visible",
    "max_seq_length": 512,
    "pooling": "first",
    "channels_num": 3,
    "data_processor": None,
}


class Weights(dict):
    """Tensors by name; one that is asked for the first time is drawn at random."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, name, *shape):
        if name not in self:
            std = min(0.3, 2 / math.sqrt(math.prod(shape[1:]) or 1))
            self[name] = std * torch.randn(shape, generator=self.generator)
        return self[name]

    def tie(self, name, other):
        """Let a second name hold the tensor of another one."""
        self[name] = self[other]

    def linear(self, name, x, outputs, bias=True):
        weight = self(f"{name}.weight", outputs, x.shape[-1])
        return F.linear(x, weight, self(f"{name}.bias", outputs) if bias else None)

    def norm(self, name, x, kind="normal", eps=EPS):
        width = x.shape[-1]
        if kind in ("t5", "rms"):
            return (
                x
                * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
                * self(f"{name}.weight", width)
            )
        first, second = ("weight", "bias") if kind == "normal_torch" else ("gamma", "beta")
        return F.layer_norm(
            x, (width,), self(f"{name}.{first}", width), self(f"{name}.{second}", width), eps
        )


class Reference:
    """One model: ``forward`` answers what its targets say."""

    def __init__(self, options, vocabulary, seed=0, **sizes):
        self.options = DEFAULTS | listed(options)
        self.vocabulary = vocabulary
        self.labels, self.codes = sizes.get("labels", 3), sizes.get("codes", vocabulary)
        self.weights = Weights(seed)

    def forward(self, source, segments, target=None, target_segments=None):
        """Return name of each target → logits."""
        options = self.options
        hidden = self.embed("embedding", options, source, segments)
        if options["encoder"] == "dual":
            hidden = [
                self.encode(f"encoder.encoder_{own}", self.stream(i), hidden[i], segments[i])
                for i, own in enumerate((0, 0 if options.get("tie_weights") else 1))
            ]
            self._name_twice()
        else:
            hidden = self.encode("encoder", options, hidden, segments)
        real = segments
        if options.get("decoder"):
            if options.get("share_embedding"):
                words = "embedding.word.embedding.weight"
                self.weights.tie(f"tgt_{words}", words)
            words = self.embed("tgt_embedding", options, target, target_segments)
            hidden, real = self.decode(hidden, words, segments), target_segments
        return {name: self.answer(name, hidden, real) for name in options.get("target", [])}

    def _name_twice(self):
        """Store what both streams share under the names of both."""
        for name in list(self.weights) if self.options.get("tie_weights") else ():
            if name.startswith(("embedding.dual.embedding_1.", "encoder.encoder_0.")):
                kept, other = ("_1.", "_0.") if name.startswith("emb") else ("_0.", "_1.")
                self.weights.tie(name.replace(kept, other, 1), name)

    def stream(self, index):
        return self.options | listed(self.options[f"stream_{index}"])

    def embed(self, name, options, source, segments):
        names = options[name.rpartition(".")[2] if "." not in name else "embedding"]
        if names == ["dual"]:
            return [self._stream(name, index, source, segments) for index in range(2)]
        total = 0
        for part in names:
            total = total + self._part(f"{name}.{part}", part, options, source, segments)
        if not options.get("remove_embedding_layernorm"):
            total = self.weights.norm(f"{name}.layer_norm", total)
        return total

    def _stream(self, name, index, source, segments):
        options = self.stream(index)
        own = f"{name}.dual.embedding_{1 if options.get('tie_weights') else index}"
        total = self.embed(own, options, source[index], segments[index])
        if not options.get("remove_embedding_layernorm"):
            total = self.weights.norm(f"{name}.dual.stream_{index}_layer_norm", total)
        return total

    def _part(self, name, part, options, source, segments):
        width, w = options["emb_size"], self.weights
        table = f"{name}.embedding.weight"
        scale = math.sqrt(width) if "sinusoidalpos" in options["embedding"] else 1.0
        if part == "word":
            return F.embedding(source, w(table, self.vocabulary, width)) * scale
        if part == "pos":
            return w(table, options["max_seq_length"], width)[: segments.shape[1]]
        if part == "seg":
            return F.embedding(segments, w(table, 3, width))
        if part == "sinusoidalpos":
            return self._waves(options, segments)
        if part == "speech":
            return self._speech(name, source) * scale
        if part == "word_patch":
            words = w(f"{name}.language_embedding.embedding.weight", self.vocabulary, width)
            patches = self._patches(f"{name}.vision_embedding", options, source[1])
            return torch.cat([F.embedding(source[0], words), patches], 1)
        return self._patches(name, options, source, masked=part == "masked_patch")

    def _waves(self, options, segments):
        width = options["emb_size"]
        rates = torch.exp(torch.arange(width // 2) * -(math.log(1e4) / (width // 2 - 1)))
        length = segments.shape[1]
        angles = (torch.arange(length) + 2.0)[:, None] * rates
        if "speech" in options["embedding"]:
            waves = torch.cat([angles.sin(), angles.cos()], 1)
        else:
            waves = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
        return waves * (segments > 0)[..., None]

    def _speech(self, name, frames):
        hidden, options = frames.transpose(1, 2), self.options
        first = f"{name}.conv.conv_layers"
        for i, kernel in enumerate(options["conv_kernel_sizes"]):
            outputs = options["conv_channels"][i]
            weight = self.weights(f"{first}.{i}.0.weight", outputs, hidden.shape[1], kernel)
            bias = self.weights(f"{first}.{i}.0.bias", outputs)
            hidden = F.glu(F.conv1d(hidden, weight, bias, 2, kernel // 2), dim=1)
        return hidden.transpose(1, 2)

    def _patches(self, name, options, pixels, masked=False):
        width, size = options["emb_size"], options["patch_size"]
        kernel = self.weights(
            f"{name}.projection.weight", width, options["channels_num"], size, size
        )
        patches = F.conv2d(pixels, kernel, stride=size).flatten(2).transpose(1, 2)
        first = self.weights(f"{name}.cls_emb", 1, 1, width).expand(len(pixels), -1, -1)
        if masked:
            self.weights(f"{name}.mask_emb", 1, width)
        return torch.cat([first, patches], 1)

    def encode(self, name, options, hidden, segments):
        kind, w = options["encoder"], self.weights
        if kind != "transformer":
            return self._recurrent(name, options, hidden, segments)
        if options.get("factorized_embedding_parameterization"):
            hidden = w.linear(f"{name}.linear", hidden, options["hidden_size"])
        length = hidden.shape[1]
        allowed = (segments > 0)[:, None, None].expand(-1, 1, length, -1)
        earlier = torch.ones(length, length).tril().bool()
        if options["mask"] == "causal":
            allowed = allowed & earlier
        elif options["mask"] != "fully_visible":
            allowed = allowed & (earlier | (segments == 1)[:, None, None])
        bias = None
        if options.get("relative_position_embedding"):
            bias = self._bias(f"{name}.relative_pos_emb", options, length, both=True)
        elif options.get("alibi_position_embedding"):  # declared there, and never added (T9)
            heads, steps = options["heads_num"], torch.arange(length)
            slopes = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1))
            scaled = math.sqrt(options["hidden_size"] // heads)  # scores are divided by it below
            bias = slopes[:, None, None] * (steps[None] - steps[:, None]) * scaled
        earlier_scores = None
        for i in range(options["layers_num"]):
            shared = options.get("parameter_sharing")
            block = f"{name}.transformer" + ("" if shared else f".{i}")
            hidden, earlier_scores = self._block(
                block, options, hidden, allowed, bias, earlier_scores
            )
        if options["layernorm_positioning"] == "pre":
            hidden = w.norm(
                f"{name}.layer_norm", hidden, options["layernorm"], options["layernorm_eps"]
            )
        return hidden

    def _block(self, name, options, x, allowed, bias, earlier):
        def norm(number, value):
            kind, eps = options["layernorm"], options["layernorm_eps"]
            return self.weights.norm(f"{name}.layer_norm_{number}", value, kind, eps)

        pre = options["layernorm_positioning"] == "pre"
        read = norm(1, x) if pre else x
        mixed, scores = self._attend(
            f"{name}.self_attn", options, read, read, allowed, bias, earlier
        )
        if pre:
            x = x + mixed
            return x + self._feed(f"{name}.feed_forward", options, norm(2, x)), scores
        x = norm(1, x + mixed)
        return norm(2, x + self._feed(f"{name}.feed_forward", options, x)), scores

    def _attend(self, name, options, x, memory, allowed, bias=None, earlier=None):
        heads = options["heads_num"]
        size = options.get("attention_head_size") or options["hidden_size"] // heads
        has_bias = not options.get("remove_transformer_bias")
        groups = options.get("local_kv_heads_num") or heads
        parts = [
            self.weights.linear(f"{name}.linear_layers.{i}", each, count * size, has_bias)
            .unflatten(-1, (count, size))
            .transpose(1, 2)
            .repeat_interleave(heads // count, 1)
            for i, (each, count) in enumerate(((x, heads), (memory, groups), (memory, groups)))
        ]
        if options.get("rotary_position_embedding"):
            parts[:2] = [turned(each) for each in parts[:2]]
        scores = parts[0] @ parts[1].transpose(2, 3)
        if bias is not None:
            scores = scores + bias
        if not options.get("remove_attention_scale"):
            scores = scores / math.sqrt(size)
        if options.get("has_residual_attention") and earlier is not None:
            scores = scores + earlier
        weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        mixed = (weights @ parts[2]).transpose(1, 2).flatten(2)
        output = self.weights.linear(
            f"{name}.final_linear", mixed, options["hidden_size"], has_bias
        )
        return output, scores

    def _feed(self, name, options, x):
        act, has_bias = (
            ACTIVATIONS[options["hidden_act"]],
            not options.get("remove_transformer_bias"),
        )
        inner = options["feedforward_size"]
        up = self.weights.linear(f"{name}.linear_1", x, inner, has_bias)
        if options["feed_forward"] == "gated":
            up = act(self.weights.linear(f"{name}.linear_gate", x, inner, has_bias)) * up
        else:
            up = act(up)
        return self.weights.linear(f"{name}.linear_2", up, options["hidden_size"], has_bias)

    def _bias(self, name, options, length, both):
        buckets = options.get("relative_attention_buckets_num", 32)
        table = self.weights(
            f"{name}.relative_attention_bias.weight", buckets, options["heads_num"]
        )
        positions = torch.arange(length)
        distance = positions[None, :] - positions[:, None]
        rows = T5Attention._relative_position_bucket(
            distance, bidirectional=both, num_buckets=buckets, max_distance=128
        )
        return F.embedding(rows, table).permute(2, 0, 1)[None]

    def decode(self, memory, x, segments):
        options, w = self.options, self.weights
        kind, eps = options["layernorm"], options["layernorm_eps"]
        pre = options["layernorm_positioning"] == "pre"
        length = x.shape[1]
        own = torch.ones(length, length).tril().bool()
        other = (segments > 0)[:, None, None]
        bias = None
        if options.get("relative_position_embedding"):
            bias = self._bias("decoder.self_pos_emb", options, length, both=False)
        for i in range(options["decoder_layers_num"]):
            name = f"decoder.transformer_decoder.{i}"
            steps = (
                lambda x, n=name: self._attend(f"{n}.self_attn", options, x, x, own, bias)[0],
                lambda x, n=name: self._attend(f"{n}.context_attn", options, x, memory, other)[0],
                lambda x, n=name: self._feed(f"{n}.feed_forward", options, x),
            )
            for number, step in enumerate(steps, 1):
                norm = f"{name}.layer_norm_{number}"
                if pre:
                    x = x + step(w.norm(norm, x, kind, eps))
                else:
                    x = w.norm(norm, x + step(x), kind, eps)
        return w.norm("decoder.layer_norm", x, "t5" if kind == "t5" else "normal") if pre else x

    def _recurrent(self, name, options, x, segments):
        kind = options["encoder"]
        if kind == "gatedcnn":
            return self._gated(name, options, x)
        cell = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
        make = cell[kind.removeprefix("bi")]
        two = kind.startswith("bi")
        both = bool(options.get("bidirectional"))
        width = options["hidden_size"] // (2 if two or both else 1)

        def run(part, read):
            module = make(
                x.shape[-1], width, options["layers_num"], batch_first=True, bidirectional=both
            )
            own = {
                key: self.weights(f"{part}.{key}", *t.shape)
                for key, t in module.state_dict().items()
            }
            module.load_state_dict(own)
            return module(read)[0]

        if not two:
            return run(f"{name}.rnn", x)
        backward = run(f"{name}.rnn_backward", x.flip(1)).flip(1)
        return torch.cat([run(f"{name}.rnn_forward", x), backward], 2)

    def _gated(self, name, options, x):
        width, kernel = options["hidden_size"], options["kernel_size"]

        def layer(x, conv, bias, axis):
            shape = (1, x.shape[2]) if axis else (x.shape[2], 1)
            weight = self.weights(f"{name}.{conv}.weight", width, shape[0], kernel, shape[1])
            weight = weight.squeeze(1).transpose(1, 2) if axis else weight.squeeze(-1)
            own = self.weights(f"{name}.{conv}.bias", width)
            added = self.weights(f"{name}.{bias}", 1, width, 1, 1).flatten()
            padded = F.pad(x.transpose(1, 2), (kernel - 1, 0))
            return F.conv1d(padded, weight, own + added).transpose(1, 2)

        x = layer(x, "conv_1", "conv_b1", 1) * layer(x, "gate_1", "gate_b1", 1).sigmoid()
        residual = x
        for i in range(options["layers_num"] - 1):
            gate = layer(x, f"gate.{i}", f"gate_b.{i}", 0).sigmoid()
            x = layer(x, f"conv.{i}", f"conv_b.{i}", 0) * gate
            if (i + 1) % options["block_size"] == 0:
                x = residual = x + residual
        return x

    def answer(self, name, hidden, segments):
        w, options = self.weights, self.options
        first = f"target.{name}"
        if name == "mlm":
            act = ACTIVATIONS[options["hidden_act"]]
            hidden = act(w.linear(f"{first}.linear_1", hidden, options["emb_size"]))
            hidden = w.norm(f"{first}.layer_norm", hidden)
            if options.get("tie_weights"):
                w.tie(f"{first}.linear_2.weight", "embedding.word.embedding.weight")
            return w.linear(f"{first}.linear_2", hidden, self.codes)
        if name in ("lm", "bilm"):
            has_bias = bool(options.get("has_lmtarget_bias"))
            side = "tgt_embedding" if options.get("decoder") else "embedding"
            # Sharing comes after tying and takes the tied table away from the target side.
            if options.get("tie_weights") and not options.get("share_embedding"):
                w.tie(f"{first}.output_layer.weight", f"{side}.word.embedding.weight")
            if name == "bilm":
                hidden = hidden.unflatten(-1, (2, -1))
            return w.linear(f"{first}.output_layer", hidden, self.vocabulary, has_bias)
        if name == "clr":
            return self._contrast(first, hidden, segments)
        read = hidden[:, 0] if name == "sp" else pool(hidden, segments, options["pooling"])
        read = w.linear(f"{first}.linear_1", read, read.shape[-1]).tanh()
        return w.linear(f"{first}.linear_2", read, 2 if name == "sp" else self.labels)

    def _contrast(self, first, hidden, segments):
        vectors = []
        for i in range(2):
            vector = pool(hidden[i], segments[i], self.stream(i)["pooling"])
            if self.options["projection"]:
                shape = (vector.shape[-1], self.options["feature_size"])
                vector = vector @ self.weights(f"{first}.encoder_{i}_projection", *shape)
            vectors.append(F.normalize(vector, dim=-1))
        return self.weights(f"{first}.logit_scale").exp() * vectors[0] @ vectors[1].T


def listed(options):
    """Return options with the parts of the embedding as a list; older files write a name."""
    names = options.get("embedding", [])
    return options | {"embedding": [names] if isinstance(names, str) else names}


def turned(x):
    """Turn channels 2i and 2i + 1 of [B, H, S, d] by the position's angle."""
    size = x.shape[-1]
    rates = 10000.0 ** (-torch.arange(0, size, 2) / size)
    angles = torch.polar(torch.ones(()), torch.arange(x.shape[2])[:, None] * rates)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * angles).flatten(-2)


def pool(hidden, segments, how):
    """Pool the real positions of [B, S, D]."""
    real = (segments > 0).to(hidden.dtype)[..., None]
    if how == "mean":
        return (hidden * real).sum(1) / real.sum(1)
    if how == "last":
        return hidden[torch.arange(len(hidden)), (segments > 0).sum(1) - 1]
    if how == "max":
        return hidden.masked_fill(real == 0, -torch.inf).amax(1)
    return hidden[:, 0]
