"""Selection methods on stored curves (``select replay``)."""
