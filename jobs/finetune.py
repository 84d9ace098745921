"""Fine-tune a package on labelled data: package to package.

Run it as `python jobs/finetune.py package=minilm data.source=files:mails.csv output=spam`,
or as the entrypoint of `ray job submit --working-dir . -- ...`.
"""

import sys
from os.path import abspath, dirname

# Python puts this folder first on the path, where select.py would shadow the standard library's
# module of that name; the project root belongs there instead.
sys.path[0] = dirname(dirname(abspath(__file__)))

from orchestrator.cli import job_main

if __name__ == "__main__":
    sys.exit(job_main("finetune"))
