"""Proxy scores, one file each: how well frozen features already fit the labels of the target."""
