"""Typed results of every stage, small and complete, for pages and summaries."""

import pandas as pd

from orchestrator.continual.results import StreamEvaluation, StreamFigures, StreamSummary
from orchestrator.pretraining.results import Evaluation
from orchestrator.quantization.config import GoalConfig
from orchestrator.quantization.results import (
    Divergence,
    Latency,
    Paired,
    ParetoPoint,
    ParetoReport,
    QuantizeMetrics,
)
from orchestrator.selection.results import SelectionReport

TRAIN_METRICS = {
    "loss": 3.0,
    "tokens_per_second": 900.0,
    "grad_norm": 1.5,
    "learning_rate": 1e-3,
    "skipped": 0.0,
    "mfu": 0.4,
    "data_wait_share": 0.1,
    "checkpoint_seconds": 0.25,
    "memory_bytes": 2e8,
}


def history(skipped: float = 0.0) -> pd.DataFrame:
    """Two intervals of training, one validation."""
    rows = [
        {"step": step, "epoch": 0, "split": "train", "metric": name, "value": value, "seconds": 1.0}
        for step in (4, 8)
        for name, value in (TRAIN_METRICS | {"skipped": skipped if step == 8 else 0.0}).items()
    ]
    last = {"step": 8, "epoch": 0, "split": "validation", "metric": "loss"}
    return pd.DataFrame([*rows, {**last, "value": 2.5, "seconds": 1.0}])


def evaluation(**changes) -> Evaluation:
    return Evaluation.model_validate(
        {
            "data": "builtin:pydoc",
            "loss": 2.5,
            "accuracy": 0.4,
            "perplexity": 12.2,
            "baseline_loss": 4.0,
            "baseline_accuracy": 0.1,
            "unigram_entropy": 4.25,
            "steps": 8,
            "skipped_steps": 1,
            "rollbacks": 0,
            "seconds": 2.0,
            "workers": 1,
            "documents": 100,
            "tokens": 5000,
            **changes,
        }
    )


def selection_report(names=("one/v0001", "two/v0001"), **changes) -> SelectionReport:
    first, second = names
    return SelectionReport.model_validate(
        {
            "target": {"name": "topics", "labels": ["a", "b"], "rows": {"train": 9}},
            "winner": first,
            "test_accuracy": 0.875,
            "validation_accuracy": 0.9,
            "majority_accuracy": 0.5,
            "policy": "convergence",
            "ranking": [
                ranked(1, first, "winner", "best of the last rung", (0.6, 0.9)),
                ranked(2, second, "dropped", "predicted to stay behind", (0.5,)),
            ],
            "bracket": [
                cell(first, 1, 0.6, kept=True),
                cell(second, 1, 0.5, kept=False),
                cell(first, 2, 0.9, kept=True),
            ],
            "rungs": [{"rung": 1, "trained": names, "kept": [first], "halfwidth": None}],
            "recall": [],
            "clusters": None,
            "linkage": {"models": [second, first], "matrix": [[0, 1, 0.3, 2]]},
            "proxies": {},
            "matrix": {first: {"news": 0.7, "mail": 0.8}, second: {"news": 0.6, "mail": None}},
            "ledger": {
                "candidates": 2,
                "epochs_each": 2,
                "epochs": 3,
                "steps": 30,
                "proxy_passes": 0,
                "proxy_epochs": 0.0,
                "total_epochs": 3.0,
                "brute_force_epochs": 4,
                "brute_force_steps": 40,
                "share_of_brute_force": 0.75,
            },
            "warnings": [],
            **changes,
        }
    )


def ranked(place, model, status, reason, validation):
    return {
        "place": place,
        "model": model,
        "status": status,
        "reason": reason,
        "epochs": len(validation),
        "validation": validation,
        "recall_score": 0.5,
    }


def cell(model, rung, score, *, kept):
    return {"model": model, "rung": rung, "score": score, "predicted": score + 0.05, "kept": kept}


def stream_evaluation(tasks=("news", "mail"), **changes) -> StreamEvaluation:
    return StreamEvaluation.model_validate(
        {
            "scenario": "task-incremental",
            "split": "test",
            "rows": "accuracy after learning the task of the row",
            "tasks": tasks,
            "matrix": [[0.9, None], [0.85, 0.8]],
            "majority_baseline": [0.5, 0.5],
            "method": {"preset": "cf"},
            "figures": dict(stream_figures()),
            **changes,
        }
    )


def stream_figures() -> StreamFigures:
    return StreamFigures(
        average_accuracy=0.825, backward_transfer=-0.05, forgetting=0.05, learning_accuracy=0.85
    )


def stream_summary(**changes) -> StreamSummary:
    return StreamSummary.model_validate(
        {
            **dict(stream_figures()),
            "tasks": ("news", "mail"),
            "accuracy_matrix": [[0.9, None], [0.85, 0.8]],
            "method": "cf",
            "steps": 16,
            "seconds": 3.0,
            "skipped_steps": 0,
            "clamped_share": None,
            "unwatched_heads": (),
            "promotion": "not asked",
            "promotion_refused": False,
            **changes,
        }
    )


def pareto_point(name="fully_quant.row_s7", *, ms=1.0, accuracy=0.8, chosen=False) -> ParetoPoint:
    integer = 0 if name == "float" else 2
    return ParetoPoint(
        name=name,
        digest="0123456789ab",
        integer_units=integer,
        units=2,
        accuracy=accuracy,
        accuracy_drop=0.81 - accuracy,
        paired=Paired(
            texts=100,
            reference=0.81,
            accuracy=accuracy,
            drop=0.81 - accuracy,
            gained=0,
            lost=1,
            p_value=1.0,
            interval=(-0.02, 0.04),
        ),
        error=Divergence(kl=1e-3, cosine=1e-4),
        latency=Latency(cpu_ms=ms, wall_ms=ms, ratio=ms / 2, spread=(ms / 2, ms / 2)),
        plan={"a": "row_s7" if integer else "fp32", "b": "row_s7" if integer else "fp32"},
        latency_ms=ms,
        predicted_kl=2e-3,
        on_front=True,
        chosen=chosen,
    )


def pareto_report() -> ParetoReport:
    return ParetoReport(
        goal=GoalConfig(max_accuracy_drop=0.02),
        split="validation",
        latency_shape=(1, 32),
        points=(
            pareto_point("float", ms=2.0, accuracy=0.81),
            pareto_point(ms=1.25, accuracy=0.8, chosen=True),
        ),
    )


def quantize_metrics(**changes) -> QuantizeMetrics:
    return QuantizeMetrics.model_validate(
        {
            "target": "mail",
            "accuracy": 0.79,
            "accuracy_float": 0.8,
            "accuracy_drop": 0.01,
            "accuracy_drop_validation": 0.0,
            "p_value": 1.0,
            "integer_units": 2,
            "units": 2,
            "plan_name": "fully_quant.row_s7",
            "latency_ms": 1.25,
            "latency_float_ms": 2.0,
            "latency_torch_ms": 3.0,
            "speedup_over_float": 1.6,
            "speedup_over_torch": 2.4,
            "bytes": 1000,
            "bytes_float": 4000,
            "plan": {"a": "row_s7", "b": "row_s7"},
            **changes,
        }
    )


def commit(zoo, name, files, *, kind="finetuned", parents=(), history=None, **metrics):
    """Commit a package that holds nothing but results: models by the name of their file."""
    producer = {"stage": "test", "job": "test"}
    with zoo.draft(
        name, kind=kind, producer=producer, parents=parents, task=None, metrics=metrics
    ) as draft:
        (draft.path / "config.json").write_text("{}")
        for file, result in files.items():
            path = draft.path / file
            path.parent.mkdir(exist_ok=True)
            text = result if isinstance(result, str) else result.model_dump_json()
            path.write_text(text)
        if history is not None:
            history.to_parquet(draft.path / "history.parquet")
        return draft.commit()
