"""Open-loop load on an HTTP endpoint: requests arrive when they arrive, however slow it answers."""
