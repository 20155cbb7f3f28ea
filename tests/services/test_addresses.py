"""Whom a request comes from: the peer, or whom trusted proxies say it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fawa.services.addresses import Proxies, holder

TRUSTED = Proxies.of(["10.0.0.0/8", "fd00::/8", "127.0.0.1/32"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # Nobody but a trusted proxy is believed.
        ("192.0.2.1:1234", [], "192.0.2.1"),
        ("192.0.2.1:1234", ["198.51.100.7"], "192.0.2.1"),
        ("[2001:db8::1]:1234", ["198.51.100.7"], "2001:db8::1"),
        ("10.0.0.1:1234", [], "10.0.0.1"),
        ("10.0.0.1:1234", ["198.51.100.7"], "198.51.100.7"),
        ("[fd00::5]:1234", ["2001:db8::7"], "2001:db8::7"),
        # A proxy appends whom it got the request from; what stands before that is anybody's invention.
        ("10.0.0.1:1234", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1:1234", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1:1234", ["203.0.113.9, 198.51.100.7, 10.1.1.1,fd00::1"], "198.51.100.7"),
        ("10.0.0.1:1234", ["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
        ("10.0.0.1:1234", ["203.0.113.9, nonsense, 10.2.2.2"], "10.2.2.2"),
        ("10.0.0.1:1234", ["", ","], "10.0.0.1"),
        ("10.0.0.1:1234", [", ".join(["10.1.1.1"] * 1000)], "10.1.1.1"),
        # With ports, in brackets, as IPv4 within IPv6.
        ("10.0.0.1:1234", ["198.51.100.7:5555"], "198.51.100.7"),
        ("10.0.0.1:1234", ["[2001:db8::7]:5555"], "2001:db8::7"),
        ("[::ffff:10.0.0.1]:1234", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("unix", ["198.51.100.7"], "unix"),
    ],
)
def test_whom_a_request_comes_from(peer: str, forwarded: list[str], client: str) -> None:
    assert TRUSTED.client(peer, forwarded) == client


def test_by_default_no_proxy_is_believed() -> None:
    assert Proxies().client("127.0.0.1:1", ["198.51.100.7"]) == "127.0.0.1"


def test_an_ipv6_network_has_one_holder() -> None:
    assert holder("2001:db8:1:2::1") == holder("2001:db8:1:2:ffff:ffff:ffff:ffff") == "2001:db8:1:2::/64"
    assert holder("2001:db8:1:3::1") != holder("2001:db8:1:2::1")
    assert holder("192.0.2.1") == "192.0.2.1" != holder("192.0.2.2")
    assert holder("::ffff:192.0.2.1") == "::ffff:192.0.2.1"
    assert holder("unix") == "unix"


@given(peer=st.text(max_size=30), forwarded=st.lists(st.text("0123456789abcdef:.,[] ", max_size=30)))
def test_any_header_names_somebody(peer: str, forwarded: list[str]) -> None:
    assert holder(Proxies.of(["0.0.0.0/0", "::/0"]).client(peer, forwarded)) is not None
