"""Variants of the fleet's protocol, each with one check or order taken away, in the engine or in what a server does.

Belongs here: the list of variants; how one is run is the same as for a bus alone, see `tests.simulation.mutants`.
"""

from __future__ import annotations

from typing import Final

from tests.simulation.mutants import Mutant

__all__ = ["FLEET_MUTANTS", "MOST_SEEDS"]

MOST_SEEDS: Final = 400
"""In how many worlds a variant may stay unnoticed (a count)."""

_SERVER: Final = "tests/simulation/fleet/partition.py"
_CONNECTION: Final = "tests/simulation/fleet/connection.py"
_WORKER: Final = "onwhen/engine/worker.py"
_TENURE: Final = "onwhen/engine/tenure.py"
_FEED: Final = "onwhen/engine/feed.py"
_RELAY: Final = "onwhen/engine/relay.py"

FLEET_MUTANTS: Final = (
    # -- what a server checks
    Mutant(
        "no token is checked",
        _SERVER,
        [("if commit.token is not None and commit.token != state.token:", "if False:")],
    ),
    Mutant(
        "a partition is taken whoever owns it",
        _SERVER,
        [("if old.token not in (None, token) and old.expires > now:", "if False:")],
    ),
    Mutant(
        "a lease never runs out",
        _SERVER,
        [("if old.token not in (None, token) and old.expires > now:", "if old.token not in (None, token):")],
    ),
    Mutant(
        "anybody hands a partition over",
        _SERVER,
        [
            (
                "        if self.state.token != token:\n            return False\n        state = self._change()\n"
                "        state.token, state.expires",
                "        state = self._change()\n        state.token, state.expires",
            )
        ],
    ),
    Mutant(
        "a lease that is lost is renewed",
        _SERVER,
        [("        if self.state.token != token:\n            return None\n", "")],
    ),
    Mutant(
        "versions are counted",
        _SERVER,
        [('f"{state.changes}.{self._chance.getrandbits(32):08x}"', 'f"{state.changes}"')],
    ),
    Mutant(
        "positions are counted",
        _SERVER,
        [("max(state.latest, passed * _ROOM) + 1 + self._chance.randrange(_JUMP)", "state.latest + 1")],
    ),
    Mutant(
        "no version is checked",
        _SERVER,
        [("if commit.version != (None if stored is", "if False and (None if stored is")],
    ),
    Mutant("an event is accepted twice", _SERVER, [("            if seen is not None:\n", "            if False:\n")]),
    Mutant(
        "a session is stored twice",
        _SERVER,
        [("or (commit.id is not None and commit.id in state.window)", "")],
    ),
    Mutant(
        "timers fire a second early",
        _SERVER,
        [("if entry[0] <= now), key", "if entry[0] <= now + timedelta(seconds=1)), key")],
    ),
    Mutant(
        "a delivery need not name the watermark",
        _SERVER,
        [("        if expected != watermark:\n", "        if False:\n")],
    ),
    Mutant(
        "what is below the watermark is dropped, and the rest taken",
        _SERVER,
        [
            (
                "        if expected != watermark:\n            return Delivered(False, watermark)\n",
                "        messages = [out for out in messages if out.position > (watermark or 0)]\n",
            )
        ],
    ),
    Mutant(
        "what was delivered is delivered again",
        _SERVER,
        [("            if key not in state.delivered:\n", "            if True:\n")],
    ),
    Mutant(
        "nobody counts what others do to retries",
        _SERVER,
        [("            state.touched += 1\n", "            pass\n")],
    ),
    # -- what a connection sees to
    Mutant(
        "another run of a server goes unnoticed",
        _CONNECTION,
        [("if any(self._world.runs[partition] != run for partition, run in call.runs):", "if False:")],
    ),
    # -- owning
    Mutant(
        "tokens are counted",
        _WORKER,
        [("self._asked.setdefault(number, uuid4().hex)", "self._asked.setdefault(number, str(self._round))")],
    ),
    Mutant(
        "a lease that was not renewed is trusted",
        _TENURE,
        [("if not self._is_over and self._loop.time() >= self.trusted_until:", "if False:")],
    ),
    Mutant(
        "nothing is handed over",
        _WORKER,
        [
            ("        for tried in range(1, tries + 1):\n", "        for tried in ():\n"),
            ("        self._left[tenure.token] = tenure.partition\n", ""),
        ],
    ),
    Mutant(
        "who owns too much keeps it",
        _WORKER,
        [("            for number in surplus(running, self._share):\n", "            for number in ():\n")],
    ),
    # -- taking over
    Mutant(
        "retries are not read by a new owner",
        _TENURE,
        [("        for retry in held.retries:\n", "        for retry in ():\n")],
    ),
    Mutant(
        "timers are not looked for by a new owner",
        _TENURE,
        [("        await self._schedule.begin()\n", "        self._schedule.agenda.arm()\n")],
    ),
    Mutant(
        "every owner is said to have been released",
        _TENURE,
        [("        self._was_released = acquired.was_released\n", "        self._was_released = True\n")],
    ),
    Mutant(
        "nobody counts how often an event has killed its worker",
        "onwhen/engine/recovery.py",
        [("        if starts > _MAX_STARTS:\n", "        if False:\n")],
    ),
    Mutant(
        "an event is called poison at its second start",
        "onwhen/engine/recovery.py",
        [("_MAX_STARTS: Final = 3", "_MAX_STARTS: Final = 1")],
    ),
    # -- the work of a partition
    Mutant(
        "what others do to retries is not looked at",
        _TENURE,
        [("        if touched != self._touched:\n", "        if False:\n")],
    ),
    Mutant(
        "what others have taken away is held for ever",
        _TENURE,
        [("            if key not in found and key in self._known:\n", "            if False:\n")],
    ),
    Mutant(
        "a retry does not hold its subject",
        _TENURE,
        [("        if retry.in_order:\n", "        if False:\n")],
    ),
    Mutant(
        "a conflict is taken for an end",
        _TENURE,
        [
            (
                "                self._dispatcher.again(subject)  # it is not in memory any more, so it is loaded\n"
                "                return\n",
                "                pass\n",
            )
        ],
    ),
    Mutant(
        "a retry that was run holds its subject for ever",
        _TENURE,
        [("            self._let_go(work.retry.subject, work.retry.key)\n", "            pass\n")],
    ),
    Mutant(
        "what has become due is moved once only",
        _TENURE,
        [("        if fired.next_due is not None:\n", "        if False:\n")],
    ),
    Mutant(
        "what was put aside is passed over if more comes meanwhile",
        _FEED,
        [(" and (entries or self.cursor != before):", " and entries:")],
    ),
    Mutant(
        "what was put aside is forgotten",
        _FEED,
        [("            self._ready[subject] = None\n", "            pass\n")],
    ),
    Mutant(
        "a subject that is held may have a line",
        _FEED,
        [("entry.position not in self._first and subject not in self._aside", "entry.position not in self._first")],
    ),
    Mutant(
        "the latest event of a subject goes first",
        "onwhen/engine/dispatch.py",
        [("        return waiting.popleft()\n", "        return waiting.pop()\n")],
    ),
    # -- between partitions
    Mutant(
        "messages are delivered in reverse",
        _RELAY,
        [
            (
                "            batch = lacking[first : first + _BATCH]\n",
                "            batch = lacking[first : first + _BATCH][::-1]\n",
            )
        ],
    ),
    Mutant(
        "the outbox lets go of what was delivered at once",
        _RELAY,
        [("_KEPT: Final = 600.0", "_KEPT: Final = 0.0"), ("_NOTED: Final = 30.0", "_NOTED: Final = 0.5")],
    ),
    Mutant(
        "nobody wakes the relay",
        _RELAY,
        [
            (
                '        """Look into the outbox: there may be more in it."""\n        self._wake.set()\n',
                '        """Sleep on."""\n',
            )
        ],
    ),
    Mutant(
        "the outbox never lets go",
        _RELAY,
        [("        if upto is not None:\n            await", "        if False:\n            await")],
    ),
    Mutant(
        "what a target lacks is not sent again",
        _RELAY,
        [("                way.lacks = True\n                return\n", "                return\n")],
    ),
    Mutant(
        "nobody looks whether targets still have what they had",
        _RELAY,
        [("            if is_kept and way.task is None and not way.lacks:\n", "            if False:\n")],
    ),
    Mutant(
        "a target that did not answer is forgotten",
        _RELAY,
        [("way.lacks, way.not_before, way.problem = True, now + _AGAIN, error", "pass")],
    ),
)
