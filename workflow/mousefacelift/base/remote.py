"""Files on this machine or on a web server, read from beginning to end."""

import http.client
import io
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

from mousefacelift.base.errors import UserError

TIMEOUT_S = 60
WAITS_S = (1, 2, 4, 8, 16)  # before each new attempt


def is_url(location: str | Path) -> bool:
    """Whether a location is on a web server rather than a path."""
    return str(location).startswith(("http://", "https://"))


def open_binary(location: str, patient: bool = True) -> IO[bytes]:
    """Open a path or an http(s) URL for reading. Raises UserError naming it if that is not possible.

    patient: try for half a minute to reach the server. A connection that fails later is always tried again.
    """
    if is_url(location):
        return io.BufferedReader(_Download(location, patient), 1 << 20)
    try:
        return Path(location).open("rb")
    except OSError as error:
        raise UserError(f"{location}: {error.strerror}") from None


class _Download(io.RawIOBase):
    """A file on a web server. If the connection is lost, another one continues at the byte where it broke off."""

    def __init__(self, url: str, patient: bool) -> None:
        self._url, self._position, self._patient = url, 0, patient
        self._response: Any = None
        self._length: int | None = None
        self._retried(self._connect)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._retried(lambda: self._read(buffer))
        self._position += count
        return count

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        super().close()

    def _read(self, buffer: Any) -> int:
        if self._response is None:
            self._connect()
        count: int = self._response.readinto(buffer)
        if not count and len(buffer) and self._length is not None and self._position < self._length:
            raise http.client.IncompleteRead(b"", self._length - self._position)
        return count

    def _connect(self) -> None:
        request = urllib.request.Request(self._url, headers={"User-Agent": "mousefacelift"})
        if self._position:
            request.add_header("Range", f"bytes={self._position}-")
        self._response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        if self._position and self._response.status != 206:
            raise UserError(f"{self._url}: the connection was lost, and the server cannot continue a download")
        if not self._position and (length := self._response.headers.get("Content-Length")):
            self._length = int(length)

    def _retried(self, action: Any) -> Any:
        """Return what the action returns. If the connection fails, wait and repeat it."""
        for wait in (*WAITS_S, None):
            try:
                return action()
            except urllib.error.HTTPError as error:
                if error.code < 500 or wait is None:
                    raise UserError(f"{self._url}: the server says {error.code} {error.reason}") from None
            except (OSError, http.client.HTTPException) as error:
                if wait is None or not (self._patient or self._position):
                    reason = getattr(error, "reason", error)
                    raise UserError(f"{self._url}: cannot be read ({reason})") from None
            if self._response is not None:
                self._response.close()
                self._response = None
            time.sleep(wait)
        raise AssertionError
