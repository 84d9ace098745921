"""Places of masters and gradients in DeepSpeed's ZeRO stages, between backward and step.

Nothing of this is DeepSpeed's public interface. Each class names what it relies on in one place;
``deepspeed_zero`` proves at construction that it still holds. DeepSpeed itself is not imported:
what stage 3 needs of it is handed in.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from orchestrator.cluster.engines.layouts import Named, whole_shape
from orchestrator.training.engines.engine import Shard


class FlatLayout:
    """Stages 1 and 2: a group's parameters in one flat tensor, cut into equal ranges.

    A rank may hold all, a part or nothing of a parameter. Stage 1 in bf16 is DeepSpeed's
    ``BF16_Optimizer``, which keeps the whole gradient on every rank.

    With ``offloaded`` masters, their gradients are ``.grad`` of the range itself, in the host's
    memory: DeepSpeed copies there what a window has used, and leaves the rest as it was.

    Args:
        zero: DeepSpeed's optimizer.
        named: Trainable parameters.
        offloaded: Whether the optimizer's state lies in the host's memory.
    """

    def __init__(self, zero: Any, named: Named, *, offloaded: bool = False) -> None:
        self.zero, self.named, self.offloaded = zero, named, offloaded
        self.gradients_are_cut = hasattr(zero, "averaged_gradients")

    def clear(self) -> None:
        """Drop the reduced gradients, which DeepSpeed would add to or keep."""
        if self.gradients_are_cut:
            for group in range(len(self.zero.bit16_groups)):
                self.zero.averaged_gradients[group] = None
                self.zero.all_grad_tensors[group] = None
            self.zero.micro_step_id = -1
        self.zero.zero_grad()
        if self.offloaded:
            _zero_gradients(self.flats())
            for gradient in self.zero.accumulated_grads_in_cpu.values():
                gradient.zero_()

    def fill(self) -> None:
        """Let DeepSpeed copy what all micro-batches have left to the host (stage 1 has done so)."""
        if self.offloaded:
            if self.zero.partition_gradients:
                self.zero.finalize_gradient_accumulation_boundary()
            self.zero._wait_for_offload_copies()

    def shards(self) -> Iterator[Shard]:
        """Yield the fragment that DeepSpeed maps to each parameter."""
        for name, parameter in self.named:
            place = parameter._hp_mapping  # type: ignore[attr-defined]
            if place is None:
                continue
            address = place.lp_fragment_address
            grad = self._gradient(parameter, place)
            if grad is not None and grad.numel() != address.numel:
                grad = grad.narrow(0, address.start, address.numel)
            yield Shard(name, place.hp_fragment.detach(), grad, int(address.start), parameter.shape)

    def _gradient(self, parameter: nn.Parameter, place: Any) -> Tensor | None:
        group = place.param_group_index
        if (
            not self.offloaded
            and self.gradients_are_cut
            and self.zero.averaged_gradients.get(group) is None
        ):
            return None
        index = parameter._index_in_param_group  # type: ignore[attr-defined]
        grad: Tensor | None = place.get_lp_grad_fragment(index)
        return None if grad is None else grad.view(-1)

    def refresh(self) -> None:
        """Copy each range into the weights and gather them."""
        self.zero.update_lp_params()

    def flats(self) -> Sequence[Tensor]:
        """One range per parameter group."""
        if self.gradients_are_cut:
            return list(self.zero.single_partition_of_fp32_groups)
        return list(self.zero.fp32_groups_flat_partition)

    def whole(self, parameter: nn.Parameter, *, write: bool) -> AbstractContextManager[Tensor]:
        """Every rank holds the weights anyway."""
        del write
        return nullcontext(parameter.data)


@dataclass(frozen=True, slots=True)
class ChunkTools:
    """DeepSpeed's functions for a parameter that is cut by itself.

    Attributes:
        master: This rank's fp32 chunk of a parameter, padding included.
        gradient: This rank's reduced gradient of it, or None.
        gather: ``(parameters, modifier_rank=...)``: holds whole parameters for a while.
    """

    master: Callable[[nn.Parameter], Tensor]
    gradient: Callable[[nn.Parameter], Tensor | None]
    gather: Callable[..., AbstractContextManager[Any]]

    def offloaded(self, zero: Any) -> "ChunkTools":
        """Return the same for masters in the host's memory, which DeepSpeed's functions copy."""

        def master(parameter: nn.Parameter) -> Tensor:
            group, start, numel = zero.grad_position[zero.get_param_id(parameter)]
            chunk: Tensor = zero.fp32_partitioned_groups_flat[group].narrow(0, start, numel)
            return chunk

        def gradient(parameter: nn.Parameter) -> Tensor:
            group, start, numel = zero.grad_position[zero.get_param_id(parameter)]
            chunk: Tensor = zero.fp32_partitioned_groups_flat[group].grad.narrow(0, start, numel)
            return chunk

        return ChunkTools(master, gradient, self.gather)


class ChunkLayout:
    """Stage 3: every parameter cut by itself into equal chunks; the last one's tail is padding.

    The padding is uninitialised memory: nothing here reads it.

    Args:
        zero: DeepSpeed's optimizer.
        named: Trainable parameters.
        rank: This process.
        tools: DeepSpeed's functions.
        offloaded: Whether the optimizer's state lies in the host's memory, as for `FlatLayout`.
    """

    def __init__(
        self, zero: Any, named: Named, rank: int, tools: ChunkTools, *, offloaded: bool = False
    ) -> None:
        self.zero, self.named, self.rank, self.offloaded = zero, named, rank, offloaded
        self.tools = tools.offloaded(zero) if offloaded else tools

    def clear(self) -> None:
        """Drop all gradients, also of parameters that the next pass will not use.

        DeepSpeed overwrites only what a pass has used: an idle head would keep its gradient.
        """
        self.zero.zero_grad()
        self.zero.grad_partitions_flat_buffer.zero_()
        if self.offloaded:
            _zero_gradients(self.flats())

    def fill(self) -> None:
        """Let DeepSpeed copy what all micro-batches have left to the host."""
        if self.offloaded:
            self.zero.finalize_gradient_accumulation_boundary()

    def shards(self) -> Iterator[Shard]:
        """Yield the real elements of this rank's chunk of each parameter."""
        for name, parameter in self.named:
            master = self.tools.master(parameter).detach()
            chunk, shape = master.numel(), whole_shape(parameter)
            start = min(self.rank * chunk, shape.numel())
            real = min(chunk, shape.numel() - start)
            if real > 0:
                grad = self.tools.gradient(parameter)
                yield Shard(
                    name, master[:real], None if grad is None else grad[:real], start, shape
                )

    def refresh(self) -> None:
        """Copy masters to the chunks that the next forward pass gathers."""
        self.zero._partition_all_parameters()  # drop full copies that are still alive
        for group in range(len(self.zero.fp16_groups)):
            self.zero._reassign_or_swap_out_partitioned_parameters(group)
        # Small parameters are never released, so no forward pass would gather them again.
        if self.zero.persistent_parameters:
            self.zero.persistent_parameters[0].all_gather(self.zero.persistent_parameters)

    def flats(self) -> Sequence[Tensor]:
        """Return one tensor per sub-group of parameters."""
        return list(self.zero.fp32_partitioned_groups_flat)

    @contextmanager
    def whole(self, parameter: nn.Parameter, *, write: bool) -> Iterator[Tensor]:
        """Gather the parameter; with ``write`` rank 0's values are cut up again at the end."""
        with self.tools.gather([parameter], modifier_rank=0 if write else None):
            yield parameter.data


def _zero_gradients(flats: Sequence[Tensor]) -> None:
    for flat in flats:
        if flat.grad is not None:
            flat.grad.zero_()
