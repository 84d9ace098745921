"""The rule for the learning rate of fine-tuning where a config gives none.

AdamW's updates have the size of the learning rate whatever the gradient, so the change of a
layer's output grows with the number of its inputs, and the rate that suits falls with the width
(Yang et al. 2022, table 3). Three origins are told apart:

- Trained here: 2e-3 up to a width of 128 and falling with 1 / width above: these models are small
  and have seen little text.
- Imported: 5e-5 at BERT's width of 768 (Devlin et al. 2019, appendix A.3, tried 2e-5 to 5e-5),
  growing with 1 / width below that, at most 4e-4; on wider models 5e-5 * 768 / width.
- LoRA: ten times as much, as only a low-rank change is trained (Hu et al. 2021, table 9, has 4e-4
  to 5e-4 where all weights have 2e-5 to 5e-5), at most 5e-3.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.zoo import Package, Zoo

NANO_RATE, NANO_WIDTH = 2e-3, 128
BERT_RATE, BERT_WIDTH = 5e-5, 768
IMPORTED_LIMIT = 4e-4
LORA_FACTOR, LORA_LIMIT = 10.0, 5e-3


@dataclass(frozen=True, slots=True)
class Rate:
    """A learning rate and why it was chosen.

    Attributes:
        value: The peak.
        reason: For ``--check``, the log and the result.
    """

    value: float
    reason: str


def usual_rate(width: int, *, imported: bool, lora: bool) -> Rate:
    """Return the learning rate by the rule of this module.

    Args:
        width: ``hidden_size`` of the model.
        imported: Whether it descends from an imported checkpoint.
        lora: Whether adapters are trained instead of all weights.
    """
    if imported:
        value = min(IMPORTED_LIMIT, BERT_RATE * BERT_WIDTH / width)
        reason = f"an imported model of width {width}"
    else:
        value = NANO_RATE * min(1.0, NANO_WIDTH / width)
        reason = f"a model trained here, of width {width}"
    if lora:
        value = min(LORA_LIMIT, LORA_FACTOR * value)
        reason += ", with LoRA"
    return Rate(float(f"{value:.3g}"), reason)


def is_imported(zoo: "Zoo", package: "Package") -> bool:
    """Return whether a package, or one that it was made from, is an imported checkpoint."""
    if package.kind == "imported":
        return True
    return any(ancestor.kind == "imported" for ancestor in zoo.lineage(package.ref))


def rate_for(zoo: "Zoo", package: "Package", *, lora: bool) -> Rate:
    """Return the usual learning rate of a package."""
    width = int(package.read_json("config.json").get("hidden_size", NANO_WIDTH))
    return usual_rate(width, imported=is_imported(zoo, package), lora=lora)
