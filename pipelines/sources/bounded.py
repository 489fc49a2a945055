"""An HTTP connection whose answer must arrive by a deadline, to the last byte.

The time-outs of `requests` run per piece received: a server that drips one byte a second, in the headers
or in the body, holds a caller for ever. Here every read of the answer waits at most until one wall-clock
deadline, and ends as soon as the owner of the connection is told to stop.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from http.client import HTTPResponse
from typing import Any, NamedTuple

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager, ProxyManager
from urllib3.util.wait import wait_for_read

_POLL_SECONDS = 0.25


class Bound(NamedTuple):
    """By when (`time.monotonic`) the answer must be complete, and what ends it earlier."""

    deadline: float
    stop: threading.Event


class _Current(threading.local):
    """The bound of the request that this thread is making."""

    now: Bound = Bound(float("inf"), threading.Event())


bound = _Current()


class _BoundedReader(io.RawIOBase):
    """The bytes of one answer."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, limit: Bound) -> None:
        self._raw, self._sock, self._limit = raw, sock, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        # A TLS socket may hold decrypted bytes that its descriptor no longer shows.
        decrypted = getattr(self._sock, "pending", int)()
        while not decrypted:
            left = self._limit.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer is not complete by its deadline")
            if self._limit.stop.is_set():
                raise ConnectionAbortedError("told to stop")
            self._sock.settimeout(left)
            if wait_for_read(self._sock, min(left, _POLL_SECONDS)):
                break
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_BoundedReader(raw, sock, bound.now))


class _PlainConnection(HTTPConnection):
    response_class = _BoundedResponse


class _TlsConnection(HTTPSConnection):
    response_class = _BoundedResponse


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _PlainPool, "https": _TlsPool}


class BoundedAdapter(HTTPAdapter):
    """A `requests` adapter that reads answers under the bound of the calling thread."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: PoolManager = self.poolmanager
        manager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
