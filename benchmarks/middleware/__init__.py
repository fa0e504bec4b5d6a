"""What each middleware costs: `python -m benchmarks.middleware`."""
