"""Real HTTP requests to the served package, timed as a client sees them."""

import http.client
import json
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from orchestrator.errors import InputError

if TYPE_CHECKING:
    from orchestrator.demo.lifecycle import Lifecycle

CLIENTS = 2
TIMEOUT_S = 30.0
EXAMPLES = 3
SHOWN_CHARACTERS = 90
HTTP_OK = 200
FIRST_PORT, LAST_PORT = 8000, 8100


@dataclass(frozen=True, slots=True)
class Traffic:
    """Answers of the endpoint.

    Attributes:
        url: address of the endpoint.
        latencies_ms: round trip of each successful request.
        failures: requests with another status than 200.
        accuracy: share of answers with the right class.
        examples: some texts with their answers and the right labels, the surest answer first.
    """

    url: str
    latencies_ms: list[float]
    failures: int
    accuracy: float
    examples: list[tuple[str, str, str]]

    @property
    def requests(self) -> int:
        """Requests sent."""
        return len(self.latencies_ms) + self.failures

    def quantile(self, percent: float) -> float:
        """Return a percentile of the latencies, milliseconds."""
        return float(np.percentile(self.latencies_ms, percent)) if self.latencies_ms else 0.0


@dataclass(frozen=True, slots=True)
class _Answer:
    milliseconds: float
    label: str | None
    score: float


def serve_and_ask(life: "Lifecycle") -> Traffic:
    """Start serving, send the demo's requests, stop serving.

    Raises:
        StageError: No replica became ready.
    """
    from orchestrator.config import load_config
    from orchestrator.data.sources.opening import load_task
    from serving import local
    from serving.config import ServingConfig

    data, target = life.quantization_job().data, life.metrics.target
    assert data is not None  # the job names both
    assert target is not None
    task = load_task(data)
    overrides = [f"model={life.quantized.ref}", f"zoo={json.dumps(life.config.run.zoo)}"]
    asked = life.config.overrides.get("serve", ())
    served = local.start(load_config(ServingConfig, None, [*overrides, *asked]), free_port())
    try:
        wanted = list(islice(cycle(range(len(task.test))), life.config.requests))
        texts = [task.test.texts[index] for index in wanted]
        answers = list(_ask_all(served.url, texts, target))
    finally:
        local.stop()
    names = task.label_names
    labels = [names[task.test.labels[index]] for index in wanted]
    right = [label == answer.label for label, answer in zip(labels, answers, strict=True)]
    return Traffic(
        url=served.url,
        latencies_ms=[answer.milliseconds for answer in answers if answer.label is not None],
        failures=sum(answer.label is None for answer in answers),
        accuracy=float(np.mean(right)),
        examples=_examples(texts, answers, labels),
    )


def _examples(
    texts: Sequence[str], answers: Sequence[_Answer], labels: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Return text, answer and right label of the surest answer of each label, surest first."""
    best: dict[str | None, int] = {}
    for index in sorted(range(len(answers)), key=lambda index: -answers[index].score):
        best.setdefault(answers[index].label, index)
    return [
        (
            " ".join(texts[index].split())[:SHOWN_CHARACTERS],
            f"{answers[index].label} ({answers[index].score:.2f})",
            labels[index],
        )
        for index in list(best.values())[:EXAMPLES]
    ]


def free_port() -> int:
    """Return the first free port from 8000 on.

    Raises:
        InputError: None of the first hundred is free.
    """
    for port in range(FIRST_PORT, LAST_PORT):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise InputError(
        f"no free port from {FIRST_PORT} to {LAST_PORT - 1}: stop a server that uses one of them"
    )


def _ask_all(url: str, texts: Sequence[str], target: str) -> Iterator[_Answer]:
    """Send the texts from a few clients with a connection each; answers are in order."""
    shares = [texts[client::CLIENTS] for client in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        done = [list(part) for part in pool.map(lambda s: _ask(url, s, target), shares)]
    for index in range(len(texts)):
        yield done[index % CLIENTS][index // CLIENTS]


def _ask(url: str, texts: Sequence[str], target: str) -> list[_Answer]:
    place = urlsplit(url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=TIMEOUT_S)
    answers = []
    for text in texts:
        body = json.dumps({"inputs": text, "truncate": True, "target": target})
        began = time.perf_counter()
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        payload = json.loads(response.read())
        milliseconds = 1000 * (time.perf_counter() - began)
        if response.status == HTTP_OK:
            best = payload[0]
            answers.append(_Answer(milliseconds, best["label"], best["score"]))
        else:
            answers.append(_Answer(milliseconds, None, 0.0))
    connection.close()
    return answers
