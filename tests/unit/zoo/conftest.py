import os
import uuid

import pytest

from orchestrator.zoo import Zoo


@pytest.fixture(autouse=True)
def _no_disk_waits(monkeypatch):
    """A killed process loses nothing the kernel has; durability is tested in the storage room."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def zoo(tmp_path):
    return Zoo(tmp_path / "zoo")


@pytest.fixture(params=["local", "memory"])
def any_zoo(request, tmp_path):
    if request.param == "local":
        return Zoo(f"file://{tmp_path}/zoo")
    return Zoo(f"memory://zoo-{uuid.uuid4().hex}/inner")


@pytest.fixture(scope="session")
def s3_root():
    """Address of a bucket on a real HTTP server that speaks S3."""
    moto = pytest.importorskip("moto.server", reason="needs moto[server] for a local S3 server")
    pytest.importorskip("s3fs", reason="needs s3fs")
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("zoo-bucket")
    yield "s3://zoo-bucket"
    s3fs.S3FileSystem.clear_instance_cache()
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})
    server.stop()
