"""Two-phase model selection: recall from a performance matrix, then successive halving.

Cui, Shi, Tao, Lu, Du: "A Two-Phase Recall-and-Select Framework for Fast Model Selection"
(ICDE 2024, arXiv 2404.00069), with a shrunken linear predictor in place of its k-means trend.

In the order of the method: ``matrix/`` (scores of all models, clusters), ``scores/`` (proxy scores
on the target), ``recall.py`` (phase one), ``halving.py`` with ``policies/`` and
``score_predictor.py`` (phase two), ``outcome.py`` (report and package). ``planning.py`` decides
what needs no cluster; ``trials/`` trains; ``select_runner.py`` and ``benchmark_runner.py`` run it
all on Ray. The mathematics imports neither Ray nor torch.
"""
