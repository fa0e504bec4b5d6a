"""Every store does what the storage contract says."""

from pathlib import Path

import pytest

from onwhen import create_memory_storage, create_sqlite_storage
from onwhen.engine.store import Store
from onwhen.testing.store_contract import StoreContract


class TestMemory(StoreContract):
    """The store in memory."""

    def make_store(self, *, partitions: int = 1, dedup_window: int = 100_000, history: int = 0) -> Store:
        return create_memory_storage(partitions=partitions, dedup_window=dedup_window, history=history)


class TestSqlite(StoreContract):
    """The store in one SQLite file."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "store.db"

    def make_store(self, *, partitions: int = 1, dedup_window: int = 100_000, history: int = 0) -> Store:
        self.options = {"partitions": partitions, "dedup_window": dedup_window, "history": history}
        return create_sqlite_storage(self.file, **self.options)

    def make_again(self, store: Store) -> Store:
        return create_sqlite_storage(self.file, **self.options)
