"""Which partitions a worker should own: shares that are fair, and nothing that moves without need."""

from hypothesis import given
from hypothesis import strategies as st

from onwhen.engine.ownership import candidates, fair_share, surplus

WORKERS = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=12, unique=True)
PARTITIONS = st.integers(1, 100)


@given(WORKERS, PARTITIONS)
def test_shares_differ_by_one_at_most_and_leave_no_partition_out(workers: list[str], partitions: int) -> None:
    """All partitions are somebody's share, and nobody has two more than somebody else."""
    shares = [fair_share(worker, workers, partitions) for worker in workers]
    assert sum(shares) == partitions
    assert max(shares) - min(shares) <= 1


@given(WORKERS, PARTITIONS)
def test_a_worker_that_is_not_listed_yet_counts_as_living(workers: list[str], partitions: int) -> None:
    """Whoever asks lives, whatever the list says, which is a moment old."""
    others = workers[1:]
    assert fair_share(workers[0], others, partitions) == fair_share(workers[0], workers, partitions)


@given(WORKERS, WORKERS, PARTITIONS)
def test_a_worker_that_keeps_its_share_moves_nothing(before: list[str], after: list[str], partitions: int) -> None:
    """Who has no more than its new share hands nothing over; who has more hands over what is too much, no more."""
    for worker in {*before} & {*after}:
        had, share = fair_share(worker, before, partitions), fair_share(worker, after, partitions)
        owned = range(had)
        assert len(surplus(owned, share)) == max(0, had - share)


@given(WORKERS, st.text("xyz", min_size=1, max_size=2), PARTITIONS)
def test_no_share_grows_by_one_that_comes(workers: list[str], newcomer: str, partitions: int) -> None:
    """Partitions move to the newcomer, and between nobody else."""
    for worker in workers:
        before = fair_share(worker, workers, partitions)
        # One that comes ahead in the order may take over who has the odd one, but gives no second one to anybody.
        assert fair_share(worker, [*workers, newcomer], partitions) <= before


@given(st.sets(st.integers(0, 30), max_size=20), st.integers(0, 30))
def test_what_is_too_much_is_owned_and_named_once(owned: set[int], share: int) -> None:
    """Only what is owned is handed over, the highest numbers first."""
    found = surplus(owned, share)
    assert found == sorted({*found}, reverse=True)
    assert {*found} <= owned
    assert len(owned) - len(found) == min(len(owned), share)


@given(PARTITIONS, st.sets(st.integers(0, 99)), st.integers(1, 50))
def test_candidates_are_all_that_is_not_owned_in_an_order_of_their_own(
    partitions: int, owned: set[int], round: int
) -> None:
    """Each partition that is not owned is tried once a round, and the same round goes the same way."""
    found = candidates(partitions, owned, "w", round)
    assert sorted(found) == [number for number in range(partitions) if number not in owned]
    assert candidates(partitions, owned, "w", round) == found


def test_two_workers_try_in_different_orders() -> None:
    """Workers that start together do not all try to take the same partition first."""
    assert candidates(64, (), "w1", 1) != candidates(64, (), "w2", 1) != candidates(64, (), "w2", 2)
