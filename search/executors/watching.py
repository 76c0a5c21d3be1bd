"""Whether Ray itself is alive.

Where its raylet or its GCS has died, Ray ends the driver's process with words of its own, after
15 to 60 s. Both listen on ports: one that nobody listens on any more is noticed within seconds.
"""

from __future__ import annotations

import socket
import time
from collections import Counter

import ray

_EVERY = 1.0  # seconds between two looks
_PATIENCE = 1.0  # seconds for an answer
_TRIES = 3  # that must fail, one after another


class Watch:
    """Looks at the parts of Ray that this process cannot do without.

    Attributes:
        node: Ray's name of this machine.
        host: this machine's address, as others of the cluster reach it.
        dead: whether a part was found dead.
    """

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        mine = context.get_node_id()
        (node,) = (n for n in ray.nodes() if n["NodeID"] == mine)
        host, _, port = context.gcs_address.rpartition(":")
        self.node: str = mine
        self.host = str(node["NodeManagerAddress"])
        self.dead = False
        self._parts = {
            "its raylet": (self.host, int(node["NodeManagerPort"])),
            "its control store (GCS)": (host.strip("[]"), int(port)),
        }
        self._failed: Counter[str] = Counter()
        self._next = 0.0

    def check(self) -> None:
        """Look again, where the last look was a while ago.

        Raises:
            ConnectionError: a part of Ray has died.
        """
        if time.monotonic() < self._next:
            return
        for part, address in self._parts.items():
            try:
                socket.create_connection(address, timeout=_PATIENCE).close()
            except OSError as error:
                self._failed[part] += 1
                if self._failed[part] == _TRIES:
                    self.dead = True
                    where = f"{address[0]}:{address[1]}"
                    raise ConnectionError(f"a part of Ray has died: {part} at {where}") from error
            else:
                self._failed[part] = 0
        self._next = time.monotonic() + _EVERY
