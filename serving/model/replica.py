"""A replica without Ray: a loaded, warmed and probed package with its queue and one worker thread.

The model runs in that thread alone: while it works, the event loop goes on answering health checks
and refusing what must be refused.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from orchestrator.inference.batching import Outputs, Work, padded_tokens, run_works
from orchestrator.inference.inputs import Tokens
from serving.config import Batching, Limits, ServingConfig
from serving.guard.guard import Policy
from serving.guard.keys import KeyRing
from serving.metrics import Recorder
from serving.model.engine import load_engine
from serving.model.probe import warm_up
from serving.model.queue import Queue
from serving.model.service import Health, Service
from serving.preflight import resolve

PROBE_TIMEOUT_S: Final = 30.0

logger = logging.getLogger(__name__)


class Replica:
    """One loaded package.

    Attributes:
        recorder: Where measurements go.
        policy: Limits and keys in force.
        queue: Requests that wait for the model.

    Args:
        config: Settings; `model` names one version, so that every replica serves the same bytes.
        make_recorder: Package reference -> where measurements go.

    Raises:
        InputError: The package is not there or not usable.
        IntegrityError: Its files or its answers are not those it was committed with.
    """

    def __init__(self, config: ServingConfig, make_recorder: Callable[[str], Recorder]) -> None:
        package = resolve(config)
        self._engine = load_engine(
            package,
            target=config.target,
            threads=max(1, int(config.cpus_per_replica)),
            device="cuda" if config.gpus_per_replica > 0 else "cpu",
        )
        self._engine.predictor.dispatch.prepare()
        self._api_keys_file = config.api_keys_file
        self.recorder = make_recorder(self._engine.card.ref)
        self.policy = Policy(config.limits)
        self._health = Health()
        self._load_keys()
        # One thread: the model uses its cores itself, and runs never overlap.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self.queue = Queue(self._run, self._worker, self.policy, config.batching)
        self._probe = warm_up(self._engine, Path(package.path), config.warm_up_requests)
        card = self._engine.card
        logger.info("ready package=%s backend=%s", card.ref, card.backend)

    def service(self) -> Service:
        """Return the service that answers requests; from now on the replica calls itself ready."""
        self._health.ready = True
        self._set_probe_ok(True)
        return Service(self._engine, self.queue.execute, self.policy, self._health, self.call)

    async def call(self, function: Callable[[], Any]) -> Any:
        """Run a function in the thread of the model, behind what it is doing."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, function)

    async def check(self) -> None:
        """Run the probe, behind what the model is doing.

        Raises:
            IntegrityError: The answers are not the expected ones.
            TimeoutError: The model does not answer.
        """
        loop = asyncio.get_running_loop()
        probing = loop.run_in_executor(self._worker, self._probe.check, self._engine)
        try:
            await asyncio.wait_for(probing, PROBE_TIMEOUT_S)
        except Exception:
            self._set_probe_ok(False)
            self.recorder.probe_failed()
            raise
        self._set_probe_ok(True)

    def change(self, limits: Limits, batching: Batching) -> None:
        """Take new limits and batching, and read the key file again; requests go on.

        Raises:
            InputError: The key file is unusable; the old keys stay.
        """
        self._load_keys()
        self.policy.limits, self.queue.batching = limits, batching

    def _run(self, works: Sequence[Work]) -> list[Outputs]:
        return run_works(works, self._run_model, self._cut)

    def _cut(self, lengths: Sequence[int]) -> list[int]:
        most = self.policy.limits.max_batch_tokens
        return self._engine.predictor.dispatch.cut(lengths, most)

    def _run_model(self, sequences: Sequence[Tokens], wanted: Collection[str]) -> Outputs:
        self.recorder.batch(padded_tokens(sequences))
        return self._engine.run(sequences, wanted)

    def _load_keys(self) -> None:
        path = self._api_keys_file
        self.policy.keys = None if path is None else KeyRing.load(path)

    def _set_probe_ok(self, ok: bool) -> None:
        self._health.probe_ok = ok
        self.recorder.ready(ok)
