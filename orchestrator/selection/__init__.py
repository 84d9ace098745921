"""Two-phase model selection: recall from a performance matrix, then successive halving.

Cui, Shi, Tao, Lu, Du: "A Two-Phase Recall-and-Select Framework for Fast Model Selection"
(ICDE 2024, arXiv 2404.00069), with a shrunken linear predictor in place of its k-means trend.
The mathematics imports neither Ray nor torch.
"""
