"""HTTP to and from the engine: what others ask of a process over the network."""

__all__: list[str] = []
