"""Run folders and zoos on object stores: conditional writes, leases, staging folders."""
