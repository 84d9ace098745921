"""Import of models of TencentPretrain: flat configurations and pickled weights.

Names and options are those of github.com/Tencent/TencentPretrain; what its code computes otherwise
than the paper of a component is not repeated here, and each such deviation is named in the report.
"""
