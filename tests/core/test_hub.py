"""Asking once, briefly, whether there is a network."""

import socket
import time

import pytest

from metas_peft.core import hub


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_ENDPOINT", *(f"{n}_PROXY" for n in ("HTTPS", "HTTP", "ALL", "NO"))):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    hub.hub_is_reachable.cache_clear()
    yield
    hub.hub_is_reachable.cache_clear()


def test_listening_endpoint_is_reachable(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.hub_is_reachable()


def test_closed_port_is_not(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    assert not hub.hub_is_reachable()


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_stands_in_for_the_hub_with_and_without_a_scheme(monkeypatch, scheme):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
        assert hub.hub_is_reachable()
        hub.hub_is_reachable.cache_clear()
        monkeypatch.setenv("NO_PROXY", "hub.invalid")
        assert not hub.hub_is_reachable()


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_offline_switch_is_obeyed_without_a_connection(monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("connected"))
    assert not hub.hub_is_reachable()


def test_silent_network_costs_a_few_seconds_once(monkeypatch):
    monkeypatch.setattr(hub, "PROBE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: time.sleep(5))
    started = time.monotonic()
    assert not hub.hub_is_reachable()
    assert not hub.hub_is_reachable()
    assert time.monotonic() - started < 1.0
