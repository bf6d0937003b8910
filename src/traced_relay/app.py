"""Composition root: settings in, a running relay out."""

from __future__ import annotations

import logging
import random
import uuid
from typing import TYPE_CHECKING

import google.auth
import requests
from flask import request
from google.auth.exceptions import GoogleAuthError

from traced_relay.api.auth import GOOGLE_ISSUERS, Authenticator, CertificateCache, Certificates
from traced_relay.api.list_pacing import ListPacer
from traced_relay.api.middleware import AuthMiddleware
from traced_relay.api.readiness import Readiness
from traced_relay.api.routes import Api
from traced_relay.api.task_reader import TaskReader
from traced_relay.cloud_tasks.client import CloudTasks
from traced_relay.cloud_tasks.queue_status import QueueStatuses
from traced_relay.downstream.rules import Downstream
from traced_relay.downstream.sender import Sender
from traced_relay.downstream.signing_secrets import SigningSecrets
from traced_relay.errors import InvalidSettings, Unavailable
from traced_relay.ledger.location import firestore_collection, sqlite_file
from traced_relay.ledger.sqlite import SqliteLedger
from traced_relay.relay.actions import TaskActions
from traced_relay.relay.admission import Admission
from traced_relay.relay.commit import StepApplier
from traced_relay.relay.dispatch import DispatchHandler
from traced_relay.relay.enqueue import Enqueuer
from traced_relay.relay.lease import LeaseKeeper
from traced_relay.relay.policy import Policy, Receiver
from traced_relay.relay.running_calls import RunningCalls
from traced_relay.relay.sweeper import Sweeper
from traced_relay.relay.task_log import TaskLog
from traced_relay.runtime.clock import Clock, SystemClock
from traced_relay.runtime.credentials import IdTokens
from traced_relay.runtime.google_credentials import why_none
from traced_relay.runtime.periodic import Periodic
from traced_relay.tasks.callback import CallbackBuilder
from traced_relay.tasks.state_machine import WorkerIdentity
from traced_relay.tasks.status_document import Links
from traced_relay.tracing import instrumentation
from traced_relay.tracing.provider import tracer_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication
    from opentelemetry.trace import TracerProvider

    from traced_relay.config.settings import Settings
    from traced_relay.ledger.protocol import Ledger
    from traced_relay.logs.writer import Log

_logger = logging.getLogger(__name__)
_random = random.SystemRandom().random
_ORIGIN = "traced_relay.origin"  # in the environ of a request, since it is asked for several times
_GOOGLE_CERTIFICATES = "https://www.googleapis.com/oauth2/v1/certs"


class Application:
    """
    One relay: a WSGI application and its background work, between `start` and `close`.

    *has_console* makes links point to this process's own pages. *sender* replaces the usual one; `close` closes it.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        log: Log,
        provider: TracerProvider,
        clock: Clock | None = None,
        has_console: bool = False,
        sender: Sender | None = None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._clock = clock or SystemClock()
        self._tracer = tracer_of(provider)
        self._client_spans = instrumentation.ClientSpans(provider)
        self._worker = WorkerIdentity(uuid.uuid4().hex, settings.version, settings.instance)
        self._task_log = TaskLog(log, settings.queue_prefix)
        self.ledger = _open_ledger(settings, self._clock)
        self._cloud_tasks = self._make_cloud_tasks()
        self._sender = sender or Sender(self._clock, IdTokens().token, connections=settings.threads)
        self._signing_secrets = SigningSecrets(self._clock)
        self._running_calls = RunningCalls(
            self._clock,
            self._task_log,
            self.ledger,
            worker=self._worker.id,
            capacity=settings.max_running,
            heartbeat=settings.rules.heartbeat,
        )
        self._lease_keeper = LeaseKeeper(self.ledger, self._worker.id, self._clock, self._running_calls)
        self._has_console = has_console
        self._is_started = False
        self._step_applier = self._make_step_applier()
        self._sweeper = self._make_sweeper()
        every = None if settings.has_cron else settings.rules.sweep_every
        self._periodic_sweep = Periodic("the sweep", every, self._sweeper.sweep, self._clock, at_once=True)
        self.app = self._make_api().flask_app()
        instrumentation.instrument(self.app, provider)
        self.wsgi: WSGIApplication = AuthMiddleware(self.app.wsgi_app, self._make_authenticator(), self._task_log)

    def _make_cloud_tasks(self) -> CloudTasks:
        settings = self._settings
        return CloudTasks(
            queue_prefix=settings.queue_prefix,
            worker=settings.rules.worker,
            audience=settings.rules.audience,
            emulator=settings.emulator,
        )

    def _make_step_applier(self) -> StepApplier:
        settings = self._settings
        return StepApplier(
            ledger=self.ledger,
            cloud_tasks=self._cloud_tasks,
            task_log=self._task_log,
            clock=self._clock,
            callback_builder=CallbackBuilder(
                settings.callback_queue or "", settings.rules.callback_first_wait, self._links
            ),
        )

    def _make_sweeper(self) -> Sweeper:
        return Sweeper(
            ledger=self.ledger,
            cloud_tasks=self._cloud_tasks,
            task_log=self._task_log,
            clock=self._clock,
            random=_random,
            step_applier=self._step_applier,
            holder_of=self._running_calls.holder_of,
            grace=self._settings.rules.sweep_every,
        )

    def _make_api(self) -> Api:
        settings, policy = self._settings, self._make_policy()
        readiness = Readiness(
            self._clock,
            self.ledger,
            lambda: self._cloud_tasks.check_queue(settings.call_queues[0]),
            self._lease_keeper.refusal,
        )
        return Api(
            enqueuer=self._make_enqueuer(policy),
            dispatch_handler=self._make_dispatch_handler(policy),
            tasks=TaskReader(
                ledger=self.ledger,
                clock=self._clock,
                retention=settings.rules.retention,
                pacer=ListPacer(SystemClock()),  # processor time passes in no other
                links=self._links_here,
            ),
            actions=TaskActions(
                ledger=self.ledger, step_applier=self._step_applier, clock=self._clock, abort=self._abort
            ),
            sweeper=self._sweeper,
            queue_statuses=self._make_queue_statuses(),
            task_log=self._task_log,
            is_ready=readiness.is_ready,
        )

    def _make_queue_statuses(self) -> QueueStatuses:
        listed = [(queue.name, queue.use) for queue in self._settings.rules.queues]
        return QueueStatuses(listed, self._cloud_tasks.get_queue_stats, self._clock)

    def _make_policy(self) -> Policy:
        settings, rules = self._settings, self._settings.rules
        return Policy(
            queues=settings.call_queues,
            downstreams=rules.downstreams,
            retry=rules.retry,
            max_timeout=settings.max_timeout,
            own_hosts=settings.own_hosts,
            receivers=[
                Receiver(
                    Downstream(name="callback", url=listed.url, auth="none", allow_private=listed.allow_private),
                    listed.secret or settings.callback_secret,
                )
                for listed in rules.callbacks
            ],
        )

    def _make_enqueuer(self, policy: Policy) -> Enqueuer:
        worker = self._settings.rules.worker
        return Enqueuer(
            admission=Admission(policy, self._clock),
            ledger=self.ledger,
            cloud_tasks=self._cloud_tasks,
            task_log=self._task_log,
            tracer=self._tracer,
            clock=self._clock,
            step_applier=self._step_applier,
            direct_account=worker.service_account or f"{self._settings.project}@appspot.gserviceaccount.com",
            links=self._links_here,
        )

    def _make_dispatch_handler(self, policy: Policy) -> DispatchHandler:
        return DispatchHandler(
            ledger=self.ledger,
            cloud_tasks=self._cloud_tasks,
            sender=self._sender,
            task_log=self._task_log,
            tracer=self._tracer,
            client_spans=self._client_spans,
            clock=self._clock,
            random=_random,
            policy=policy,
            worker=self._worker,
            running_calls=self._running_calls,
            step_applier=self._step_applier,
            signing_keys=self._signing_secrets.of,
            origin=self._origin,
        )

    def _abort(self, worker: str, attempt_name: str) -> None:
        """Abort a running call: here at once, elsewhere when that worker renews its lease."""
        if worker == self._worker.id:
            self._running_calls.abort(attempt_name)
        else:
            self.ledger.abort(worker, attempt_name)

    def _links(self, origin: str) -> Links:
        return Links(origin, self._settings.project, f"{origin}/console" if self._has_console else None)

    def _links_here(self) -> Links:
        """Links on the host of the current request."""
        return self._links(self._origin())

    def _make_authenticator(self) -> Authenticator:
        settings = self._settings
        return Authenticator(
            settings.rules,
            keys=CertificateCache(self._certificates, self._clock),
            issuers=None if settings.is_local else GOOGLE_ISSUERS,
            trusts_app_engine=settings.platform in ("app_engine", "local"),
            is_local=settings.is_local,
            open_on_loopback=settings.open_on_loopback,
            clock=self._clock,
        )

    @staticmethod
    def check(settings: Settings) -> None:
        """Raise at start what would end a worker later: a ledger that does not open, missing Google credentials."""
        _open_ledger(settings, SystemClock()).close()
        if settings.emulator is None:
            try:
                google.auth.default()
            except GoogleAuthError as exc:
                raise InvalidSettings(f"no Google credentials: {why_none(exc)}") from exc

    def start(self) -> None:
        self._is_started = True
        self._lease_keeper.start()
        self._running_calls.start()
        self._periodic_sweep.start()
        settings = self._settings
        self._log.write("relay.started", message=f"traced-relay {settings.version} on {settings.instance}", fields={})

    def check_tasks(self) -> None:
        """Find at once the tasks that a purge removed; the sweep would find them after they were due."""
        self._sweeper.check_all()

    def interrupt(self, signal: str) -> None:
        """
        Abort all running calls and record that in the ledger; the next deliveries judge them.

        For the time between a signal and the end of the process; a second call does nothing.
        """
        self._log.stop_waiting()
        unsent = self._running_calls.stop(signal)
        if unsent is None:
            return
        try:
            self.ledger.stop(self._worker.id, unsent)
        except Unavailable as exc:
            _logger.warning("the ledger does not know that this worker stopped: %s", exc)
        self._running_calls.abort_all()

    def close(self) -> None:
        self._sweeper.stop()
        if self._is_started:
            self.interrupt("close")
        self._periodic_sweep.stop()
        self._lease_keeper.stop()
        self._sender.close()
        self._signing_secrets.close()
        self._cloud_tasks.close()
        self.ledger.close()

    def _certificates(self) -> Certificates:
        if self._settings.is_local:
            return self._cloud_tasks.local_certificates()
        try:
            response = requests.get(_GOOGLE_CERTIFICATES, timeout=5)
            response.raise_for_status()
            certificates: Certificates = response.json()
        except (requests.RequestException, ValueError) as exc:
            raise Unavailable("Google's certificates cannot be fetched") from exc
        return certificates

    def _origin(self) -> str:
        """Scheme and host of the request; App Engine and Cloud Run terminate TLS in front of this process."""
        origin: str | None = request.environ.get(_ORIGIN)
        if origin is None:
            scheme = "https" if self._settings.platform in ("app_engine", "cloud_run") else request.scheme
            origin = request.environ[_ORIGIN] = f"{scheme}://{request.host}"
        return origin


def _open_ledger(settings: Settings, clock: Clock) -> Ledger:
    """Of Firestore nothing is asked yet, so this may happen before a fork; a file is opened, or made."""
    collection, retention = firestore_collection(settings.ledger), settings.rules.retention
    if collection is None:
        return SqliteLedger(clock, sqlite_file(settings.ledger), retention=retention)
    try:
        from traced_relay.ledger.firestore.ledger import FirestoreLedger
    except ImportError as exc:
        raise InvalidSettings(f"RELAY_LEDGER {settings.ledger} needs: pip install 'traced-relay[firestore]'") from exc
    return FirestoreLedger(settings.project, *collection, retention=retention)
