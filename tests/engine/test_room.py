"""Room for what waits: who may begin more, in which order, and what happens where waiting takes long."""

import asyncio

import pytest

from onwhen.engine.room import Room


class Line:
    """Begins what is ready, as a dispatcher does."""

    def __init__(self, room: Room, waiting: int) -> None:
        self.room = room
        self.waiting = waiting
        self.begun = 0

    def ready(self) -> int:
        return self.waiting

    def pump(self) -> None:
        while self.waiting and self.room.is_there(self):
            self.waiting -= 1
            self.begun += 1
            self.room.take()


@pytest.fixture
async def room() -> Room:
    return Room(100, asyncio.get_running_loop())


async def test_no_more_is_begun_than_there_is_room_for(room: Room) -> None:
    """Whoever has found none is called once something has come to its end."""
    line = Line(room, 150)
    line.pump()
    assert line.begun == 100
    for _ in range(50):
        room.leave()
    assert line.begun == 150


async def test_who_waits_comes_before_who_comes_back(room: Room) -> None:
    """Else one partition would keep all others waiting."""
    first, second = Line(room, 100), Line(room, 200)
    first.pump()
    second.pump()
    assert (first.begun, second.begun) == (100, 0)
    for _ in range(64):
        first.waiting += 1
        room.leave()
        first.pump()
    assert (first.begun, second.begun) == (100, 64)


async def test_it_is_called_when_there_is_room_for_many(room: Room) -> None:
    """What is begun together is committed together; but nobody waits for more room than he has use for."""
    first, many, few = Line(room, 100), Line(room, 200), Line(room, 2)
    first.pump()
    many.pump()
    few.pump()
    for _ in range(63):
        room.leave()
    assert many.begun == 0
    room.leave()
    assert (many.begun, few.begun) == (64, 0)
    for _ in range(2):
        room.leave()
    assert (many.begun, few.begun) == (64, 2)


async def test_where_nothing_ends_there_is_more_room_after_a_while(room: Room) -> None:
    """A store that is far away must not make a worker stand still; and later it is as before."""
    line = Line(room, 1_000)
    line.pump()
    async with asyncio.timeout(10):
        while line.waiting:
            await asyncio.sleep(0.001)
    assert line.begun == 1_000
    for _ in range(1_000):
        room.leave()
    again = Line(room, 1_000)
    again.pump()
    assert again.begun == 100
    room.forget(again)


async def test_who_has_left_is_not_called(room: Room) -> None:
    """A dispatcher that was closed begins nothing."""
    first, gone = Line(room, 100), Line(room, 1)
    first.pump()
    gone.pump()
    room.forget(gone)
    for _ in range(100):
        room.leave()
    assert gone.begun == 0
