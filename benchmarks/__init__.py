"""How fast onwhen is, next to a peer: `python -m benchmarks`."""
