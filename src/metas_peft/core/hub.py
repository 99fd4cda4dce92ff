"""Whether a model and data hub can be reached, asked once and briefly.

Client libraries retry for minutes where there is no network; one short connection attempt decides instead.
"""

import functools
import os
import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PROBE_TIMEOUT_S = 3.0


@functools.cache
def hub_is_reachable() -> bool:
    """Whether a connection to the hub (or the proxy in front of it) opens within three seconds.

    Respects `HF_HUB_OFFLINE`, `HF_ENDPOINT` and the usual proxy variables, `NO_PROXY` among them. The answer is kept
    for the process.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    asked, proxies = urlsplit(endpoint), getproxies()
    proxy = None if proxy_bypass(asked.hostname or "") else proxies.get(asked.scheme) or proxies.get("all")
    if proxy and "://" not in proxy:
        proxy = f"http://{proxy}"  # clients take a proxy without a scheme for one that speaks HTTP
    target = urlsplit(proxy or endpoint)
    port = target.port or (80 if target.scheme == "http" else 443)
    opened: list[bool] = []

    def attempt() -> None:
        try:
            with socket.create_connection((target.hostname or "", port), timeout=PROBE_TIMEOUT_S):
                opened.append(True)
        except OSError:
            pass

    # Name resolution has no time-out of its own, so it gets a thread that may be left behind.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(PROBE_TIMEOUT_S)
    return bool(opened)
