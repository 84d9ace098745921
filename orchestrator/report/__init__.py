"""One self-contained HTML page for a run: pictures where people look rather than read."""
