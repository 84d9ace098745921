"""Runtimes a package can be loaded into."""
