"""Settings of engines that cut layers among workers. Imports neither torch nor ray."""

from collections.abc import Iterator

from pydantic import Field

from orchestrator.config import StrictModel
from orchestrator.errors import Problem

CUTS = ("tensor_parallel", "expert_parallel")
"""Settings that cut layers; 1: they do not."""


class LayerCutSettings(StrictModel):
    """Cuts of layers among workers; by default there are none."""

    tensor_parallel: int = Field(
        1,
        ge=1,
        description="Workers that compute the same samples, each with a part of every layer of "
        "transformer blocks; fsdp2 only. Data-parallel workers are cluster.workers divided by it.",
    )
    sequence_parallel: bool = Field(
        False,
        description="With tensor_parallel, also cut the positions between the layers of a block "
        "among those workers: norms, dropout and residual sums, and what they keep.",
    )
    expert_parallel: int = Field(
        1,
        ge=1,
        description="Workers among which the experts of each block are cut; tokens travel to "
        "their experts. fsdp2 only. Each of the workers reads samples of its own.",
    )

    @property
    def cuts_layers(self) -> bool:
        """Whether layers are cut among workers."""
        return any(getattr(self, key) > 1 for key in CUTS)

    def data_ranks(self, workers: int) -> int:
        """Return how many groups of workers read samples of their own."""
        return workers // self.tensor_parallel

    @property
    def cut_title(self) -> str:
        """The cuts for people, with a comma before each."""
        cuts = [(key.replace("_", " "), getattr(self, key)) for key in CUTS]
        return "".join(f", {name} {parts}" for name, parts in cuts if parts > 1)

    def cut_problems(self, engine: str, title: str) -> Iterator[Problem]:
        """Yield cuts that contradict each other or the engine.

        Args:
            engine: Its type; only FSDP2 cuts the rows of what is cut already.
            title: Its name for people.
        """
        if self.sequence_parallel and self.tensor_parallel == 1:
            yield Problem("sequence_parallel", "cuts nothing. Set tensor_parallel above 1")
        cut = [key for key in CUTS if getattr(self, key) > 1]
        if len(cut) > 1:
            yield Problem("expert_parallel", "is not for cut layers. Set tensor_parallel to 1")
        if cut and engine != "fsdp2":
            yield Problem(cut[0], f"is not for {title}. Use type: fsdp2")

    def whole_layer_problems(self) -> Iterator[Problem]:
        """Yield settings that only pre-training has: other stages do not cut layers."""
        for key in CUTS:
            if getattr(self, key) > 1:
                yield Problem(key, "is for pre-training alone. Set it to 1")

    def uncut_problems(self, workers: int) -> Iterator[Problem]:
        """Yield cuts that a number of workers does not allow."""
        for key in CUTS:
            if workers % (parts := getattr(self, key)):
                yield Problem(
                    key,
                    f"{parts} does not divide {workers} workers. Use a multiple of it as "
                    "cluster.workers, without other numbers between min and max",
                )
