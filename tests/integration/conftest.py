"""Clusters that the integration tests share."""

from tests.support.ray import local_ray, ray_head

__all__ = ["local_ray", "ray_head"]
