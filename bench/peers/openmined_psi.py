"""The size of an intersection by openmined-psi, both sides in one process; prints its wall time and the size.

Run in an environment of its own, because it pins an old protobuf. `DataStructure.RAW` has no false positives.
"""

import sys
import time

import private_set_intersection.python as psi


def main(first: list[str], second: list[str]) -> None:
    started = time.perf_counter()
    client, server = psi.client.CreateWithNewKey(False), psi.server.CreateWithNewKey(False)
    setup = server.CreateSetupMessage(0.0, len(first), second, psi.DataStructure.RAW)
    response = server.ProcessRequest(client.CreateRequest(first))
    size = client.GetIntersectionSize(setup, response)
    print(time.perf_counter() - started, size)


if __name__ == "__main__":
    identifiers, overlap = sys.stdin.read().split(), int(sys.argv[1])
    middle = (len(identifiers) + overlap) // 2
    main(identifiers[:middle], identifiers[middle - overlap :])
