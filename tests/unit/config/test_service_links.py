from __future__ import annotations

import pytest

from traced_relay.config.service_links import is_service_link
from traced_relay.dev import default_rules
from traced_relay.errors import InvalidSettings

KUBERNETES = {
    "RELAY_PORT": "tcp://10.0.0.1:8080",
    "RELAY_SERVICE_HOST": "10.0.0.1",
    "RELAY_SERVICE_PORT": "8080",
    "RELAY_SERVICE_PORT_HTTP": "8080",
    "RELAY_PORT_8080_TCP": "tcp://10.0.0.1:8080",
    "RELAY_PORT_8080_TCP_PROTO": "tcp",
    "RELAY_PORT_8080_TCP_PORT": "8080",
    "RELAY_PORT_8080_TCP_ADDR": "10.0.0.1",
}
SIX = {
    "RELAY_LEDGER_PORT": "udp://[fd00::1]:53",
    "RELAY_LEDGER_SERVICE_HOST": "fd00::1",
    "RELAY_LEDGER_PORT_53_UDP": "udp://[fd00::1]:53",
    "RELAY_LEDGER_PORT_53_UDP_PROTO": "udp",
    "RELAY_URL_PORT": "sctp://10.0.0.1:9",
    "RELAY_1_SERVICE_PORT_GRPC_WEB": "9",
}
DOCKER = {
    "RELAY_NAME": "/web/relay",
    "RELAY_ENV_PATH": "/usr/bin",
    "RELAY_ENV_lower": "",
    "RELAY_PORT_80_TCP_START": "tcp://172.17.0.2:80",
    "RELAY_PORT_80_TCP_END": "tcp://172.17.0.2:81",
    "RELAY_PORT_80_TCP_PORT_START": "80",
    "RELAY_PORT_80_TCP_PORT_END": "81",
}


@pytest.mark.parametrize("environ", [KUBERNETES, SIX, DOCKER], ids=["kubernetes", "other services", "docker"])
def test_the_links_of_a_service_are_ignored(environ: dict[str, str]) -> None:
    assert [name for name in environ if not is_service_link(name, environ)] == []
    assert default_rules.for_dev(rules=None, environ=environ).project == "local"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RELAY_PORT", "8080"),
        ("RELAY_PORT", "tcp://relay:8080"),
        ("RELAY_PORT", "http://10.0.0.1:8080"),
        ("RELAY_PORT", "tcp://10.0.0.1:80801"),
        ("RELAY_PORT", "tcp://10.0.0.1:0"),
        ("RELAY_PORT", ""),
        ("RELAY_PORTS", "tcp://10.0.0.1:8080"),
        ("RELAY_LEGER", "tcp://10.0.0.1:8080"),
        ("RELAY_SERVICE_HOST", "relay"),
        ("RELAY_SERVICE_PORT", "http"),
        ("RELAY_SERVICE_PORTS", "80"),
        ("RELAY_PORT_8080_TCP", "udp://10.0.0.1:8080"),
        ("RELAY_PORT_8080_TCP_PROTO", "udp"),
        ("RELAY_PORT_8080_TCP_ADDR", "10.0.0.256"),
        ("RELAY_PORT_8080_HTTP", "tcp://10.0.0.1:8080"),
        ("RELAY_NAME", "relay"),
        ("RELAY_ENV_PATH", "/usr/bin"),
        ("RELAYS_PORT", "tcp://10.0.0.1:8080"),
    ],
)
def test_a_name_or_a_value_of_another_shape_is_no_link(name: str, value: str) -> None:
    assert not is_service_link(name, {name: value})
    if name.startswith("RELAY_"):
        with pytest.raises(InvalidSettings, match=f"^{name} is not a variable of the relay; "):
            default_rules.for_dev(rules=None, environ={name: value})
