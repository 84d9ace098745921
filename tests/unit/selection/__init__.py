"""Selection without Ray."""
