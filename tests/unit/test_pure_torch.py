"""The rooms under the stages import without Ray and DeepSpeed, as on a machine that has neither."""

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "deepspeed"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refused())
import orchestrator

ROOMS = ("config", "storage", "zoo", "modeling", "data", "tasks", "inference", "training")
names = [m.name for m in pkgutil.walk_packages(orchestrator.__path__, "orchestrator.")
         if m.name.split(".")[1] in ROOMS and m.name != "orchestrator.data.sharded.ray_data"]
names += ["orchestrator.cluster.engines.fsdp2", "orchestrator.pretraining.window_sources"]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_the_rooms_under_the_stages_need_torch_alone():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 200
