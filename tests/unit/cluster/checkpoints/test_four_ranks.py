"""Checkpoints of four ranks: how much each hashes, and how many files each opens.

Counted where it happens: at Python's ``open`` (an audit hook sees each), at the one function that
opens safetensors, and at every update of a hash.
"""

import contextlib
import hashlib
import os
import sys
from pathlib import Path

import pytest
import torch

from orchestrator.training.config import EngineConfig, OptimizerConfig
from orchestrator.training.engines import fragments
from tests.support import toy
from tests.support.ranks import on_ranks
from tests.support.state import AnyState
from tests.support.toy import toy_model, toy_window

WORLD, STEP = 4, 3
RATE = 3e-3


class Counts:
    """Counts what this process hashes and opens in checkpoints, from `watched` on."""

    def __init__(self):
        self.hashed, self.opened, self._watching = 0, [], False
        self._new, self._digest, self._safe_open = (
            hashlib.sha256,
            hashlib.file_digest,
            fragments.safe_open,
        )
        hashlib.sha256, hashlib.file_digest = self._counting_hash, self._counting_digest
        fragments.safe_open = self._counting_open
        sys.addaudithook(self._audit)

    @contextlib.contextmanager
    def watched(self):
        """Count in here; yields where the names of opened files are collected."""
        self.hashed, self.opened, self._watching = 0, [], True
        yield self
        self._watching = False

    def _audit(self, event, arguments):
        if self._watching and event == "open" and isinstance(arguments[0], str | os.PathLike):
            self._note(arguments[0])

    def _note(self, path):
        path = Path(path)
        if path.parent.name.startswith("step-") and not path.is_dir():
            self.opened.append(path.name)

    def _counting_open(self, path, **named):
        self._note(path)
        return self._safe_open(path, **named)

    def _counting_digest(self, file, name):
        self.hashed += os.fstat(file.fileno()).st_size
        return self._digest(file, name)

    def _counting_hash(self, data=b""):
        counts, inner = self, self._new(data)
        counts.hashed += len(data)

        class Hash:
            def update(self, more):
                counts.hashed += memoryview(more).nbytes
                inner.update(more)

            def hexdigest(self):
                return inner.hexdigest()

        return Hash()


def engine_of(ctx, kind):
    """A model of some size with a frozen parameter, a tied one and a buffer."""
    toy.WIDTH, toy.VOCABULARY = 96, 997
    config = EngineConfig(type=kind)
    return ctx.build_engine(toy_model(), OptimizerConfig(learning_rate=RATE), config)


def digest(engine):
    """Return a hash of the weights of all ranks and of what the next step makes of them."""
    engine.forward_backward(toy_window(9, engine.rank, engine.world))
    engine.step()
    state = hashlib.sha256()
    for _, value in engine.state_dict():
        state.update(value.contiguous().view(torch.uint8).numpy().data)
    return state.hexdigest()


def saved_and_resumed(kind):
    def work(ctx):
        engine = engine_of(ctx, kind)
        for step in range(STEP):
            engine.forward_backward(toy_window(step, ctx.rank, ctx.world))
            engine.step()
        counts = Counts()
        with counts.watched():
            path = ctx.commit_checkpoint(STEP, engine, AnyState(losses=[1.0]))
            ctx.barrier()
        saved = {"hashed": counts.hashed, "bytes": sum(p.stat().st_size for p in path.iterdir())}
        other = engine_of(ctx, kind)
        with counts.watched():
            found = ctx.latest_checkpoint()
            other.load(found.path)
        loaded = {"hashed": counts.hashed, "opened": counts.opened}
        files = sorted(p.name for p in path.iterdir())
        return {
            "saved": saved,
            "loaded": loaded,
            "same": digest(engine) == digest(other),
            "extra": found.extra,
            "files": files,
        }

    return work


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def four(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, on_ranks(WORLD, saved_and_resumed(request.param), folder / "four"), folder


def test_each_rank_hashes_what_it_writes_and_verifies_its_share(four):
    _, ranks, _ = four
    total = ranks[0]["saved"]["bytes"]
    manifest = 2000  # the one file that no hash covers
    for when in ("saved", "loaded"):
        hashed = [rank[when]["hashed"] for rank in ranks]
        assert max(hashed) <= 1.1 / WORLD * total, f"{when}: {hashed} of {total} bytes"
        assert total - manifest < sum(hashed) <= total, f"{when}: a byte is hashed once"


def test_a_rank_opens_three_files_at_most_to_resume(four):
    _, ranks, _ = four
    for number, rank in enumerate(ranks):
        assert rank["same"], f"rank {number} does not go on as it was"
        assert rank["extra"] == {"losses": [1.0]}
        opened = set(rank["loaded"]["opened"])
        assert f"training-0000{number}.safetensors" in opened
        assert len(opened) <= 3, f"rank {number} opened {opened}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("world", [2, 3])
def test_fewer_ranks_of_any_engine_go_on_from_what_four_wrote(four, kind, world, tmp_path):
    written, _, folder = four

    def work(ctx):
        engine, counts = engine_of(ctx, kind), Counts()
        path = ctx.latest_checkpoint().path
        with counts.watched():
            engine.load(path)
        state = {name: hashlib.sha256(v.numpy()).hexdigest() for name, v in engine.state_dict()}
        return [state, sorted(set(counts.opened))]

    fewer = on_ranks(world, work, tmp_path / "fewer", folder / "four" / "run")
    one = on_ranks(1, work_of_one, tmp_path / "one", folder / "four" / "run")
    assert [state for state, _ in fewer] == one * world, f"{written} read by {kind}"
    for _, opened in fewer:
        assert "training.json" in opened
        if kind == written:  # a rank of another engine has parts of every file
            # FSDP2 cuts 5 rows for 4 ranks in 2, 2, 1, 0 and for 2 ranks in 3, 2: a half of many
            # parameters lies in 3 of the 4 files, never in all of them.
            assert len(opened) <= 1 + 3, opened


def work_of_one(ctx):
    engine = engine_of(ctx, "single")
    engine.load(ctx.latest_checkpoint().path)
    return {name: hashlib.sha256(v.numpy()).hexdigest() for name, v in engine.state_dict()}
