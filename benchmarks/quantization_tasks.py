"""INT8 plans on trained models: four real tasks, planted outliers, and other searches beside ours.

Tasks: pairs of texts, topics, names (NER), images. Models are fine-tuned by the worker of the
product's job and quantized by its job, all in this process: training rows calibrate, validation
rows choose, test rows are asked once, by the file that is deployed. The bound is the same
everywhere: the one-sided 95 % bound of the drop of the task's metric on validation rows is at most
one point.

Beside the default method stand SAMP's sweep (`method: samp`), on two tasks, and NNCF's accuracy
control. All plans of a task are timed in one interleaved run per engine, one thread, as ratios of
CPU time to float.

Run: `python benchmarks/quantization_tasks.py --work FOLDER [--data DATA] [--write]`. What FOLDER
has already is not done again: a stopped run goes on. `--only TASK ...` does a part. NNCF is
measured if it is installed: `pip install openvino nncf`.
"""

import argparse
import sys
from pathlib import Path
from typing import Final

import torch
from peers.quantized_page import page
from peers.quantized_studies import Study
from peers.quantized_tasks import TASKS

DATA: Final = Path(__file__).parents[2] / "shared" / "data"
PAGE: Final = Path(__file__).with_suffix(".md")
PLANTED: Final = ("names-outliers", "digits-outliers")
"""Models with planted outliers: norms after the sums, and norms before them."""
CASES: Final = (*TASKS, *PLANTED)


def main() -> None:
    """Measure what is missing, and print or write the page of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of what is done")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public sets")
    parser.add_argument("--only", nargs="*", choices=CASES, default=CASES, help="cases to measure")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = Study(options.work.absolute(), options.data.absolute())
    missing = [case for case in options.only if not study.is_measured(case)]
    for case in missing:
        study.train(case)
        study.quantize(case)
        study.measure(case)
    for case in options.only:
        study.complete(case)
    text = page({case: study.figures(case) for case in CASES if study.is_measured(case)})
    sys.stdout.write(text)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
