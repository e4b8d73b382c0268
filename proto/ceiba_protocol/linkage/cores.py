"""Long work in parts, on all cores, in threads: never by forking, which gRPC does not survive."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ceiba_protocol.sums.paillier import released_gil

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

Progress = Callable[[int, int], None]
"""Called with how many rows are done and how many there are, in the thread that asked. What it raises ends the work."""


def on_all_cores(work: Callable[[_Part], _Result], parts: Sequence[_Part]) -> Iterator[_Result]:
    """work(part) for each part, in their order. Once the caller stops reading, no further part is begun."""

    def one(part: _Part) -> _Result:
        with released_gil():
            return work(part)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            yield from threads.map(one, parts)
        finally:
            threads.shutdown(cancel_futures=True)
