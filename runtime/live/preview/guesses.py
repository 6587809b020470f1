"""Bounds how fast tokens can be guessed, for each network and for all, in parallel or not.

Whoever has the right token always gets a turn: each network has a queue, and the heads of the
queues take turns. A right token costs nothing, so that viewers do not notice the queues in peace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

NETWORK_S = 0.15  # the time that a wrong guess takes from all further ones of its network
OVERALL_S = 0.04  # and from those of all networks


class Turns:
    """The queues of one server."""

    def __init__(self) -> None:
        self._queues: dict[str, tuple[asyncio.Lock, int]] = {}
        self._all = asyncio.Lock()

    async def compare(self, network: str, guesses: int, right: Callable[[], bool]) -> bool:
        """Waits for a turn and returns whether a guess is right; a wrong one takes its time first.

        Args:
            network: Where the guesses come from.
            guesses: How many things `right` compares.
            right: Compares them; called once.
        """
        async with self._queue(network):
            async with self._all:
                if right():
                    return True
                await asyncio.sleep(guesses * OVERALL_S)
            await asyncio.sleep(guesses * max(0.0, NETWORK_S - OVERALL_S))
        return False

    @asynccontextmanager
    async def _queue(self, network: str) -> AsyncIterator[None]:
        """Holds the lock of a network, which is kept while anything waits for it."""
        lock, waiting = self._queues.get(network, (asyncio.Lock(), 0))
        self._queues[network] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._queues.pop(network)
            if waiting > 1:
                self._queues[network] = lock, waiting - 1
