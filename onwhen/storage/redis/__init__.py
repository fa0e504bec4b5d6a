"""A store in Redis, or what understands the same commands: shared by many processes, each of which owns partitions."""

try:
    import hiredis as _hiredis
    import redis as _redis
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "a store in Redis needs the client of Redis: pip install 'onwhen[redis]'", name=_error.name
    ) from _error

from onwhen.storage.redis._store import RedisStore

del _hiredis, _redis

__all__ = ["RedisStore", "create_redis_storage"]


def create_redis_storage(
    url: str,
    key_prefix: str = "onwhen",
    *,
    partitions: int | None = None,
    dedup_window: int | None = None,
    history: int = 0,
    explanations: int = 1_000,
    max_backlog: int = 100_000,
    read_only: bool = False,
) -> RedisStore:
    """Return a store in Redis; nothing is connected before a bus or a worker opens it.

    Args:
        url: `redis://HOST:PORT/DB`, `redis+sentinel://HOST:PORT,.../MASTER` or `redis+cluster://HOST:PORT,...`;
            `rediss` in place of `redis` for TLS.
        key_prefix: what all names of keys start with, in braces: several stores may share a server.
        partitions: how many partitions there are (a count); fixed when the first one opens it. None: as many as there
            are, 16 in a new one; then `store.partitions` is known when it is open.
        dedup_window: how many of the latest accepted events each partition remembers, so that a second one of the
            same source and id is not accepted again (a count). None: as many as whoever opened it before said; 10,000
            in a new one.
        history: how many commits each partition keeps to be looked at (a count). With 0 none is added, and what is
            there stays.
        explanations: how many explanations each partition keeps of what turns did (a count). With 0 none is added, and
            what is there stays.
        max_backlog: how many pending events a partition takes (a count): above it `append` raises `StoreBusy`. More at
            once are taken by one that has none.
        read_only: look at what is there; `open` raises `StoreError` if there is nothing, where it would be made else.

    Raises:
        SettingError: an argument is out of range, or there is no such address.
    """
    return RedisStore(
        url,
        key_prefix,
        partitions=partitions,
        dedup_window=dedup_window,
        history=history,
        explanations=explanations,
        max_backlog=max_backlog,
        read_only=read_only,
    )
