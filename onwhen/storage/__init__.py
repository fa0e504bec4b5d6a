"""Where subjects, accepted events, timers and dead letters are kept."""

from onwhen.storage.memory import MemoryStore, create_memory_storage

__all__ = ["MemoryStore", "create_memory_storage"]
