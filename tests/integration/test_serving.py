"""Serving as its users do it: `serve deploy`, `serve run`, `orchestrator serve`; real HTTP.

One head node; the tests of `TestDeployed` follow one deployment from its start to its update.
"""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest
import yaml

from orchestrator.errors import StageError
from orchestrator.inference.inputs import rows_of_texts
from orchestrator.zoo import Zoo
from serving import local, metrics
from serving.config import ServingConfig
from serving.guard.keys import new_key
from serving.model.engine import load_engine
from serving.model.probe import PROBE_FILE, Probe
from serving.preflight import answers_as_serve
from tests.support.packages import LABELS, SENTENCES, commit_tiny
from tests.support.ray import ROOT, free_ports
from tests.support.serving import probe_json

DEADLINE_S = 240
BIN = Path(sys.executable).parent


def wait_for(condition, what, deadline_s=DEADLINE_S):
    """Poll until ``condition`` returns something true, and return that."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} not reached within {deadline_s} s")


def get(url, **options):
    """GET that treats a refused connection as no answer."""
    try:
        return httpx.get(url, timeout=10, **options)
    except httpx.TransportError:
        return None


def is_ready(url):
    answer = get(f"{url}/readyz")
    return answer is not None and answer.status_code == 200


def scores(answer):
    """[B, K] probabilities of a /predict answer, classes in the order of LABELS."""
    rows = [{entry["label"]: entry["score"] for entry in row} for row in answer.json()]
    return np.asarray([[row[label] for label in LABELS] for row in rows])


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Two versions of one package, each with the probe of its own answers."""
    place = tmp_path_factory.mktemp("serving")
    scratch, zoo = Zoo(str(place / "scratch")), Zoo(str(place / "zoo"))
    expected = {}
    for seed, version in ((0, "v0001"), (1, "v0002")):
        engine = load_engine(commit_tiny(scratch, f"s{seed}", seed=seed))
        probe = probe_json(Probe.record(engine))
        assert commit_tiny(zoo, seed=seed, files={PROBE_FILE: probe}).version == version
        answers = engine.predictor.answers(rows_of_texts(SENTENCES), "topic")
        expected[version] = np.asarray([answer.scores for answer in answers])
    zoo.promote("tiny/v0001")
    commit_tiny(zoo, "tiny-lm", targets=({"type": "mlm"},))
    assert np.abs(expected["v0001"] - expected["v0002"]).max() > 0.05
    return SimpleNamespace(zoo=zoo, root=str(place / "zoo"), place=place, expected=expected)


@pytest.fixture(scope="module")
def deployed(ray_head, packages):
    """The shipped presets on a real head node; packages, keys and addresses are this test's."""
    secret, line = new_key("tests")
    keys = packages.place / "keys.txt"
    keys.write_text(line)
    config = yaml.safe_load((ROOT / "serving/configs/classify.yaml").read_text())
    config["http_options"]["port"] = ray_head.serve_port
    arguments = config["applications"][0]["args"]
    arguments |= {"model": "tiny@champion", "zoo": packages.root, "api_keys_file": str(keys)}
    embed = yaml.safe_load((ROOT / "serving/configs/embed.yaml").read_text())["applications"][0]
    embed["args"] |= {"model": "tiny-lm", "zoo": packages.root, "cpus_per_replica": 0.5}
    config["applications"].append(embed | {"route_prefix": "/language-model"})
    file = packages.place / "classify.yaml"

    def deploy(revision, **changes):
        arguments.update(revision=revision, **changes)
        file.write_text(yaml.safe_dump(config))
        command = (str(BIN / "serve"), "deploy", str(file))
        shown = ray_head.run(*command, timeout=DEADLINE_S)
        if "RemoteDisconnected" in shown.stderr:  # a very busy dashboard; deploying is idempotent
            shown = ray_head.run(*command, timeout=DEADLINE_S)
        assert shown.returncode == 0, shown.stdout + shown.stderr

    url = f"http://127.0.0.1:{ray_head.serve_port}"
    deploy("1")
    try:
        wait_for(lambda: is_ready(url) and is_ready(f"{url}/language-model"), "readiness")
    except AssertionError as error:
        status = ray_head.run(str(BIN / "serve"), "status").stdout
        raise AssertionError(f"{error}\n{status}") from None
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        yield SimpleNamespace(url=url, client=client, headers=headers, deploy=deploy, head=ray_head)


class TestDeployed:
    def test_the_answers_are_the_models_own(self, deployed, packages):
        answer = deployed.client.post("/predict", json={"inputs": list(SENTENCES)})
        assert answer.status_code == 200
        np.testing.assert_allclose(scores(answer), packages.expected["v0001"], atol=1e-5)

    def test_every_protocol_answers(self, deployed, packages):
        client, best = deployed.client, packages.expected["v0001"].argmax(1)
        assert client.get("/info").json()["version"] == "v0001"
        assert len(client.post("/tokenize", json={"inputs": SENTENCES[0]}).json()[0]) > 3
        native = client.post("/embed", json={"inputs": SENTENCES[0]}).json()
        openai = client.post("/v1/embeddings", json={"input": SENTENCES[0], "model": "tiny"}).json()
        np.testing.assert_allclose(openai["data"][0]["embedding"], native[0], atol=1e-6)
        count = len(SENTENCES)
        tensor = {"name": "text", "datatype": "BYTES", "shape": [count], "data": list(SENTENCES)}
        v2 = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).json()
        assert v2["outputs"][0]["data"] == [LABELS[index] for index in best]
        for path in ("/healthz", "/readyz", "/health", "/v2/health/ready", "/docs"):
            assert httpx.get(deployed.url + path, timeout=30).status_code == 200, path
        assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"

    def test_the_preset_for_embeddings_answers_below_its_prefix(self, deployed):
        url = f"{deployed.url}/language-model"
        vectors = httpx.post(f"{url}/embed", json={"inputs": list(SENTENCES)}, timeout=30).json()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert len({tuple(vector) for vector in vectors}) == len(SENTENCES)
        refused = httpx.post(f"{url}/predict", json={"inputs": "a"}, timeout=30)
        assert (refused.status_code, refused.json()["error_type"]) == (400, "unsupported")

    @pytest.mark.parametrize(
        ("options", "status", "error_type"),
        [
            (
                {"json": {"inputs": "a"}, "headers": {"Authorization": "Bearer x"}},
                401,
                "unauthorized",
            ),
            ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "malformed"),
            ({"content": b"a=b", "headers": {"content-type": "text/plain"}}, 415, "media_type"),
            ({"json": {"inputs": ["a"] * 33}}, 413, "too_many_inputs"),
            ({"json": {"inputs": [1.5]}}, 422, "validation"),
            ({"json": {"inputs": ""}}, 400, "empty"),
        ],
    )
    def test_refusals_have_one_shape(self, deployed, options, status, error_type):
        answer = deployed.client.post("/predict", **options)
        assert (answer.status_code, answer.json()["error_type"]) == (status, error_type)
        assert set(answer.json()) == {"error", "error_type", "request_id"}
        assert answer.headers.get_list("x-request-id") == [answer.json()["request_id"]]

    def test_large_bodies_are_refused_declared_or_not(self, deployed):
        host, port = deployed.url.removeprefix("http://").split(":")
        head = (
            "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Authorization: {deployed.headers['Authorization']}\r\n"
        )
        declared = f"{head}Content-Length: 1000000000\r\n\r\n".encode()
        assert b" 413 " in self.first_line(host, port, declared, b"")
        chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
        chunked = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode()
        assert b" 413 " in self.first_line(host, port, chunked, chunk)

    @staticmethod
    def first_line(host, port, start, chunk):
        """Send a body until the server answers or stops listening; return its first line."""
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(start)
            connection.setblocking(False)
            deadline, received = time.monotonic() + 30, b""
            while b"\r\n" not in received and time.monotonic() < deadline:
                try:
                    received += connection.recv(4096)
                except BlockingIOError:
                    time.sleep(0.005)
                if chunk:
                    try:
                        connection.send(chunk)
                    except BlockingIOError:
                        continue
                    except OSError:
                        chunk = b""
            return received.split(b"\r\n")[0]

    def test_many_clients_get_their_own_answers(self, deployed, packages):
        def ask(index):
            text = SENTENCES[index % len(SENTENCES)]
            return deployed.client.post("/predict", json={"inputs": [text]})

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(ask, range(96)))
        assert {answer.status_code for answer in answers} == {200}
        for index, answer in enumerate(answers):
            expected = packages.expected["v0001"][index % len(SENTENCES)]
            np.testing.assert_allclose(scores(answer)[0], expected, atol=1e-5)

    def test_dashboards_find_their_metrics(self, deployed):
        folder = deployed.head.log.parent
        discovery = next(folder.rglob("prom_metrics_service_discovery.json"))

        def exported():
            names = set()
            for group in json.loads(discovery.read_text()):
                for target in group["targets"]:
                    try:
                        with urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as page:
                            text = page.read().decode()
                    except urllib.error.URLError:  # an exporter that is not up yet
                        continue
                    names |= set(re.findall(r"(?m)^([a-zA-Z_:]\w*)[{ ]", text))
            return names

        # Counters appear with their first count; a healthy replica has no failed probe.
        ours = metrics.EXPORTED - {f"ray_{metrics.PROBE_FAILURES_TOTAL}"}
        board = (ROOT / "dashboards/serving.json").read_text()
        of_serve = set(re.findall(r"ray_serve_[a-z_]+", board))
        assert len(of_serve) >= 4
        wait_for(lambda: ours | of_serve <= exported(), "export of all metrics", 60)

    def test_an_update_loses_no_request_and_moves_all_to_the_new_version(self, deployed, packages):
        seen, stop = [], threading.Event()

        def traffic():
            with httpx.Client(base_url=deployed.url, headers=deployed.headers, timeout=30) as own:
                while not stop.is_set():
                    answer = own.post("/predict", json={"inputs": list(SENTENCES)})
                    seen.append((answer.status_code, version_of(answer)))
                    time.sleep(0.02)

        def version_of(answer):
            if answer.status_code != 200:
                return answer.text
            found = scores(answer)
            near = [
                v for v, rows in packages.expected.items() if np.allclose(found, rows, atol=1e-4)
            ]
            return near[0] if near else "neither"

        with ThreadPoolExecutor(2) as pool:
            flows = [pool.submit(traffic) for _ in range(2)]
            packages.zoo.promote("tiny/v0002")
            deployed.deploy("2", limits={"max_client_batch_size": len(SENTENCES)})
            try:
                wait_for(
                    lambda: len(seen) > 20 and {version for _, version in seen[-20:]} == {"v0002"},
                    "v0002 alone",
                )
            finally:
                stop.set()
            for flow in flows:
                flow.result(30)
        assert {status for status, _ in seen} == {200}, [s for s in seen if s[0] != 200][:3]
        assert {version for _, version in seen} == {"v0001", "v0002"}
        info = deployed.client.get("/info").json()
        assert (info["version"], info["max_client_batch_size"]) == ("v0002", len(SENTENCES))

    def test_serve_run_answers_beside_it_and_ends_with_ctrl_c(self, deployed, packages):
        # A test run in the background ignores Ctrl-C, and so would its children.
        command = ["env", "--default-signal=INT", BIN / "serve", "run", "serving.app:build"]
        command += ["--name", "beside", "--route-prefix"]
        command += ["/beside", "model=tiny/v0001", f"zoo={packages.root}", "cpus_per_replica=0.5"]
        process = subprocess.Popen(
            [*map(str, command), "limits.max_client_batch_size=2"],
            cwd=ROOT, env=deployed.head.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        url = f"{deployed.url}/beside"
        try:
            wait_for(lambda: process.poll() is not None or is_ready(url), "readiness")
            answer = httpx.post(f"{url}/predict", json={"inputs": list(SENTENCES[:2])}, timeout=30)
            np.testing.assert_allclose(scores(answer), packages.expected["v0001"][:2], atol=1e-5)
            many = httpx.post(f"{url}/predict", json={"inputs": ["a"] * 3}, timeout=30)
            assert many.status_code == 413
        finally:
            process.send_signal(signal.SIGINT)
            shown, _ = process.communicate(timeout=60)
        assert "Traceback" not in shown


class TestBeforeAnythingStarts:
    """`serve run` says what is wrong in one message, within seconds and without a stack trace."""

    @staticmethod
    def serve_run(head, *arguments, **env):
        clean = {key: value for key, value in head.env.items() if key != "RAY_ADDRESS"}
        command = [str(BIN / "serve"), "run", "serving.app:build", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=clean | env, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip

    def test_a_package_that_is_not_there(self, ray_head, packages):
        address = {"RAY_ADDRESS": ray_head.address}  # the port then is not this machine's matter
        shown = self.serve_run(ray_head, "model=tinny", f"zoo={packages.root}", **address)
        assert shown.returncode == 2
        assert "Error: " in shown.stderr
        assert "tiny" in shown.stderr
        assert "Traceback" not in shown.stderr

    def test_a_busy_port(self, ray_head, packages):
        if answers_as_serve("127.0.0.1", 8000):
            pytest.skip("a Ray Serve of somebody else uses port 8000")
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", 8000))
                listener.listen()
            except OSError:
                pass  # taken by something else, which does as well
            shown = self.serve_run(ray_head, "model=tiny", f"zoo={packages.root}")
        assert shown.returncode == 2
        assert "127.0.0.1:8000 cannot be used" in shown.stderr
        assert "Traceback" not in shown.stderr


def proxies_of(process):
    """The HAProxy processes below a process."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [each for each in children if each.name() == "haproxy"]


def statuses_under_load(url, count=48):
    """Answers to large requests that are sent at once."""
    body = {"inputs": [" ".join(SENTENCES)] * 32, "truncate": True}
    with (
        ThreadPoolExecutor(count) as pool,
        httpx.Client(
            base_url=url, timeout=60, limits=httpx.Limits(max_connections=count)
        ) as client,
    ):
        return list(pool.map(lambda _: client.post("/predict", json=body), range(count)))


@pytest.mark.slow
def test_orchestrator_serve_until_sigterm(packages):
    """With a Ray and an HAProxy of its own, which must be gone afterwards."""
    (port,) = free_ports(1)
    command = [BIN / "orchestrator", "serve", "--model", "tiny/v0001", "--zoo", packages.root]
    log = packages.place / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*map(str, command), "--port", str(port), "cpus_per_replica=0.5",
             "limits.max_concurrent_requests=4", "autoscaling.target_ongoing_requests=2",
             "autoscaling.max_replicas=1"],
            cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        announced = f"tiny/v0001 answers at {url}"
        wait_for(lambda: process.poll() is not None or announced in log.read_text(), announced)
        answer = httpx.post(f"{url}/predict", json={"inputs": list(SENTENCES)}, timeout=30)
        np.testing.assert_allclose(scores(answer), packages.expected["v0001"], atol=1e-5)
        (proxy,) = proxies_of(process)
        listening = {each.laddr.ip for each in proxy.net_connections() if each.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        answers = statuses_under_load(url)
        refused = [each for each in answers if each.status_code != 200]
        assert 0 < len(refused) < len(answers)
        for each in refused:
            assert (each.status_code, each.headers["retry-after"]) == (429, "1")
            assert each.json()["error_type"] == "overloaded"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\n")  # and never the rest
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0, log.read_text()
    assert not proxy.is_running()
    assert "Traceback" not in log.read_text()
    assert get(f"{url}/healthz") is None


@pytest.mark.chaos
def test_a_broken_update_leaves_the_old_version_serving(local_ray, packages, tmp_path):
    zoo = Zoo(str(tmp_path))
    good = commit_tiny(zoo)
    wrong = (packages.zoo.get("tiny/v0002").path / PROBE_FILE).read_text()
    (port,) = free_ports(1)
    config = ServingConfig(model="tiny", zoo=str(tmp_path), cpus_per_replica=0.5)
    served = local.start(config, port)
    try:
        commit_tiny(zoo, files={PROBE_FILE: wrong})
        with pytest.raises(StageError, match="answers its probe differently"):
            local.start(config, port)
        for _ in range(20):
            assert httpx.get(f"{served.url}/info", timeout=30).json()["version"] == good.version
        back = local.start(config.model_copy(update={"model": good.ref}), port)
        assert (back.model, back.started_serve) == (good.ref, False)
        assert is_ready(served.url)
    finally:
        local.stop(served)
    assert get(f"{served.url}/healthz") is None
