"""Ray Train's ``TorchTrainer`` without the helper processes that our launches never use.

Each helper is a Python process that imports Ray before training may start: about two seconds of
one core. We read data in the workers (no dataset manager), and on a private cluster nobody is
left behind whose placement groups would have to be cleaned up after a crash of the driver.
"""

from typing import Any

from ray.train.torch import TorchTrainer

UNUSED = frozenset({"DatasetsCallback"})
UNUSED_WHEN_PRIVATE = frozenset({"PlacementGroupCleanerCallback"})


class LeanTorchTrainer(TorchTrainer):
    """A ``TorchTrainer`` with fewer default callbacks.

    Args:
        private: Whether the cluster ends with this process.
        **options: Everything that ``TorchTrainer`` takes.
    """

    def __init__(self, *args: Any, private: bool = False, **options: Any) -> None:
        self._skipped = UNUSED | (UNUSED_WHEN_PRIVATE if private else frozenset())
        super().__init__(*args, **options)

    def _create_default_callbacks(self) -> list[Any]:
        # Not public: should Ray rename it, this is simply never called and the helpers run.
        callbacks: list[Any] = super()._create_default_callbacks()
        return [each for each in callbacks if type(each).__name__ not in self._skipped]
