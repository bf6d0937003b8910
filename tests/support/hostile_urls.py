"""URLs by which a caller might reach what only this machine, its network or its cloud may reach."""

# ruff: noqa: RUF001  (what looks like something else is the point)

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_look_up = socket.getaddrinfo

# The port is put in for PORT. What stands here is spelt in every way that some resolver or parser understands.
LOOPBACK = """
    http://127.0.0.1:PORT/                      http://127.0.0.1:PORT/?url=https://good.example/
    http://127.1:PORT/                          http://127.0.1:PORT/
    http://127.000.000.001:PORT/                http://0177.0.0.1:PORT/
    http://0177.0.0.01:PORT/                    http://00000177.1:PORT/
    http://017700000001:PORT/                   http://0x7f.0.0.1:PORT/
    http://0x7f.0x0.0x0.0x1:PORT/               http://0x7f.1:PORT/
    http://0x7f000001:PORT/                     http://0X7F000001:PORT/
    http://2130706433:PORT/                     http://127.65535:PORT/
    http://127.0x1:PORT/                        http://127.255.255.254:PORT/
    http://127.0.0.1.:PORT/                     http://localhost:PORT/
    http://LOCALHOST:PORT/                      http://localhost.:PORT/
    http://localhost.localdomain:PORT/          http://%6c%6f%63%61%6c%68%6f%73%74:PORT/
    http://127%2e0%2e0%2e1:PORT/                http://[::1]:PORT/
    http://[0:0:0:0:0:0:0:1]:PORT/              http://[::0001]:PORT/
    http://[::ffff:127.0.0.1]:PORT/             http://[::ffff:7f00:1]:PORT/
    http://[0:0:0:0:0:ffff:127.0.0.1]:PORT/     http://[::FFFF:7F00:0001]:PORT/
    http://[::127.0.0.1]:PORT/                  http://[::ffff:0:127.0.0.1]:PORT/
    http://[64:ff9b::127.0.0.1]:PORT/           http://[64:ff9b:1::7f00:1]:PORT/
    http://[2002:7f00:1::]:PORT/                http://[2001:0:7f00:1::80ff:fffe]:PORT/
    http://[::1%25lo]:PORT/                     http://[fe80::1%25lo]:PORT/
    http://[::1%lo]:PORT/                       http://[::ffff:127.0.0.1%25lo]:PORT/
    http://0:PORT/                              http://0.0.0.0:PORT/
    http://0.1:PORT/                            http://[::]:PORT/
    http://[0::0]:PORT/                         http://[::ffff:0.0.0.0]:PORT/
    http://①②⑦.⓪.⓪.①:PORT/                     http://１２７．０．０．１:PORT/
    http://127。0。0。1:PORT/                     http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:PORT/
    http://loc%61lhost:PORT/                    http://١٢٧.٠.٠.١:PORT/
    http://good.example@127.0.0.1:PORT/         http://good.example:80@127.0.0.1:PORT/
    http://127.0.0.1:PORT#@good.example/        http://127.0.0.1:PORT\\@good.example/
    http://good.example\\@127.0.0.1:PORT/        http:\\\\127.0.0.1:PORT/
    http:/127.0.0.1:PORT/                       http:127.0.0.1:PORT/
    http:///127.0.0.1:PORT/                     //127.0.0.1:PORT/
    http://127.0.0.1:PORT:80/                   http://127.0.0.1:80:PORT/
    http://user@good.example@127.0.0.1:PORT/    http://good.example%23@127.0.0.1:PORT/
    http://good.example%00@127.0.0.1:PORT/      http://127.0.0.1%00.good.example:PORT/
    http://127.0.0.1%09:PORT/                   http://127.0.0.1%0d%0aX-A:b@127.0.0.1:PORT/
    hTTp://127.0.0.1:PORT/                      http+unix://127.0.0.1:PORT/
    https://127.0.0.1:PORT/                     https://[::ffff:127.0.0.1]:PORT/
    gopher://127.0.0.1:PORT/_GET                ftp://127.0.0.1:PORT/
    dict://127.0.0.1:PORT/info                  ldap://127.0.0.1:PORT/
    tftp://127.0.0.1:PORT/x                     ws://127.0.0.1:PORT/
    jar:http://127.0.0.1:PORT/!/                view-source:http://127.0.0.1:PORT/
    url:http://127.0.0.1:PORT/                  file:///etc/passwd
    data:text/plain,hello                       javascript:alert(1)
"""

# Nothing on the test's machine answers there; that it was not even tried shows in how the call ends.
ELSEWHERE = """
    http://169.254.169.254/computeMetadata/v1/  http://169.254.169.254:80/latest/meta-data/
    http://2852039166/                          http://0xa9fea9fe/
    http://0xA9.0xFE.0xA9.0xFE/                 http://0251.0376.0251.0376/
    http://169.16689662/                        http://169.254.43518/
    http://[::ffff:169.254.169.254]/            http://[::ffff:a9fe:a9fe]/
    http://[64:ff9b::a9fe:a9fe]/                http://[2002:a9fe:a9fe::]/
    http://[::a9fe:a9fe]/                       http://[fd20:ce::254]/
    http://[fe80::a9fe:a9fe]/                   http://169.254.0.1/
    http://255.255.255.255/                     http://224.0.0.1/
    http://192.0.0.192/                         http://100.100.100.200/
    http://168.63.129.16/                       http://[fd00:ec2::254]/
    http://[ff02::1]/                           http://[2001:db8::1]/
    http://[fec0::1]/                           http://[100::1]/
    http://[5f00::1]/                           http://[4000::1]/
"""

PRIVATE = """
    http://10.0.0.1/                            http://0xa.1/
    http://172.16.0.1/                          http://192.168.0.1/
    http://3232235521/                          http://100.64.0.1/
    http://[fc00::1]/                           http://[fd00::1]/
    http://[::ffff:10.0.0.1]/                   http://[::ffff:c0a8:1]/
    http://240.0.0.1/                           http://198.18.0.1/
    http://192.0.2.1/                           http://192.0.0.1/
    http://198.51.100.1/                        http://203.0.113.1/
    http://255.255.255.254/                     http://0xf0000001/
"""

# Paths by which a caller whose rule ends in /public/ might reach /private, or something beside it.
PATHS = r"""
    /public/../private                 /public/a/../../private            /public/./../private
    /public/..                         /public/.                          /public/../
    /public/%2e%2e/private             /public/.%2E/private               /public/%2E./private
    /public/..%2fprivate               /public/..%2Fprivate               /public/%2e%2e%2fprivate
    /public/..%5cprivate               /public/..\private                 /public/..%5C..%5Cprivate
    /public\..\private                 /public%5c..%5cprivate             /public%2f..%2fprivate
    /public/a%2f..%2f..%2fprivate      /public/a%5c..%5c..%5cprivate      /public/a\..\..\private
    /public/..;/private                /public/..;x/private               /public/..;x=1/private
    /public/..;x=%2f/private           /public/%2e%2e;/private            /public/%2e%2e%3b/private
    /public/%2e%2e%3Bx=1/private       /public/.;/../private              /public/..%3b/private
    /public/;x/..;y/private            /public/..;/..;/private            /public/a;x=1/..;/..;/private
    /public;x=1/../private             /public;/..;/private               /public;/private
    /public/%252e%252e/private         /public/%252e%252e%252fprivate     /public/..%252fprivate
    /public/%25252e%25252e/private     /public/..%255cprivate             /public/%25%32%65%25%32%65/private
    /public/%2525252525252525252525252e%2525252525252525252525252e/private
    /public/%c0%ae%c0%ae/private       /public/%C0%AE%C0%AE%C0%AFprivate  /public/..%c0%afprivate
    /public/%e0%80%ae%e0%80%ae/private /public/%f0%80%80%ae%f0%80%80%ae/private
    /public/%f8%80%80%80%ae%f8%80%80%80%ae/private
    /public/..%c1%9cprivate            /public/%25c0%25ae%25c0%25ae/private
    /public/%ef%bc%8e%ef%bc%8e/private /public/..%ef%bc%8fprivate         /public/..%ef%bc%bcprivate
    /public/%e2%80%a5/private          /public/%e2%80%a4%e2%80%a4/private /public/..%e2%88%95private
    /public/..%e2%81%84private         /public/%ef%b9%92%ef%b9%92/private /public/..%ef%bc%9b/private
    /public/..%ef%bc%852fprivate       /public/x%e2%88%95..%e2%88%95..%e2%88%95private
    /public/%u002e%u002e/private       /public/%25u002e%25u002e/private   /public/%uff0e%uff0e/private
    /public/..%u2215private            /public/..%25u2215private          /public/..%u005cprivate
    /public/..%00/private              /public/..%00x/private             /public/.%00./private
    /public/x%00/../../private         /public/..%20/private              /public/.%09./private
    /public/.%0a./private              /public/..%0d%0a/private           /public/x%0d%0aGET%20/private
    /public/..%e2%80%8b/private        /public/..%c2%ad/private           /public/..%ef%bb%bf/private
    /public/.../private                /public/....//private              /public/..../private
    /public/..%2e/private              /public/..::$INDEX_ALLOCATION/private
    /public/..+/private                /public/..,/private                /public/..%3f/private
    /public/..%23/private              /public/(S(x))/../private          /public//../private
    /public/%2f/../private             /public/%2f%2f..%2f..%2fprivate    //public/../private
    //public/private                   /%70ublic/private                  /%2570ublic/private
    /Public/private                    /PUBLIC                            /public%00/private
    /public%20/private                 /public./private                   /public../private
    /private/../public                 /private/..%2fpublic               /private%2f..%2fpublic
    /private/..;/public                /./public                          /;x=1/public
    /%2fpublic                         /\public                           /publicity
    /private                           /                                  /..
"""
ORDINARY_PATHS = """
    /public                            /public/                           /public/a
    /public/a/b                        /public/a..b                       /public/..foo
    /public/foo..                      /public/a.b                        /public/.well-known/x
    /public/;v=1                       /public/a;v=1.2/b                  /public/a;b=c;d
    /public/%20x                       /public/x%20y                      /public/a%2Fb
    /public/CORP%5calice               /public//a                         /public/a//
    /public/100%25                     /public/a%2520b                    /public/a%3Fb%23c
    /public/caf%C3%A9.pdf              /public/%E6%97%A5%E6%9C%AC         /public/%F0%9F%8E%89.png
    /public/v1.0/x                     /public/.5                         /public/1.
    /public/-                          /public/~a                         /public/a@b:c
    /public/Items('a.b')               /public/[x]|y                      /public/$metadata
    /public/a+b,c                      /public/*                          /public/public
    /public/%e2%80%9ca.b%e2%80%9d      /public/projects/p/tasks/t:run     /public/%7Ea/%2C
"""

# Names, and the addresses that each lookup of them gives, the last one for ever.
NAMES: dict[str, Sequence[Sequence[str]]] = {
    "private.example": [["127.0.0.1"]],
    "private6.example": [["::1"]],
    "mapped.example": [["::ffff:127.0.0.1"]],
    "nat64.example": [["64:ff9b::7f00:1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "mixed.example": [["169.254.169.254", "127.0.0.1"]],
    "mixed6.example": [["::1", "127.0.0.1", "fd20:ce::254"]],
    "rebinding.example": [["127.0.0.1"], ["169.254.169.254"]],
    "zone.example": [["fe80::1%lo"]],
    "127.0.0.1.nip.example": [["127.0.0.1"]],
    "xn--127-0-0-1.example": [["127.0.0.1"]],
    "nonsense.example": [["not an address"]],
    "nothing.example": [[]],
}

BY_NAME = [f"http://{name}:PORT/" for name in NAMES] + [f"https://{name}:PORT/" for name in list(NAMES)[:3]]
CORPUS = [*LOOPBACK.split(), *ELSEWHERE.split(), *PRIVATE.split(), *BY_NAME]


@dataclass
class Names:
    """A resolver that answers for NAMES, and leaves addresses to the machine's own; no other name leaves it."""

    asked: list[str] = field(default_factory=list)
    answers: dict[str, Sequence[Sequence[str]]] = field(default_factory=lambda: NAMES)

    def __call__(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else str(host)
        turns = self.answers.get(name.rstrip(".").lower())
        if turns is None:
            return _by_the_machine(name, port)
        turn = turns[min(self.asked.count(name), len(turns) - 1)]
        self.asked.append(name)
        return [_entry(address, port) for address in turn]


def _entry(address: str, port: int) -> Any:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)


def _by_the_machine(name: str, port: Any) -> list[Any]:
    """What takes no server: addresses in any spelling, and localhost."""
    is_local = name.rstrip(".").lower() in ("localhost", "localhost.localdomain")
    flags = 0 if is_local else socket.AI_NUMERICHOST
    return _look_up("localhost" if is_local else name, port, type=socket.SOCK_STREAM, flags=flags)
