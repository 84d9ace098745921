"""Learn a stream of tasks without forgetting: package to package.

python jobs/continual.py --config jobs/configs/continual_pydoc.yaml [a.b=c ...]
ray job submit --working-dir . -- python jobs/continual.py --config jobs/configs/continual_pydoc.yaml
"""

import sys
from os.path import abspath, dirname

# Python puts this folder first on the path, where select.py would shadow the standard library's
# module of that name; the project root belongs there instead.
sys.path[0] = dirname(dirname(abspath(__file__)))

from orchestrator.cli import job_main  # noqa: E402

if __name__ == "__main__":
    sys.exit(job_main("continual"))
