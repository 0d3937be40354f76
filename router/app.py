"""The router's process, put together.

1. `Router.start` connects to the workers (WorkerPool), then serves gRPC and HTTP.
2. `InferenceService.Generate` gets a request. `Intake.parse` makes a Job of it, or refuses it.
3. `Journeys.run` admits the job, places it, waits for its turn, sends it, and yields its deltas.
   router/journey/journey.py numbers these steps.
4. `to_response` makes a message of each delta; `write` sends it to the client.
5. `AdminService` and `Scaler` change the workers meanwhile.
6. `Router.stop` refuses new requests, lets running ones end, ends the rest, and disconnects.
"""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common.certificates import OPEN, WorkerAccess
from common.config import SecurityConfig
from common.engine.weights.folder import read_eos_token_ids
from common.messages import Role, WorkerInfo
from common.router_config import RouterConfig
from common.rpc.channel import SERVER_OPTIONS, SHARING_SERVER_OPTIONS
from common.telemetry.tracing.tracing import NO_TRACING, Tracing
from common.uninterrupted import uninterrupted
from pdserve.errors import SetupError
from pdserve.v1 import admin_pb2_grpc, inference_pb2_grpc
from router.access.server_security import ServerSecurity
from router.admission.admission import Admission
from router.admission.drain import await_ends, end_rest
from router.admission.fair_queue import FairQueue
from router.admission.prompt_queue import PromptQueue, Turn
from router.admission.wait_limit import WaitLimit
from router.edge.admin import AdminService
from router.edge.block_ledgers import BlockLedgers
from router.edge.explain import Explainer
from router.edge.health import HealthReport
from router.edge.http import HttpServer
from router.edge.inference import InferenceService
from router.edge.live.gate import Gate
from router.edge.live.pages import LivePages
from router.edge.live.sources import Sources
from router.edge.openai.app import OpenAiPages
from router.edge.openai.server import OpenAiServer, listen
from router.edge.resume import Resumables
from router.edge.router_state import RouterState
from router.edge.vllm.registration import add_vllm_service
from router.intake.generation_config import choose_sampling_defaults
from router.intake.grammar_checker import GrammarChecker
from router.intake.intake import Intake
from router.intake.job import Limits
from router.intake.tokenizer import Tokenizer
from router.journey.decisions import DecisionLog
from router.journey.dispatch import Dispatcher
from router.journey.journey import Journeys
from router.journey.live_request import Resources
from router.journey.metric_sets import make_metrics
from router.journey.placement import Placement
from router.journey.relocation import Relocation
from router.journey.work_ids import WorkIds
from router.routing.policy import make_policy
from router.scaling.fleet import FixedFleet, Fleet
from router.scaling.scaler import Scaler
from router.scaling.watchdog import Watchdog
from router.workers.membership import Membership
from router.workers.outage import Outage
from router.workers.pool import WorkerPool

_LAST_WORDS_S, _LAST_SPANS_S = 0.5, 2.0  # for statuses and spans that are not sent yet
_SERVICES = ("pdserve.v1.Inference", "pdserve.v1.Admin")


class Router:
    """Serves one model from the workers at the given addresses. Call all methods on one event loop."""

    def __init__(
        self,
        model: str,
        model_dir: Path,
        worker_addresses: Sequence[str],
        config: RouterConfig,
        fleet: Fleet | None = None,
        security: ServerSecurity | None = None,
        access: WorkerAccess = OPEN,
        tracing: Tracing = NO_TRACING,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """Put the router together; without `security` every caller is served. Raises SetupError.

        `access` is what the workers ask for. `tokenizer` is the model's, where it has been read already.
        """
        self._model, self._model_dir, self._config = model, model_dir, config
        self._security = security or ServerSecurity(SecurityConfig())
        self._tokenizer = tokenizer or Tokenizer(model_dir)
        self._defaults = choose_sampling_defaults(model_dir, config.generation_config)
        self._pool = WorkerPool(worker_addresses, config, access)
        self._fleet = fleet or FixedFleet()
        self._scaler = Scaler(self._pool, self._fleet)
        self._admission, self._tracing = Admission(config, tracing=tracing), tracing
        self._state = RouterState(self._admission, self._pool)
        self._outage = Outage(self._pool.is_ready, config.max_outage_s)
        self._decisions, self._work_ids = DecisionLog(), WorkIds(secrets.token_hex(4))
        self._ledgers = BlockLedgers(self._pool, self._work_ids)
        self._resumables = Resumables(config)
        self._metrics = make_metrics(model, self._admission, self._pool.views, config, tracing)
        self._services = [*_SERVICES]
        self._health = HealthReport(self._state.can_serve, self._services)
        options = SHARING_SERVER_OPTIONS if config.share_ports else SERVER_OPTIONS
        self._server = grpc.aio.server(interceptors=self._security.interceptors(), options=options)
        self._openai_pages: OpenAiPages | None = None
        self._openai: OpenAiServer | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._http: HttpServer | None = None
        self._live_pages: LivePages | None = None
        self._grammars: GrammarChecker | None = None

    async def start(self, host: str, grpc_port: int, http_port: int, timeout_s: float) -> int:
        """Connect to the workers, then serve. Return the gRPC port. Raises SetupError."""
        port = self._security.bind(self._server, host, grpc_port)
        self._http = HttpServer(host, http_port, self._metrics.registry, self._state.can_serve)
        self._pool.start()
        await self._pool.wait_ready(timeout_s)
        self._add_services()
        await self._server.start()
        watchdog = Watchdog(self._pool, self._fleet, self._config.watchdog_s)
        forever = (self._security.watch(), self._outage.watch(), self._health.follow())
        self._watching = [asyncio.create_task(watch) for watch in (*forever, watchdog.run())]
        self._tracing.start()
        self._http.start(self._live_pages.answer if self._live_pages else None)
        await self._health.report()
        return port

    async def serve_openai(self, host: str, port: int) -> int:
        """Serve OpenAI's HTTP API, once the router has started; returns its port. Raises SetupError."""
        if self._openai_pages is None:
            raise SetupError("the router has not started")
        bound = listen(host, port, is_shared=self._config.share_ports)
        self._openai = OpenAiServer(self._openai_pages.app(), bound, self._security.tls_context())
        await self._openai.start()
        return self._openai.port

    @property
    def http_port(self) -> int:
        """The HTTP port, once started."""
        return self._http.port if self._http else 0

    @property
    def model_info(self) -> WorkerInfo:
        """Identity of a decode worker, once started: all workers have its model, dtype and limits."""
        return next(view.info for view in self._pool.views() if view.info.role == Role.DECODE)

    @property
    def kv_capacity_tokens(self) -> int:
        """Positions in the KV memory of the decode worker that has least, once started."""
        return self._pool.min_kv_capacity_tokens()

    def follow(self, membership: Membership) -> None:
        """Run WorkerPool.follow; for the owner of the workers."""
        self._pool.follow(membership)

    async def stop(self, drain_timeout_s: float) -> None:
        """Refuse new requests, give running ones `drain_timeout_s` seconds to end, then disconnect.

        A cancellation ends these seconds at once, and is raised when all is closed.
        """
        self._admission.drain()
        try:
            await self._health.report()
            await await_ends(self._admission, drain_timeout_s)
        finally:
            await uninterrupted(self._close())

    async def _close(self) -> None:
        await self._scaler.close()
        await end_rest(self._admission)
        # not earlier: a server that stops answers new calls with a bare CANCELLED
        await self._server.stop(grace=_LAST_WORDS_S)
        if self._openai is not None:
            await self._openai.stop(_LAST_WORDS_S)
        for watching in self._watching:
            watching.cancel()
        await self._resumables.close()
        await self._pool.close()
        if self._grammars is not None:
            await self._grammars.close()
        if self._live_pages is not None:
            await self._live_pages.stop()
        if self._http is not None:
            await asyncio.to_thread(self._http.stop)
        await asyncio.to_thread(self._tracing.stop, _LAST_SPANS_S)

    def _add_services(self) -> None:
        info = self.model_info
        limits = Limits(
            model=self._model,
            vocab_size=info.vocab_size,
            max_context_tokens=info.max_context_tokens,
            kv_capacity_tokens=self.kv_capacity_tokens,
            eos_token_ids=read_eos_token_ids(self._model_dir, info.vocab_size),
            defaults=self._defaults,
        )
        self._grammars = GrammarChecker(self._model_dir, limits.eos_token_ids, info.vocab_size)
        intake = Intake(limits, self._tokenizer, self._grammars, self._admission)
        journeys = self._make_journeys()
        explainer = Explainer(self._decisions, self._ledgers)
        slow_client_s = self._config.slow_client_s
        inference_pb2_grpc.add_InferenceServicer_to_server(
            InferenceService(intake, journeys, explainer, self._resumables, slow_client_s),
            self._server,
        )
        admin_pb2_grpc.add_AdminServicer_to_server(
            AdminService(self._model, self._state, self._scaler, self._ledgers), self._server
        )
        if self._config.live_page:
            model, ids = self._model, self._work_ids
            sources = Sources(model, self._state, journeys.live, self._metrics, self._ledgers, ids)
            self._live_pages = LivePages(sources, explainer, Gate(self._security))
        self._openai_pages = OpenAiPages(
            intake,
            journeys,
            self._state,
            self._metrics.registry,
            self._security.authorize,
            slow_client_s,
        )
        self._services += add_vllm_service(
            self._server, self._model_dir, intake, journeys, self._state, slow_client_s
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._server)
        names = (*self._services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    def _make_journeys(self) -> Journeys:
        placement = Placement(self._pool, make_policy(self._config.policy), self._decisions)
        fair_queue = FairQueue[Turn](self._admission.tenants.weight)
        queue = PromptQueue(fair_queue, placement.room_tokens)
        dispatcher = Dispatcher(
            Resources(self._admission, queue, self._pool),
            placement,
            WaitLimit(self._config.max_wait_s),
            self._work_ids,
            self._outage,
            self._config.max_unread_tokens,
        )
        relocation = Relocation(dispatcher, self._metrics, self._config.max_worker_deaths)
        metrics, tracing = self._metrics, self._tracing
        return Journeys(dispatcher, placement, relocation, self._tokenizer, metrics, tracing)
