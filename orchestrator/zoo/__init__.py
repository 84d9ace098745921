"""Model packages: manifest, commit, verify, aliases, index, card, history, lineage, gates."""

from orchestrator.zoo.manifest import Manifest
from orchestrator.zoo.package import Package
from orchestrator.zoo.stage import commit_once, committed, conclude
from orchestrator.zoo.zoo import Zoo

__all__ = ["Manifest", "Package", "Zoo", "commit_once", "committed", "conclude"]
