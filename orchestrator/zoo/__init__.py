"""Model packages: manifest, commit, verify, aliases, index, card, history, lineage."""

from orchestrator.zoo.manifest import Manifest
from orchestrator.zoo.package import Package
from orchestrator.zoo.stage import commit_once, committed
from orchestrator.zoo.zoo import Zoo

__all__ = ["Manifest", "Package", "Zoo", "commit_once", "committed"]
