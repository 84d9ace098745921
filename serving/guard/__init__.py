"""Everything a request passes before a protocol reads it: keys, limits, deadlines, errors."""
