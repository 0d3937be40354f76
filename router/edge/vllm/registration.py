"""Registration of vLLM's contract with a gRPC server, where its package is installed."""

import importlib.util
from pathlib import Path

import grpc

from router.edge.router_state import RouterState
from router.intake.intake import Intake
from router.journey.journey import Journeys

_IS_INSTALLED = importlib.util.find_spec("smg_grpc_proto") is not None  # pdserve[vllm-grpc]


def add_vllm_service(
    server: grpc.aio.Server,
    model_dir: Path,
    intake: Intake,
    journeys: Journeys,
    state: RouterState,
    slow_client_s: float,
) -> list[str]:
    """Add the service; return its name, or nothing without `pdserve[vllm-grpc]`."""
    if not _IS_INSTALLED:
        return []
    from smg_grpc_proto import vllm_engine_pb2_grpc

    from router.edge.vllm.service import SERVICE_NAME, VllmEngineService

    service = VllmEngineService(model_dir, intake, journeys, state, slow_client_s)
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(service, server)
    return [SERVICE_NAME]
