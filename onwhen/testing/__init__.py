"""Help for testing rules: a harness on a virtual clock, and a pytest plugin that brings it as a fixture."""

__all__: list[str] = []
