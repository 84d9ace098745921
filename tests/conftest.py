"""Fixtures of all tests: the clusters, each started once a session and stopped by pid."""

from tests.support.ray import local_ray, ray_head

__all__ = ["local_ray", "ray_head"]
