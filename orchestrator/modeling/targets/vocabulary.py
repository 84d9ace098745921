"""Targets that predict tokens, and their output layer, whose loss is computed in pieces.

Logits are by far the largest tensors of a language model: N x V values, and autograd would keep
their softmax and make their gradient beside them. So they are computed only where there is a label,
a piece of the rows at a time and with its gradients, so that no more than one piece of logits
exists. FusedLinearCrossEntropy of Hsu et al. 2024 ("Liger Kernel") does the same, but needs Triton;
this is plain torch. The values are those of linear layer and cross entropy; on CPUs it takes about
0.6 of their time.

Legend: B batch, S length, N labelled positions, n those of a piece, D model width, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from orchestrator.modeling.component import Dimensions
from orchestrator.modeling.interfaces import IGNORED_LABEL, Target, TargetOutput
from orchestrator.modeling.layers.attention import softcapped
from orchestrator.modeling.layers.feed_forward import Transform, compiled
from orchestrator.modeling.targets.token_configs import LmConfig, MlmConfig, PromptConfig


class LossOptions(NamedTuple):
    """Options of the cross entropy of a piece.

    Attributes:
        smoothing: Share of each answer that is spread evenly over all V.
        softcap: Limit of the logits, by a tanh; None: no limit.
    """

    smoothing: float
    softcap: float | None


Piece = Callable[[Tensor, Tensor, LossOptions], tuple[Tensor, Tensor, Tensor]]
"""Logits, labels and options of one piece to its loss, gradient and correct answers."""

VALUES_PER_PIECE = {"cpu": 2**20}
"""Logits that exist at once: on a CPU as many as its cache holds."""


VALUES_PER_PIECE_ELSEWHERE = 2**26
"""Logits that exist at once on other devices: enough to keep them busy."""


class VocabularyLayer(nn.Linear):
    """Linear layer [D] → [V]; given labels, it returns the summed cross entropy instead of logits.

    Loss and logits go through the same call, so that hooks which gather a sharded weight see both.

    Args:
        width: D.
        vocab_size: V.
        bias: Whether there is one.
        smoothing: Share of each answer that is spread evenly over all V, in training mode only: an
            evaluation measures the plain cross entropy, whose exponential is the perplexity.
        softcap: Limit of the logits, by a tanh; None: no limit.
    """

    def __init__(
        self,
        width: int,
        vocab_size: int,
        *,
        bias: bool = True,
        smoothing: float = 0.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__(width, vocab_size, bias=bias)
        self.smoothing, self.softcap = smoothing, softcap
        self.compiled = False

    def forward(self, input: Tensor, labels: Tensor | None = None) -> Any:
        """Return logits, or the loss.

        Args:
            input: [..., D]; [N, D] with labels.
            labels: Indices in [0, V), [N]; None for logits.

        Returns:
            Logits [..., V]; or (summed cross entropy, number of correct answers), both 0-dim.
        """
        if labels is None:
            logits = super().forward(input)
            return logits if self.softcap is None else softcapped(logits, self.softcap)
        train = torch.is_grad_enabled()
        options = LossOptions(self.smoothing if self.training else 0.0, self.softcap)
        pieces: Any = _PieceByPiece.apply
        # Compiled, a few passes over the logits take the place of a dozen.
        piece = compiled(cross_entropy_of_piece) if self.compiled else cross_entropy_of_piece
        return pieces(input, self.weight, self.bias, labels, options, train, piece)


def summed_cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss, gradient of the logits, and number of correct answers, for one piece.

    With smoothing e the wanted distribution is (1 - e) one-hot + e / V (Szegedy et al. 2016,
    section 7), and the loss -sum_v wanted_v log softmax_v.

    Args:
        logits: [n, V], fp32; overwritten by the gradient, softmax minus what is wanted.
        labels: [n].
        smoothing: E, in [0, 1).
    """
    largest, answers = logits.max(dim=1, keepdim=True)
    wanted = logits.gather(1, labels[:, None]) * (1.0 - smoothing)
    if smoothing:
        wanted += smoothing * logits.mean(dim=1, keepdim=True)
    total = logits.sub_(largest).exp_().sum(dim=1, keepdim=True)
    loss = (total.log() + largest - wanted).sum()
    gradient = logits.div_(total)
    if smoothing:
        gradient -= smoothing / logits.shape[1]
    gradient.scatter_add_(1, labels[:, None], torch.full_like(wanted, smoothing - 1.0))
    return loss, gradient, (answers[:, 0] == labels).sum()


def cross_entropy_of_piece(
    logits: Tensor, labels: Tensor, options: LossOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what ``summed_cross_entropy`` does, the gradient in the type of the logits.

    With a limit c of the logits z, the loss reads y = c tanh(z / c), and dy/dz = 1 - (y / c)^2.
    """
    if options.softcap is None:
        loss, gradient, right = summed_cross_entropy(logits.float(), labels, options.smoothing)
    else:
        share = (logits.float() / options.softcap).tanh()
        capped = share * options.softcap
        loss, gradient, right = summed_cross_entropy(capped, labels, options.smoothing)
        gradient = gradient * (1.0 - share.square())
    return loss, gradient.to(logits.dtype), right


class _PieceByPiece(torch.autograd.Function):
    """Loss and gradients in one pass over pieces of rows; accumulates in fp32."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        options: LossOptions,
        train: bool,
        cross_entropy: Piece,
    ) -> tuple[Tensor, Tensor]:
        device = x.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else x.dtype
        rows = max(1, VALUES_PER_PIECE.get(device, VALUES_PER_PIECE_ELSEWHERE) // len(weight))
        needed = [train and need for need in ctx.needs_input_grad[:3]]
        loss = torch.zeros((), dtype=torch.float32, device=x.device)
        correct = torch.zeros((), dtype=torch.int64, device=x.device)
        sums = [
            torch.zeros_like(tensor, dtype=torch.float32) if need and tensor is not None else None
            for tensor, need in zip((x, weight, bias), needed, strict=True)
        ]
        with torch.autocast(device, enabled=False):
            table = weight.to(dtype)
            shift = None if bias is None else bias.to(dtype)
            for start in range(0, len(x), rows):
                piece = slice(start, start + rows)
                inputs = x[piece].to(dtype)
                logits = F.linear(inputs, table, shift)
                part, gradient, right = cross_entropy(logits, labels[piece], options)
                loss += part
                correct += right
                _add_gradients(sums, piece, gradient, inputs, table)
        gradients = zip(sums, (x, weight, bias), strict=True)
        ctx.save_for_backward(*(g if t is None or g is None else g.to(t) for g, t in gradients))
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradients = (None if g is None else g * scale.to(g.dtype) for g in ctx.saved_tensors)
        return (*gradients, None, None, None, None)


def _add_gradients(
    sums: list[Tensor | None], piece: slice, gradient: Tensor, inputs: Tensor, table: Tensor
) -> None:
    """Add what one piece contributes to the gradients of input, weight and bias."""
    of_input, of_weight, of_bias = sums
    if of_input is not None:
        of_input[piece] = gradient @ table
    if of_weight is not None:
        if gradient.dtype == of_weight.dtype:
            of_weight.addmm_(gradient.t(), inputs)
        else:
            of_weight += gradient.t() @ inputs
    if of_bias is not None:
        of_bias += gradient.sum(dim=0)


def token_loss(layer: VocabularyLayer, vectors: Tensor, labels: Tensor) -> TargetOutput:
    """Return the summed cross entropy of ``layer(vectors)``.

    Args:
        layer: The output layer.
        vectors: One per label, [N, D]; N may be 0.
        labels: [N].
    """
    loss, correct = layer(vectors, labels)
    # Not `torch.tensor`: that would copy from the host, and wait for the device.
    return TargetOutput(loss, torch.full((), len(labels), device=labels.device), correct)


def labelled(hidden: Tensor, labels: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the vectors that have a label, [N, D], and their labels, [N].

    Args:
        hidden: [..., D].
        labels: [...], -100 where nothing is predicted.
        places: Indices of labels in the flattened labels, [N], if the host has counted them; they
            spare a device the wait for their number.
    """
    vectors, answers = hidden.flatten(0, -2), labels.flatten()
    if places is None:
        places = (answers != IGNORED_LABEL).nonzero()[:, 0]
    if len(places) == len(answers):
        return vectors, answers
    return vectors.index_select(0, places), answers.index_select(0, places)


class MlmTransform(Transform):
    """Linear layer ``dense``, activation, LayerNorm ``norm`` (BERT's prediction head transform)."""

    def __init__(self, config: MlmConfig | PromptConfig, dimensions: Dimensions) -> None:
        super().__init__(
            dimensions.hidden_size,
            dimensions.word_size,
            activation=config.activation,
            norm_eps=config.norm_eps,
            bias=config.transform_bias,
            norm_bias=config.norm_bias,
        )


class TokenTarget(Target):
    """Predict one token per labelled position.

    ``labels`` are [B, S] int64, -100 where nothing is predicted; smoothed in training mode only.
    Parameters: ``output.weight`` [V, D] (the word table if tied), ``output.bias`` [V].
    """

    takes_places: ClassVar[bool] = True

    def __init__(
        self,
        width: int,
        vocab_size: int,
        *,
        tie: bool,
        bias: bool,
        smoothing: float = 0.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self.output = VocabularyLayer(
            width, vocab_size, bias=bias, smoothing=smoothing, softcap=softcap
        )
        self.tie = tie

    def tied_output(self) -> nn.Linear | None:
        """Return the output layer if its weight is the word table."""
        return self.output if self.tie else None

    def transform(self, hidden: Tensor) -> Tensor:
        """Return what the output layer reads, [..., D]."""
        return hidden

    def count(self, labels: Tensor) -> Tensor:
        """Return the number of labelled positions, 0-dim int64."""
        return (labels != IGNORED_LABEL).sum()

    def forward(
        self, hidden: Tensor, mask: Tensor, labels: Tensor, places: Tensor | None = None
    ) -> TargetOutput:
        """Return the cross entropy summed over labelled positions of ``hidden`` [B, S, D]."""
        vectors, answers = labelled(hidden, labels, places)
        return token_loss(self.output, self.transform(vectors), answers)

    def predict(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return logits of every position, [B, S, V]."""
        logits: Tensor = self.output(self.transform(hidden))
        return logits


class MlmTarget(TokenTarget):
    """Masked language modeling (Devlin et al. 2019).

    Parameters: also ``transform_layer.dense`` and ``transform_layer.norm``.
    """

    Config = MlmConfig

    def __init__(self, config: MlmConfig, dimensions: Dimensions) -> None:
        super().__init__(
            dimensions.word_size if config.transform else dimensions.hidden_size,
            dimensions.vocab_size,
            tie=config.tie,
            bias=config.bias,
            smoothing=config.label_smoothing,
        )
        self.transform_layer = MlmTransform(config, dimensions) if config.transform else None

    def transform(self, hidden: Tensor) -> Tensor:
        """Return the transformed vectors, [..., D]."""
        if self.transform_layer is None:
            return hidden
        transformed: Tensor = self.transform_layer(hidden)
        return transformed


class LmTarget(TokenTarget):
    """Language modeling: ``labels[b, s]`` is what follows position s (already shifted)."""

    Config = LmConfig

    def __init__(self, config: LmConfig, dimensions: Dimensions) -> None:
        width = dimensions.hidden_size
        super().__init__(
            width,
            dimensions.vocab_size,
            tie=config.tie,
            bias=config.bias,
            smoothing=config.label_smoothing,
            softcap=config.softcap,
        )
        self.factor = width**-0.5 if config.scale else 1.0

    def transform(self, hidden: Tensor) -> Tensor:
        """Return the vectors, scaled if the config says so, [..., D]."""
        return hidden if self.factor == 1.0 else hidden * self.factor
