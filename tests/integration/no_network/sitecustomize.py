"""Python runs this file first when its folder is on PYTHONPATH: no connection leaves the process from then on."""

from __future__ import annotations

import socket
from typing import Any, NoReturn


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("a command of the integration tests wanted the network")


socket.getaddrinfo = refuse
socket.socket.connect = refuse  # type: ignore[method-assign]
socket.socket.connect_ex = refuse  # type: ignore[method-assign]
