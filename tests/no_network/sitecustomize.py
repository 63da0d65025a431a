# SPDX-License-Identifier: Apache-2.0
"""Keeps every Python process of the tests on this machine: names are not looked up, strangers are not connected to.

Python imports this module when it starts, because conftest.py puts its folder onto PYTHONPATH. Where a test says so,
a script is handed to the interpreter of tests/programs.py, which has its libraries imported.
"""

import contextlib
import ipaddress
import json
import os
import signal
import socket
import sys
from functools import lru_cache
from typing import Any

NAMES = {"", "localhost", "localhost.localdomain", "0.0.0.0", "::", socket.gethostname()}
# where a process writes down what it was kept from, if anybody wants to know
DIARY = "HAFM_TEST_CONNECTIONS"
# the socket of tests/programs.py, in the environment of programs whose own scripts are to be forked there
PROGRAMS = "HAFM_TEST_PROGRAMS"


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


def run_elsewhere(words: list[str], address: str) -> None:
    """Has a script forked from the server of tests/programs.py, with this process's output, and ends as it ends."""
    mine = f"/proc/{os.getpid()}/fd"
    request = {"words": words, "env": dict(os.environ), "cwd": os.getcwd(), "to_the_end": False}
    request |= {"out": f"{mine}/1", "err": f"{mine}/2"}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        server.sendall(json.dumps(request).encode() + b"\n")
        _, code = map(int, server.makefile("r"))
    if code < 0:
        os.kill(os.getpid(), -code)
        signal.pause()
    os._exit(code)


sys.addaudithook(keep_here)
# launchers ask for unbuffered output
words = [word for word in sys.orig_argv if word != "-u"]
if PROGRAMS in os.environ and words[1:] and words[1].endswith(".py"):
    run_elsewhere([sys.executable, *words[1:]], os.environ[PROGRAMS])
