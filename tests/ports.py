"""Ports for programs that a test starts later, and for addresses at which nothing listens."""

import secrets
import socket
from pathlib import Path

_KERNELS_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """Returns a loopback port without a listener, below the range from which the kernel chooses ports.

    The kernel could give a port of its range to another test's connection before this test listens on it.
    """
    kernels_first = int(_KERNELS_PORTS.read_text().split()[0]) if _KERNELS_PORTS.exists() else 0
    ports = range(max(kernels_first - 15_000, 5_000), kernels_first) or range(1)  # 0: any port
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", secrets.choice(ports)))
            except OSError:
                continue
            return int(probe.getsockname()[1])
