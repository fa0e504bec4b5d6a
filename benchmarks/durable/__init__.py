"""How fast onwhen is on a SQLite file, next to what the disk and SQLite can do: `python -m benchmarks.durable`."""
