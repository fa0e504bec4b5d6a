"""Every store does what the storage contract says."""

from pathlib import Path

import pytest

from onwhen import create_memory_storage, create_sqlite_storage
from onwhen.engine.store import Store
from onwhen.testing.store_contract import StoreContract


class TestMemory(StoreContract):
    """The store in memory."""

    def make_store(self, **options: int) -> Store:
        return create_memory_storage(**options)


class TestSqlite(StoreContract):
    """The store in one SQLite file."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "store.db"

    def make_store(self, **options: int) -> Store:
        self.options = options
        return create_sqlite_storage(self.file, **options)

    def make_again(self, store: Store) -> Store:
        return create_sqlite_storage(self.file, **self.options)
