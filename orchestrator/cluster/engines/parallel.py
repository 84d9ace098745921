"""Ranks of a job in which layers are cut, and the parts of a model that each of them has.

Layers are cut among consecutive processes: those of one host, if it has enough. FSDP2 cuts the rows
of the parts among the processes that have the same part, and of everything else among all
processes, so that each element is on one rank and has one optimizer state.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

# Not public yet: FSDP2 takes other ranks for some parameters through its placement function alone.
from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo, ShardPlacementResult

from orchestrator.cluster.engines.cuts import Cuts
from orchestrator.cluster.engines.expert_parallel import cut_experts
from orchestrator.cluster.engines.tensor_parallel import cut_layers
from orchestrator.cluster.engines.tensor_ranks import TensorRanks
from orchestrator.errors import InputError
from orchestrator.training.engines.engine_config import EngineConfig

Placement = Callable[[nn.Parameter], ShardPlacementResult | None]


@dataclass(frozen=True)
class Parallel:
    """Ranks of a job, and what of the model each has before FSDP2 cuts rows.

    Attributes:
        mesh: All processes; FSDP2 cuts among them what is not in ``cuts``. With replicas there are
            two axes, and it cuts among those of the second.
        data: Those with the same part of each layer; FSDP2 cuts the parts among them.
        cuts: Parameters that are cut, with the part of this rank.
        factors: Parameters whose gradient, averaged by FSDP2, lacks a factor.
    """

    mesh: DeviceMesh
    data: DeviceMesh
    cuts: Cuts = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)

    def placement(self, model: nn.Module) -> Placement | None:
        """Return what names the ranks of each parameter for FSDP2; None: all processes."""
        if not self.cuts:
            return None
        parts = {id(p) for name, p in model.named_parameters() if name in self.cuts}
        among = ShardPlacementResult(None, FSDPMeshInfo(self.data, shard_mesh_dim=0))
        return lambda parameter: among if id(parameter) in parts else None


def parallelized(model: nn.Module, device: str, engine: EngineConfig) -> Parallel:
    """Cut the layers of a model in place; collective.

    Args:
        model: Whole, the same on every rank.
        device: Type of its device.
        engine: Says what is cut among how many ranks.

    Raises:
        InputError: The model has nothing to cut, or it cannot be cut among so many ranks.
    """
    world, parts = distributed.get_world_size(), engine.tensor_parallel * engine.expert_parallel
    if engine.replicas is not None:
        groups = (engine.replicas, world // engine.replicas)
        mesh = init_device_mesh(device, groups, mesh_dim_names=("replicas", "rows"))
    else:
        mesh = init_device_mesh(device, (world,))
    if parts == 1:
        return Parallel(mesh, mesh)
    grid = init_device_mesh(device, (world // parts, parts), mesh_dim_names=("data", "layer"))
    group = grid["layer"].get_group()
    if engine.tensor_parallel > 1:
        ranks = TensorRanks(group, group.rank(), parts, engine.sequence_parallel)
        cuts, factors = cut_layers(model, ranks)
        wanted, found = "tensor_parallel", "blocks. Set it to 1, or use a transformer"
    else:
        cuts, factors = cut_experts(model, group)
        wanted, found = "expert_parallel", "experts. Set it to 1, or add encoder.experts"
    if not cuts:
        raise InputError(f"engine.{wanted} is above 1, but no component of this model has {found}")
    return Parallel(mesh, grid["data"], cuts, factors)
