"""Page of the figures of `accelerator.py`: `accelerator.md` from `accelerator.json`.

Run: `python benchmarks/accelerator_page.py`.
"""

import json
from pathlib import Path
from typing import Any

GOAL_MFU = 0.5
COMPILED, PEER = "ours, bf16 + compile", "transformers, bf16 + compile"
FIGURES = Path(__file__).with_name("accelerator.json")
TOLERANCE = 1e-4
"""Bound of ‖device - CPU‖ / ‖CPU‖ of all gradients of a model, and of its losses, in fp32 without
TF32."""


def page(found: dict[str, Any]) -> str:
    """Return the page of these figures."""
    shape, rows = found["shape"], {row["name"]: row for row in found["rows"]}
    best, peer = rows[COMPILED], rows[PEER]
    head = [
        "# A training step on an accelerator",
        "",
        f"{found['date']}, one {found['device']}, torch {found['torch']}, no Ray and no DeepSpeed "
        "installed. `python benchmarks/accelerator.py`",
        "",
        f"A LLaMA-like model of 374 M parameters ({shape['layers']} layers of "
        f"{shape['width']}, {shape['heads']} heads, {shape['vocab']:,} words), "
        f"{shape['length']:,} tokens to a sequence, "
        f"{shape['micro_batches']} micro-batches of {shape['micro_batch']} to a step, "
        f"{len(best['losses']) - 3} rounds. The first lines of the script say what is compared, "
        "and how.",
        "",
        "| | tokens/s | slowest–fastest | TFLOP/s | peak | MFU | GB of a step | waits of a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    table = [
        f"| {r['name']} | {r['tokens_per_second']:,.0f}"
        f" | {r['spread'][0]:,.0f}–{r['spread'][1]:,.0f}"
        f" | {r['tflops']:.0f} | {r['peak_tflops']:,.0f} | {r['mfu']:.1%}"
        f" | {r['activation_bytes'] / 1e9:.1f} | {r['waits']} |"
        for r in found["rows"]
    ]
    apart = max(abs(a / b - 1) for a, b in zip(best["losses"], peer["losses"], strict=True))
    faster = best["tokens_per_second"] / peer["tokens_per_second"]
    goals = [
        "",
        f"- MFU of bf16 + compile: {best['mfu']:.1%}; goal ≥ {GOAL_MFU:.0%}: "
        f"{verdict(best['mfu'] >= GOAL_MFU)}",
        f"- speed of bf16 + compile ÷ transformers with torch.compile: {faster:.2f}; goal ≥ 1.0: "
        f"{verdict(faster >= 1)}",
        f"- losses of both over {len(best['losses'])} steps: relative difference ≤ {apart:.1e}",
        "",
        "`GB of a step`: peak above what is held between steps. `waits of a step`: how often the "
        "host waits for the device, counted by `torch.cuda.set_sync_debug_mode`.",
        "",
    ]
    return "\n".join([*head, *table, *goals, *checks_part(found["checks"])])


def verdict(reached: bool) -> str:
    """Return how a goal ended; a missed one stands out."""
    return "reached" if reached else "**missed**"


def checks_part(checks: dict[str, Any]) -> list[str]:
    """Return the part of the page about correctness."""
    components, scaling = checks["components"], checks["fp16 loss scaling"]
    name, worst = components["largest"][0]
    lines = {
        "imports": f"{checks['imports']['modules']} modules of the rooms under the stages import; "
        f"Ray and DeepSpeed installed: {', '.join(checks['imports']['installed']) or 'neither'}",
        "components": f"losses and gradients of {components['components']} components, forward and "
        f"backward in fp32 without TF32, are those of the CPU: relative distance {worst:.1e} at "
        f"most ({name}), bound {TOLERANCE:.0e}",
        "fp16 loss scaling": f"{scaling['overflows']:.0f} overflows lower the scale from 2^40; the "
        f"loss falls from {scaling['loss'][0]:.2f} to {scaling['loss'][1]:.2f}",
        "flash attention": "SDPA was only allowed its flash kernel, which refuses any mask",
    }
    for precision in ("bf16", "fp16"):
        losses = checks[f"fine-tuning {precision}"]["losses"]
        lines[f"fine-tuning {precision}"] = (
            f"weights and batches are on the device; loss by epoch "
            f"{', '.join(f'{loss:.2f}' for loss in losses)}"
        )
    rows = [
        f"- {key}: {'passed' if checks[key]['ok'] else '**failed**'}. {text[0].upper()}{text[1:]}."
        for key, text in lines.items()
    ]
    return ["## Correctness on the device", "", *rows, ""]


if __name__ == "__main__":
    text = page(json.loads(FIGURES.read_text(encoding="utf-8")))
    FIGURES.with_suffix(".md").write_text(text, encoding="utf-8")
