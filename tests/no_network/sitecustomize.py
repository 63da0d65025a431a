# SPDX-License-Identifier: Apache-2.0
"""Keeps every Python process of the tests on this machine: names are not looked up, strangers are not connected to.

Python imports this module when it starts, because conftest.py puts its folder onto PYTHONPATH.
"""

import contextlib
import ipaddress
import os
import socket
import sys
from functools import lru_cache
from typing import Any

NAMES = {"", "localhost", "localhost.localdomain", "0.0.0.0", "::", socket.gethostname()}
# where a process writes down what it was kept from, if anybody wants to know
DIARY = "HAFM_TEST_CONNECTIONS"


@lru_cache(maxsize=256)
def is_here(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host in NAMES
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def keep_here(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: refuses what would leave the machine."""
    host: Any = None
    if event == "socket.connect":
        connection, address = arguments
        # a datagram socket that "connects" sends nothing; Ray asks it for its own address
        if isinstance(address, tuple) and connection.type != socket.SOCK_DGRAM:
            host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    if host is None:
        return
    host = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if not is_here(host):
        if DIARY in os.environ:
            with contextlib.suppress(OSError), open(os.environ[DIARY], "a") as diary:
                diary.write(f"{event} {host}\n")
        raise socket.gaierror(socket.EAI_NONAME, f"tests stay on this machine, and {host} is not on it")


sys.addaudithook(keep_here)
