"""Diagnosis of addresses that cannot be opened, for which OpenCV gives no reason."""

from __future__ import annotations

import socket
import threading
from urllib.parse import urlsplit

_WAIT_S = 1.0
_DEADLINE_S = 2.5
_PORTS = {"http": 80, "https": 443, "rtsp": 554}


def connection_problem(address: str) -> str:
    """Probe an http, https or rtsp address; say what is wrong and what to do, without credentials.

    The whole probe has one deadline, whatever the host does: names that are looked up for ever and
    answers that come a byte at a time included.
    """
    said: list[str] = []
    probe = threading.Thread(target=lambda: said.append(_problem(address)), daemon=True)
    probe.start()
    probe.join(_DEADLINE_S)
    return said[0] if said else "it does not answer in full; restart it, or raise --open-timeout"


def _problem(address: str) -> str:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 80)
    except ValueError:
        return "the address is malformed; write it as http://host:port/path"
    if not host:
        return "the address names no host; write it as http://host:port/path"
    try:
        with socket.create_connection((host, port), timeout=_WAIT_S):
            pass
    except socket.gaierror:
        return f"the host {host} is not known; check its name and the network"
    except TimeoutError:
        return f"{host} does not answer on port {port}; check the address, and that the camera is on"
    except OSError as error:
        return f"{host} refuses port {port} ({error.strerror or error}); check the address and the port"
    if parts.scheme == "rtsp":
        return "the host answers, but not with a video; check path, user and password"
    return _http_problem(parts.scheme, host, port, parts.path or "/", bool(parts.query or parts.username))


def _http_problem(scheme: str, host: str, port: int, path: str, has_secrets: bool) -> str:
    import http.client

    # The question is put without credentials and query: they could count as a use of a one-time token.
    kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=_WAIT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        status, reason = answer.status, answer.reason
        content = answer.getheader("Content-Type", "no type")
    except TimeoutError:
        return "it accepts the connection but sends nothing; restart the camera, or raise --open-timeout"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"it does not speak HTTP as expected ({type(error).__name__}); check the address and the port"
    finally:
        connection.close()
    if status in (401, 403):
        return f"it wants a user and password ({status} {reason}); write http://user:password@host/path"
    if status >= 400 and not has_secrets:
        return f"it answers {status} {reason}; check the path"
    if status >= 400:
        return f"it answers {status} {reason} to a request without credentials; check path and credentials"
    return f"it sends {content}, not a video; check the path"
