from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest
from google.auth import crypt, jwt
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import EnvironHeaders, Headers

from traced_relay.api.auth import ANONYMOUS, GOOGLE_ISSUERS, Authenticator, CertificateCache, Certificates
from traced_relay.cloud_tasks.delivery import Dispatch
from traced_relay.config import relay_yaml
from traced_relay.emulator.id_tokens import Signer
from traced_relay.errors import NotAuthorized, Unavailable
from traced_relay.relay.policy import Principal
from traced_relay.runtime.clock import ManualClock, SystemClock
from traced_relay.runtime.loopback import is_local_host

if TYPE_CHECKING:
    from collections.abc import Callable

ISSUER = "https://accounts.google.com"
AUDIENCE = "https://relay.example.com"
REPORTS = "reports@p.iam.gserviceaccount.com"
ONCALL = "oncall@example.com"
QUEUE_ACCOUNT = "queue@p.iam.gserviceaccount.com"
HTTP_WORKER = {"url": "https://relay-x.a.run.app", "service_account": QUEUE_ACCOUNT}
SIGNER, STRANGER = Signer.generate(), Signer.generate()
RIGHT_KEY = crypt.RSASigner.from_string(SIGNER.pem, SIGNER.key_id)
WRONG_KEY = crypt.RSASigner.from_string(STRANGER.pem, SIGNER.key_id)


def authenticator(
    worker: dict[str, str] | None = None,
    *,
    audience: str | None = AUDIENCE,
    fetch: Callable[[], Certificates] = SIGNER.certificates,
    issuers: tuple[str, ...] | None = GOOGLE_ISSUERS,
    trusts_app_engine: bool = True,
    is_local: bool = False,
    open_on_loopback: bool = False,
    clock: ManualClock | None = None,
) -> Authenticator:
    rules = relay_yaml.parse(
        {
            "queues": [{"name": "relay"}, {"name": "relay-callbacks", "for": "callbacks"}],
            "worker": worker or {"app_engine": "default"},
            "audience": audience,
            "callers": [
                {"email": REPORTS, "queues": ["relay"], "downstreams": ["reports"]},
                {"email": ONCALL, "role": "operator", "queues": "*", "downstreams": "*"},
            ],
        },
        "rules",
    )
    return Authenticator(
        rules,
        keys=CertificateCache(fetch, ManualClock()),
        issuers=issuers,
        trusts_app_engine=trusts_app_engine,
        is_local=is_local,
        open_on_loopback=open_on_loopback,
        clock=clock or SystemClock(),
    )


def minted(
    email: str = REPORTS, audience: str = AUDIENCE, *, by: Signer = SIGNER, issuer: str = ISSUER, ago: float = 0
) -> str:
    return by.mint(email, audience, issuer=issuer, now=SystemClock().now() - ago)


def bearing(token: str, **others: str) -> Headers:
    return Headers(
        {"Authorization": f"Bearer {token}"} | {name.replace("_", "-"): value for name, value in others.items()}
    )


def claims(**changes: Any) -> str:
    """A token signed by the right key, with claims as they are given; None leaves one out."""
    now = int(SystemClock().now())
    plain = {"iss": ISSUER, "aud": AUDIENCE, "email": REPORTS, "email_verified": True, "iat": now, "exp": now + 600}
    payload = {name: value for name, value in (plain | changes).items() if value is not None}
    return jwt.encode(RIGHT_KEY, payload).decode()


def unsigned(header: Any, payload: Any = None) -> str:
    parts = (json.dumps(header), json.dumps(payload), "signature")
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


def refusal(admit: Callable[[Headers], object], headers: Headers) -> tuple[int, str]:
    with pytest.raises(NotAuthorized) as refused:
        admit(headers)
    return refused.value.status, refused.value.reason


def test_a_valid_token_of_a_listed_caller_is_accepted() -> None:
    assert authenticator().authenticate_caller(bearing(minted())) == Principal(REPORTS, ["relay"], ["reports"])
    assert authenticator().authenticate_caller(bearing(minted(ONCALL))) == Principal(ONCALL, "*", "*", is_operator=True)


def test_a_token_within_30_s_of_its_times_is_valid() -> None:
    now = int(SystemClock().now())
    assert authenticator().authenticate_caller(bearing(claims(iat=now + 25))).name == REPORTS
    assert authenticator().authenticate_caller(bearing(claims(iat=now - 600, exp=now - 25))).name == REPORTS


def forged(header: dict[str, Any], **changes: Any) -> str:
    """A token of the right key and good claims, under a *header* of the sender's choice."""
    return signed({"alg": "RS256", "typ": "JWT", "kid": SIGNER.key_id} | header, json.loads(part(claims(**changes), 1)))


def signed(header: Any, payload: Any, by: crypt.RSASigner = RIGHT_KEY) -> str:
    texts = (part if isinstance(part, str) else json.dumps(part) for part in (header, payload))
    content = ".".join(encoded(text.encode()) for text in texts)
    return f"{content}.{encoded(by.sign(content.encode()))}"


def encoded(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


def part(token: str, number: int) -> bytes:
    text = token.split(".")[number]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def with_secret_of_the_public_key() -> str:
    """HS256, with the public key as the secret that both sides know (RFC 8725, section 2.1)."""
    content = unsigned({"alg": "HS256", "kid": SIGNER.key_id}, json.loads(part(claims(), 1))).rpartition(".")[0]
    key = SIGNER.certificates()[SIGNER.key_id].encode()
    return f"{content}.{encoded(hmac.digest(key, content.encode(), hashlib.sha256))}"


NOW = int(SystemClock().now())
TEXT_OF_CLAIMS = json.dumps({"iss": ISSUER, "aud": AUDIENCE, "email": REPORTS, "email_verified": True, "iat": NOW})[:-1]
REFUSED_TOKENS: dict[str, list[str | Callable[[], str]]] = {
    "malformed_token": [
        *("x", "x.y.z", "..", "a.b", "é", "\0", "x" * 8193, "x.y.z, Bearer a", "a.b.c.d"),
        lambda: f"{minted()}=",
        lambda: minted().replace("e", "e ", 1),
        lambda: unsigned([], []),
        lambda: signed({"alg": "RS256", "kid": SIGNER.key_id}, [1]),
        lambda: forged({"kid": None}),
        lambda: forged({"kid": ""}),
        lambda: forged({"kid": [1]}),
        lambda: forged({"kid": {"a": 1}}),
        lambda: forged({"kid": 7}),
        lambda: claims(exp=None),
        lambda: claims(iat=None),
        *(
            (lambda name=name, value=value: claims(**{name: value}))
            for name in ("exp", "iat", "nbf")
            for value in (str(NOW + 600), [NOW], {}, True, -1, 10**300, 1e308, 253_402_300_800)
        ),
        *(
            (lambda text=text: signed({"alg": "RS256", "kid": SIGNER.key_id}, f"{TEXT_OF_CLAIMS}, {text}}}"))
            for text in (
                *('"exp": NaN', '"exp": Infinity', '"exp": 1e999', f'"exp": {"9" * 5000}', '"exp": null'),
                *(f'"exp": {NOW + 600}, "exp": {NOW + 600}', f'"exp": {NOW + 600}, "email": "{ONCALL}"'),
                f'"exp": {NOW + 600}, "x": {"[" * 300}{"]" * 300}',
            )
        ),
    ],
    "unsupported_token": [
        lambda: unsigned({"alg": "none"}, {"email": REPORTS}),
        lambda: unsigned({"kid": SIGNER.key_id}, {"email": REPORTS}),
        with_secret_of_the_public_key,
        *(
            (lambda header=header: forged(header))
            for header in (
                *({"alg": alg} for alg in ("None", "rs256", "RS512", "PS256", "ES256", "", None, ["RS256"], 1)),
                *({"crit": crit} for crit in (["exp"], ["b64"], ["alg"], [], "exp", None, {}, [1])),
                *({"b64": False}, {"b64": True}, {"b64": False, "crit": ["b64"]}, {"zip": "DEF"}),
                *({"cty": "JWT"}, {"typ": "at+jwt"}, {"typ": "logout+jwt"}, {"typ": ["JWT"]}, {"typ": None}),
            )
        ),
    ],
    "unknown_key": [
        lambda: minted(by=STRANGER),
        lambda: forged({"kid": "another"}),
        lambda: forged({"kid": "another", "jku": "https://evil.test/keys", "jwk": {}, "x5u": "https://evil.test"}),
    ],
    "bad_signature": [
        lambda: f"{minted()}x",
        lambda: f"{minted().rpartition('.')[0]}.SIGNATURE_REMOVED_BY_GOOGLE",
        lambda: f"{minted().rpartition('.')[0]}.",
        lambda: f"{minted()[:-8]}AAAAAAAA",
        lambda: signed({"alg": "RS256", "kid": SIGNER.key_id}, {"email": REPORTS}, by=WRONG_KEY),
    ],
    "unknown_issuer": [
        lambda: minted(by=STRANGER, issuer="https://securetoken.google.com/p"),
        *((lambda value=value: claims(iss=value)) for value in ("https://accounts.evil.test", None, [ISSUER], 1, "")),
    ],
    "wrong_audience": [
        lambda: minted(audience="https://elsewhere.example.com"),
        *(
            (lambda value=value: claims(aud=value))
            for value in (None, [AUDIENCE], [AUDIENCE, "x"], {}, f"{AUDIENCE}/", AUDIENCE.upper(), "")
        ),
        lambda: claims(aud="32555940559.apps.googleusercontent.com"),
    ],
    "expired": [lambda: minted(ago=3700), lambda: claims(exp=0), lambda: claims(exp=NOW - 3600.5)],
    "not_yet_valid": [
        lambda: minted(ago=-120),
        lambda: claims(iat=SystemClock().now() + 120.5),
        lambda: claims(nbf=SystemClock().now() + 120),
    ],
    "no_email": [*((lambda value=value: claims(email=value)) for value in (None, [REPORTS], "", 1, {"a": REPORTS}))],
    "email_not_verified": [
        *((lambda value=value: claims(email_verified=value)) for value in (None, False, "true", 1, [True]))
    ],
}


@pytest.mark.parametrize(
    ("token", "reason"), [(token, reason) for reason, tokens in REFUSED_TOKENS.items() for token in tokens]
)
def test_a_refusal_has_the_reason_of_the_broken_rule(token: str | Callable[[], str], reason: str) -> None:
    headers = Headers({"Authorization": f"Bearer {token() if callable(token) else token}"})
    for admit in (
        authenticator().authenticate_caller,
        authenticator().check_sweep,
        authenticator(HTTP_WORKER).authenticate_queue,
    ):
        assert refusal(admit, headers) == (401, reason)


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", "Bearer   ", "Basic dTpw", "token", "BearerX y"])
def test_a_missing_bearer_token_has_reason_no_token(value: str | None) -> None:
    headers = Headers({} if value is None else {"Authorization": value})
    assert refusal(authenticator().authenticate_caller, headers) == (401, "no_token")


def test_harmless_token_headers_are_accepted() -> None:
    for header in ({}, {"typ": "jwt"}, {"x5t": "a", "jku": "https://evil.test/keys", "jwk": {}, "url": 1}):
        assert authenticator().authenticate_caller(bearing(forged(header))).name == REPORTS


def test_token_times_may_be_fractions() -> None:
    now = int(SystemClock().now())
    token = claims(iat=now - 0.5, exp=now + 600.25, nbf=now - 1.5)
    assert authenticator().authenticate_caller(bearing(token)).name == REPORTS


def test_the_authenticator_uses_its_clock() -> None:
    at_noon = authenticator(clock=ManualClock(1_800_000_000.0))
    assert at_noon.authenticate_caller(bearing(claims(iat=1_800_000_000, exp=1_800_000_600))).name == REPORTS
    assert refusal(at_noon.authenticate_caller, bearing(minted())) == (401, "expired")


def detail_of(token: str) -> str:
    with pytest.raises(NotAuthorized) as refused:
        authenticator().authenticate_caller(bearing(token))
    return str(refused.value)


def test_a_refusal_states_the_rule() -> None:
    assert detail_of(minted(audience="https://else.example.com")) == (
        f"the token is for another audience; this relay requires {AUDIENCE}"
    )
    expired = claims(iat=1_700_000_000, exp=1_700_000_600)
    assert detail_of(expired) == "the token expired at 2023-11-14T22:23:20.000000Z"
    assert detail_of(claims(iss="https://accounts.evil.test")) == f"the token's issuer (iss) must be {ISSUER}"
    assert detail_of(minted("other@example.com")) == "other@example.com is not among the callers in relay.yaml"


@pytest.mark.parametrize(("exp", "is_said"), [(1_700_000_600, True), (9e9, False), ("1", False), (True, False)])
def test_a_token_of_an_old_key_is_told_that_it_expired_too(exp: object, is_said: bool) -> None:
    token = forged({"kid": "of last year"}, iat=1_700_000_000, exp=exp)
    assert refusal(authenticator().authenticate_caller, bearing(token)) == (401, "unknown_key")
    assert detail_of(token) == "the token's key id (kid) is not among the issuer's current keys" + (
        ", and the token has expired (exp)" if is_said else ""
    )


def test_an_unlisted_account_is_refused() -> None:
    assert refusal(authenticator().authenticate_caller, bearing(minted("other@example.com"))) == (403, "unknown_caller")
    assert refusal(authenticator().authenticate_caller, bearing(minted(REPORTS.upper()))) == (403, "unknown_caller")


def test_a_relay_without_an_audience_accepts_no_token() -> None:
    assert refusal(authenticator(audience=None).authenticate_caller, bearing(minted())) == (401, "no_audience")
    assert refusal(authenticator(audience=None).authenticate_caller, bearing(claims(aud=""))) == (401, "no_audience")


def test_a_deeply_nested_token_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 5000).decode()
    assert refusal(authenticator().authenticate_caller, bearing(f"{deep}.e30.e30")) == (401, "malformed_token")


def test_a_local_relay_accepts_the_issuer_of_its_queue() -> None:
    token = minted(issuer="http://127.0.0.1:8124")
    assert authenticator(issuers=None).authenticate_caller(bearing(token)).name == REPORTS
    assert refusal(authenticator().authenticate_caller, bearing(token)) == (401, "unknown_issuer")


APP_ENGINE = {"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "t"}
CLOUD_TASKS = {"X_CloudTasks_QueueName": "relay", "X_CloudTasks_TaskName": "t"}


@pytest.mark.parametrize("queue", ["relay", "relay-callbacks"])
def test_app_engine_headers_authenticate_the_queue(queue: str) -> None:
    spoken = APP_ENGINE | {"X-AppEngine-QueueName": queue, "X-AppEngine-TaskRetryCount": "2"}
    assert authenticator().authenticate_queue(Headers(spoken)) == Dispatch(queue, "t", 2)


@pytest.mark.parametrize(
    ("headers", "refused"),
    [
        ({}, (403, "not_from_the_queue")),
        ({"X-CloudTasks-QueueName": "relay", "X-CloudTasks-TaskName": "t"}, (403, "not_from_the_queue")),
        ({"X-AppEngine-QueueName": "other", "X-AppEngine-TaskName": "t"}, (403, "unknown_queue")),
        ({"X-AppEngine-QueueName": "relay,other", "X-AppEngine-TaskName": "t"}, (403, "unknown_queue")),
        ({"X-AppEngine-QueueName": "", "X-AppEngine-TaskName": "t"}, (403, "not_from_the_queue")),
        ({"X-AppEngine-QueueName": "relay", "X-CloudTasks-TaskName": "t"}, (403, "no_task_name")),
        ({"X-CloudTasks-QueueName": "relay", "X-AppEngine-TaskName": "t"}, (403, "not_from_the_queue")),
        ({"X-AppEngine-QueueName": "relay"}, (403, "no_task_name")),
    ],
)
def test_incomplete_app_engine_headers_are_refused(headers: dict[str, str], refused: tuple[int, str]) -> None:
    assert refusal(authenticator().authenticate_queue, Headers(headers)) == refused


def test_app_engine_headers_off_app_engine_are_refused() -> None:
    assert refusal(authenticator(trusts_app_engine=False).authenticate_queue, Headers(APP_ENGINE)) == (
        403,
        "not_from_the_queue",
    )
    assert refusal(authenticator(HTTP_WORKER).authenticate_queue, Headers(APP_ENGINE)) == (401, "no_token")


def test_an_http_worker_accepts_only_the_queue_account() -> None:
    admitted = authenticator(HTTP_WORKER).authenticate_queue(bearing(minted(QUEUE_ACCOUNT), **CLOUD_TASKS))
    assert admitted == Dispatch("relay", "t")
    for email in (REPORTS, ONCALL):
        assert refusal(authenticator(HTTP_WORKER).authenticate_queue, bearing(minted(email), **CLOUD_TASKS)) == (
            403,
            "not_from_the_queue",
        )
    assert refusal(authenticator(HTTP_WORKER).authenticate_queue, bearing(minted(QUEUE_ACCOUNT))) == (
        403,
        "no_task_name",
    )
    other = CLOUD_TASKS | {"X_CloudTasks_QueueName": "other"}
    assert refusal(authenticator(HTTP_WORKER).authenticate_queue, bearing(minted(QUEUE_ACCOUNT), **other)) == (
        403,
        "unknown_queue",
    )


@pytest.mark.parametrize(
    ("mixed", "refused"),
    [
        ({"X-AppEngine-QueueName": "relay", "X-AppEngine-TaskName": "t"}, (403, "no_task_name")),
        ({"X-AppEngine-QueueName": "relay", "X-CloudTasks-TaskName": "t"}, (403, "unknown_queue")),
        ({"X-CloudTasks-QueueName": "relay", "X-AppEngine-TaskName": "t"}, (403, "no_task_name")),
    ],
)
def test_a_token_does_not_validate_app_engine_headers(mixed: dict[str, str], refused: tuple[int, str]) -> None:
    headers = Headers({"Authorization": f"Bearer {minted(QUEUE_ACCOUNT)}"} | mixed)
    assert refusal(authenticator(HTTP_WORKER).authenticate_queue, headers) == refused


def test_headers_of_the_other_family_are_ignored() -> None:
    of_app_engine = APP_ENGINE | {"X-AppEngine-TaskName": "a"}
    of_cloud_tasks = {"X-CloudTasks-QueueName": "relay-callbacks", "X-CloudTasks-TaskName": "c"}
    both = Headers({"Authorization": f"Bearer {minted(QUEUE_ACCOUNT)}"} | of_app_engine | of_cloud_tasks)
    assert authenticator().authenticate_queue(both) == Dispatch("relay", "a")
    assert authenticator(HTTP_WORKER).authenticate_queue(both) == Dispatch("relay-callbacks", "c")


def test_an_open_relay_needs_no_token() -> None:
    assert authenticator(open_on_loopback=True).authenticate_caller(Headers()) == ANONYMOUS


def test_a_local_relay_accepts_only_loopback_hosts() -> None:
    local = authenticator(is_local=True)
    for host in ("localhost:8080", "127.0.0.1", "[::1]:1"):
        local.check_host(host)
    for host in ("", "rebound.example:8080", "relay.example.com"):
        with pytest.raises(NotAuthorized) as refused:
            local.check_host(host)
        assert (refused.value.status, refused.value.reason) == (403, "foreign_host")
        authenticator().check_host(host)


FROM_ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": ""},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:3000"},
    {"Origin": "http://localhost:8080.evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
]


@pytest.mark.parametrize("marks", FROM_ELSEWHERE)
def test_an_open_relay_refuses_cross_site_requests(marks: dict[str, str]) -> None:
    headers = Headers({"Host": "localhost:8080"} | marks)
    with pytest.raises(NotAuthorized) as refused:
        authenticator(open_on_loopback=True).check_site(headers)
    assert (refused.value.status, refused.value.reason) == (403, "foreign_site")
    authenticator().check_site(headers)  # here a token is wanted, and no page of another site has one


@pytest.mark.parametrize(
    "marks", [{}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin", "Origin": "http://LOCALHOST:8080"}]
)
def test_programs_and_same_origin_pages_are_accepted(marks: dict[str, str]) -> None:
    authenticator(open_on_loopback=True).check_site(Headers({"Host": "localhost:8080"} | marks))


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080")),
        *(
            (host, False)
            for host in ("", "localhost.", "localhost.evil.test", "127.0.0.1.evil.test", "127.0.0.2", "0.0.0.0")
        ),
        *(
            (host, False)
            for host in ("::1", "[::1]evil.test", "[::1", "localhost:80:80", "localhost@evil.test", "localhost\n")
        ),
    ],
)
def test_is_local_host_accepts_loopback_names(host: str, expected: bool) -> None:
    assert is_local_host(host) is expected


def test_a_principal_may_use_listed_names_or_all() -> None:
    some, every = Principal("a@b", ("relay",), ("reports",)), Principal("a@b", "*", "*")
    assert [some.may_use_queue(queue) for queue in ("relay", "other")] == [True, False]
    assert [some.may_call(rule) for rule in ("reports", "partner")] == [True, False]
    assert every.may_use_queue("other")
    assert every.may_call("partner")


def unreachable() -> Certificates:
    raise Unavailable("certificates cannot be fetched")


def test_missing_certificates_are_unavailable_not_refused() -> None:
    with pytest.raises(Unavailable):
        authenticator(fetch=unreachable).authenticate_caller(bearing(minted()))
    assert refusal(authenticator(fetch=unreachable).authenticate_caller, Headers()) == (401, "no_token")


TEXTS = st.text(alphabet=st.characters(exclude_categories=[]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
HEADERS_OF_TOKENS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "cty", "zip", "jwk"]),
    st.sampled_from(["RS256", "ES256", "none", SIGNER.key_id, "JWT"]) | VALUES,
)
CLAIMS = st.dictionaries(st.sampled_from(["iss", "aud", "exp", "iat", "nbf", "email_verified", "sub"]), VALUES)
TOKENS = (
    TEXTS
    | st.binary().map(lambda octets: octets.decode("latin-1"))
    | st.builds(unsigned, HEADERS_OF_TOKENS | st.lists(st.none()), st.dictionaries(TEXTS, TEXTS))
    | HEADERS_OF_TOKENS.map(lambda header: forged(header, email="nobody@example.com"))
    | CLAIMS.map(lambda changes: claims(**{"email": "nobody@example.com"} | changes))
    | st.tuples(TEXTS, st.integers(0, 500)).map(lambda edit: VALID[: edit[1]] + edit[0] + VALID[edit[1] :])
)
VALID = minted("nobody@example.com")


@pytest.mark.parametrize("fetch", [SIGNER.certificates, unreachable])
@given(scheme=st.sampled_from(["Bearer ", "bearer ", "", "Bearer"]), token=TOKENS)
def test_no_token_raises_anything_but_not_authorized(
    fetch: Callable[[], Certificates], scheme: str, token: str
) -> None:
    headers = EnvironHeaders({"HTTP_AUTHORIZATION": scheme + token})
    for admit in (
        authenticator(fetch=fetch).authenticate_caller,
        authenticator(HTTP_WORKER, fetch=fetch).authenticate_queue,
    ):
        with pytest.raises((NotAuthorized, Unavailable)):
            admit(headers)
