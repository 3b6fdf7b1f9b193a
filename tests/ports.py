"""Ports for tests whose programs listen there later."""
import contextlib
import random
import socket

# Linux hands 32768 and above to outgoing connections and to who asks for any port: the ranks of the test's own job would take one
# before its supervisor listens there.
FIRST, LAST = 20000, 32000


def free_port(neighbours: int = 0) -> int:
    """One that nobody has, nor its next `neighbours`."""
    while True:
        port = random.SystemRandom().randrange(FIRST, LAST)
        with contextlib.ExitStack() as probes:
            try:
                for near in range(port, port + neighbours + 1):
                    probes.enter_context(socket.socket()).bind(("", near))
                return port
            except OSError:
                continue
