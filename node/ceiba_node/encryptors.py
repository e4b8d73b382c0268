"""Encryption under each merchant's key, prepared in idle time: tables once, then a stock of single-use factors."""

import threading
import time
from collections.abc import Iterable

import structlog

from ceiba_protocol.sums.paillier import Encryptor
from ceiba_protocol.sums.randomness import Random

log = structlog.get_logger()

TABLE_FOR = 10_000
"""The table is built once and serves every job to come, so it is the one that serves thousands of ciphertexts best."""
BATCH = 8
"""A batch of factors takes about 20 ms; then whoever answers a question has its turn."""
IDLE_SECONDS = 1.0
"""How long nobody has asked before the time counts as idle. A stock below a quarter is filled at once."""


class Encryptors:
    """One encryptor for each merchant's modulus. Safe for several threads."""

    def __init__(self, random: Random, stock: int) -> None:
        """`stock`: how many single-use factors to hold for each merchant; for 0 nothing is prepared, tables neither."""
        self._random = random
        self._stock = stock
        self._ready: dict[int, Encryptor] = {}
        self._wanted = threading.Event()
        self._stop = threading.Event()
        self._last_asked = 0.0

    def prepare(self, moduli: Iterable[int]) -> None:
        """Build tables and fill the stocks in the background, and keep them filled."""
        if self._stock == 0:
            return
        threading.Thread(target=self._keep_filled, args=(list(moduli),), name="encryptors", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()
        self._wanted.set()

    def get(self, modulus: int, count: int) -> Encryptor:
        """An encryptor for about `count` ciphertexts: the prepared one, or, before that is ready, one of its own."""
        self._last_asked = time.monotonic()
        self._wanted.set()
        return self._ready.get(modulus) or Encryptor.for_count(modulus, count, self._random)

    def _keep_filled(self, moduli: list[int]) -> None:
        for modulus in moduli:
            self._ready[modulus] = Encryptor.for_count(modulus, TABLE_FOR, self._random)
        log.info("encryptors.ready", merchants=len(moduli))
        while not self._stop.is_set():
            self._wanted.clear()
            for encryptor in self._ready.values():
                self._fill(encryptor)
            self._wanted.wait()

    def _fill(self, encryptor: Encryptor) -> None:
        while len(encryptor.pool) < self._stock and not self._stop.is_set():
            busy = time.monotonic() - self._last_asked < IDLE_SECONDS
            if busy and len(encryptor.pool) >= self._stock // 4:
                self._stop.wait(IDLE_SECONDS)
            else:
                encryptor.pool.add(encryptor.obfuscators(BATCH))
