"""Methods of a search: which plans are measured, given prices, pure modes and a goal."""
