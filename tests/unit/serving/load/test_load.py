"""The load generator against a server whose delays are known."""

import asyncio
import csv
import json
import threading
from collections import deque

import numpy as np
import pytest
from aiohttp import web
from scipy.stats import kstest

from orchestrator.cli import main
from serving.load.plan import LONGEST, SHORTEST, LoadPlan, poisson_arrivals


class Server:
    """Answers one request after another, each after ``delay_s``; stalls once if it is told to."""

    def __init__(self):
        self.delay_s, self.stall_s, self.status, self.room = 0.0, 0.0, 200, None
        self.seen, self.headers, self.hangs_after = deque(), deque(), None
        self.url = ""

    async def answer(self, request):
        self.seen.append(await request.json())
        if self.hangs_after is not None and len(self.seen) > self.hangs_after:
            await asyncio.sleep(30)
        self.headers.append(request.headers)
        if self.room is not None and self.waiting >= self.room:
            headers = {"Retry-After": "1"} if len(self.seen) % 2 else {}
            return web.json_response({"error": "busy"}, status=429, headers=headers)
        self.waiting += 1
        async with self.lock:
            stall, self.stall_s = (self.stall_s, 0.0) if len(self.seen) > 20 else (0, self.stall_s)
            await asyncio.sleep(stall or self.delay_s)
        self.waiting -= 1
        return web.json_response({}, status=self.status)

    async def run(self, ready):
        self.lock, self.waiting, self.over = asyncio.Lock(), 0, asyncio.Event()
        app = web.Application()
        app.router.add_post("/predict", self.answer)
        app.router.add_post("/v1/embeddings", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.loop = asyncio.get_running_loop()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await self.over.wait()
        await runner.cleanup()


@pytest.fixture
def server():
    made, ready = Server(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(made.run(ready)), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield made
    made.loop.call_soon_threadsafe(made.over.set)
    thread.join(10)
    assert not thread.is_alive()


def load(capsys, *arguments):
    code = main(["load", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_arrivals_are_a_poisson_process_and_its_parts_are_too():
    times = poisson_arrivals(200.0, 50.0, seed=4)
    assert np.array_equal(times, poisson_arrivals(200.0, 50.0, seed=4))
    assert abs(len(times) - 10_000) < 400  # four standard deviations
    assert times[0] >= 0
    assert times[-1] < 50
    assert kstest(np.diff(times), "expon", (0, 1 / 200)).pvalue > 0.01
    assert len(poisson_arrivals(0.01, 0.1, seed=0)) == 1


def test_texts_are_ragged_and_do_not_depend_on_who_sends_them():
    plan = LoadPlan(url="http://host", rate=100, seconds=1)
    bodies = plan.bodies(range(300))
    assert plan.bodies([7, 250]) == [bodies[7], bodies[250]]
    lengths = [len(json.loads(body)["inputs"][0].split()) for body in bodies]
    assert min(lengths) >= SHORTEST
    assert max(lengths) <= LONGEST
    assert np.median(lengths) < 40 < max(lengths)


def test_a_stall_is_counted_for_all_who_had_to_wait(server, capsys):
    """A generator that waits for answers would report one slow request."""
    server.delay_s, server.stall_s = 0.001, 0.6
    code, found = load(capsys, server.url, "--rate", "100", "--seconds", "1.5", "--processes", "2")
    assert code == 0
    assert found["statuses"] == {"200": found["requests"]}
    assert len(server.seen) == found["requests"] + 1  # the one before the load
    assert found["answered"]["p90"] > 300
    assert found["answered"]["max"] >= 600


def test_refusals_are_apart_and_say_when_to_come_again(server, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_API_KEY", "secret")
    server.delay_s, server.room = 0.05, 2
    samples = tmp_path / "samples.csv"
    body = '{"model": "m", "input": "{text}"}'
    arguments = ("--path", "/v1/embeddings", "--body", body, "--samples", str(samples))
    code, found = load(capsys, server.url, "--rate", "100", "--seconds", "1", *arguments)
    assert code == 0
    assert set(found["statuses"]) == {"200", "429"}
    assert found["refused"]["count"] == found["statuses"]["429"] > found["statuses"]["200"]
    assert found["refused"]["p50"] < found["answered"]["p50"]
    assert 0.3 < found["with_retry_after"] < 0.7
    assert all(each["model"] == "m" and each["input"].split() for each in server.seen)
    assert {each["Authorization"] for each in server.headers} == {"Bearer secret"}
    rows = list(csv.DictReader(samples.open()))
    assert len(rows) == found["requests"]
    assert all(float(row["due"]) <= float(row["sent"]) < float(row["ended"]) for row in rows)


def test_requests_without_an_answer_are_given_up_and_named(server, capsys):
    server.hangs_after = 11  # the first one comes before the load
    code, found = load(capsys, server.url, "--rate", "50", "--seconds", "1", "--timeout", "1")
    assert code == 0
    assert found["statuses"] == {"200": 10, "timed out": found["requests"] - 10}
    assert found["answered"]["count"] == 10
    server.hangs_after, server.status = None, 500
    assert main(["load", server.url, "--rate", "20", "--seconds", "0.5"]) == 1
    shown = capsys.readouterr().out
    assert "0.0 answers/s" in shown
    assert "500: " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--body", "{text}"), "--body: not JSON"),
        (("--body", '{"inputs": ["text"]}'), '--body: no string is "{text}"'),
        (("--rate", "1e6"), "at most 1000000 are sent"),
        (("--rate", "0"), "rate"),
        (("--processes", "0"), "processes"),
        (("--path", "predict"), "path"),
        (("--texts", "missing.txt"), "missing.txt cannot be read"),
        (("--path", "/other"), "/other answers 404"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_the_load(server, capsys, arguments, message):
    assert main(["load", server.url, "--rate", "5", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not server.seen


@pytest.mark.parametrize("url", ["http://host:8000/predict", "host:8000", "ftp://host", ""])
def test_an_address_with_a_path_or_without_http_is_refused(capsys, url):
    assert main(["load", url, "--rate", "5"]) == 2
    assert "url" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_one_line(capsys, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n\ntwo\n")
    arguments = ("--rate", "5", "--seconds", "1", "--texts", str(texts))
    assert main(["load", "http://127.0.0.1:9", *arguments]) == 2
    assert "http://127.0.0.1:9/predict does not answer" in capsys.readouterr().err
