"""Bridges between onwhen's own types and those of other libraries, one module a library, imported by name.

A module here knows one foreign library, imports it no sooner than it is used, and must not hold any behaviour of the
engine.
"""

__all__: list[str] = []
