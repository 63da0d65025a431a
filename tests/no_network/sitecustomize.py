# SPDX-License-Identifier: Apache-2.0
"""Blocks network access in every Python process of the tests: no name lookups, no connections to other hosts.

Python imports this module at startup, because conftest.py puts its folder on PYTHONPATH.
"""

import contextlib
import ipaddress
import os
import socket
import sys
from functools import lru_cache
from typing import Any

NAMES = {"", "localhost", "localhost.localdomain", "0.0.0.0", "::", socket.gethostname()}
# environment variable with the path of an optional log of blocked attempts
DIARY = "HAFM_TEST_CONNECTIONS"


@lru_cache(maxsize=256)
def is_here(host: str) -> bool:
    """Whether a host, by name or IP address, is this machine."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host in NAMES
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # only this machine's own addresses can be bound
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def block_network(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook that refuses lookups and connections beyond this machine.

    Args:
        event: Python's name of what happens, such as "socket.connect".
        arguments: of the event.

    Raises:
        socket.gaierror: the host is another machine.
    """
    host: Any = None
    if event == "socket.connect":
        connection, address = arguments
        # connecting a datagram socket sends nothing; Ray does so to find its own address
        if isinstance(address, tuple) and connection.type != socket.SOCK_DGRAM:
            host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    if host is None:
        return
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if not is_here(host):
        if DIARY in os.environ:
            with contextlib.suppress(OSError), open(os.environ[DIARY], "a") as log:
                log.write(f"{event} {host}\n")
        raise socket.gaierror(socket.EAI_NONAME, f"tests stay on this machine, and {host} is not on it")


sys.addaudithook(block_network)
