"""Continue a prompt.

Run it as `python jobs/generate.py package=NAME prompt='Once upon a time' [a.b=c ...]`,
or as the entrypoint of `ray job submit --working-dir . -- ...`.
"""

import sys
from os.path import abspath, dirname

# Python puts this folder first on the path, where select.py would shadow the standard library's
# module of that name; the project root belongs there instead.
sys.path[0] = dirname(dirname(abspath(__file__)))

from orchestrator.cli import job_main

if __name__ == "__main__":
    sys.exit(job_main("generate"))
