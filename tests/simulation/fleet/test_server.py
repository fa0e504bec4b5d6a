"""The model of a shared store does what both contracts say, so it is as good as Redis to the engine."""

from __future__ import annotations

from onwhen.engine.store import Store
from onwhen.testing.store_contract import SharedStoreContract, StoreContract
from tests.simulation.fleet.server import ModelStore, Server


class TestModel(SharedStoreContract, StoreContract):
    """The model, on a connection on which nothing goes wrong."""

    def make_store(self, *, partitions: int = 1, dedup_window: int = 100_000, **kept: int) -> Store:
        return ModelStore(Server(partitions, window=dedup_window, **kept))

    def make_again(self, store: Store) -> Store:
        assert isinstance(store, ModelStore)
        return ModelStore(store.server)
