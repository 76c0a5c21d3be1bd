"""Whether Ray itself is alive.

Where its raylet or its GCS has died, Ray ends the driver's process with words of its own, after
15 to 60 s. Both listen on ports: one that nobody listens on any more is noticed within seconds. The
GCS of a cluster may be started again, or be behind a bad network, and is given half a minute.
"""

from __future__ import annotations

import socket
import time

import ray

_EVERY = 1.0  # seconds between two looks
_ANSWER = 1.0  # seconds for an answer
_HERE = 2.0  # seconds without one, after which a part on this machine is dead
_AWAY = 30.0  # likewise, of a cluster


class Watch:
    """Looks at the parts of Ray that this process cannot do without.

    Args:
        own: whether this process has started Ray; else it is a cluster, which others look after.

    Attributes:
        node: Ray's name of this machine.
        host: this machine's address, as others of the cluster reach it.
        dead: whether a part was found dead.
    """

    def __init__(self, *, own: bool) -> None:
        context = ray.get_runtime_context()
        mine = context.get_node_id()
        (node,) = (n for n in ray.nodes() if n["NodeID"] == mine)
        host, _, port = context.gcs_address.rpartition(":")
        self.node: str = mine
        self.host = str(node["NodeManagerAddress"])
        self.dead = False
        self._parts = {
            "its raylet": (self.host, int(node["NodeManagerPort"]), _HERE),
            "its control store (GCS)": (host.strip("[]"), int(port), _HERE if own else _AWAY),
        }
        self._failing: dict[str, float] = {}  # since when
        self._next = 0.0

    def check(self) -> None:
        """Look again, where the last look was a while ago.

        Raises:
            ConnectionError: a part of Ray has died.
        """
        if time.monotonic() < self._next:
            return
        for part, (host, port, patience) in self._parts.items():
            now = time.monotonic()
            try:
                socket.create_connection((host, port), timeout=_ANSWER).close()
            except OSError as error:
                if now - self._failing.setdefault(part, now) >= patience:
                    self.dead = True
                    where = f"{part} at {host}:{port}"
                    raise ConnectionError(f"a part of Ray has died: {where}") from error
            else:
                self._failing.pop(part, None)
        self._next = time.monotonic() + _EVERY

    def last_look(self) -> None:
        """At the end: a part of an own Ray that does not answer now is dead."""
        for host, port, patience in self._parts.values():
            try:
                socket.create_connection((host, port), timeout=_ANSWER).close()
            except OSError:
                self.dead |= patience == _HERE
