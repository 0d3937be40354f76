"""Answers to vLLM's gRPC contract about the model, the server and its load."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from smg_grpc_proto import vllm_engine_pb2 as vllm_pb2
from smg_grpc_proto.generated import common_pb2

from common.messages import Role
from router.intake.job import Limits
from router.workers.view import WorkerView

SERVER_TYPE = "pdserve"
_CHUNK_BYTES = 2**20
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class _ModelConfig:
    """Values of a model folder's config.json that clients ask for."""

    model_type: str
    architectures: tuple[str, ...]
    bos_token_id: int
    pad_token_id: int

    @classmethod
    def read(cls, model_dir: Path) -> "_ModelConfig":
        file = model_dir / "config.json"
        values = json.loads(file.read_text("utf-8")) if file.exists() else {}
        return cls(
            str(values.get("model_type") or ""),
            tuple(values.get("architectures") or ()),
            _first_id(values.get("bos_token_id")),
            _first_id(values.get("pad_token_id")),
        )


def model_info(model_dir: Path, limits: Limits) -> vllm_pb2.GetModelInfoResponse:
    """Return the served model, which never changes."""
    config = _ModelConfig.read(model_dir)
    context = min(limits.max_context_tokens, limits.kv_capacity_tokens)
    return vllm_pb2.GetModelInfoResponse(
        model_path=limits.model,
        served_model_name=limits.model,
        # an absolute path: a name would be looked up at the hub first
        tokenizer_path=str(model_dir.resolve()),
        is_generation=True,
        max_context_length=context,
        max_req_input_len=context,
        vocab_size=limits.vocab_size,
        model_type=config.model_type,
        architectures=config.architectures,
        eos_token_ids=sorted(limits.eos_token_ids),
        bos_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
        # clients such as smg fill these in where a request has no value
        default_sampling_params_json=json.dumps(limits.defaults.said)
        if limits.defaults.said
        else "",
    )


def loads(views: Sequence[WorkerView]) -> vllm_pb2.GetLoadsResponse:
    """Return the load of the decode workers, which hold all requests, as that of one rank."""
    found = [view.load for view in views if view.info.role is Role.DECODE]
    running = sum(load.num_running for load in found)
    waiting = sum(load.num_waiting for load in found)
    total = sum(load.blocks_total * load.block_size for load in found)
    used = total - sum(load.blocks_free * load.block_size for load in found)
    load = vllm_pb2.SchedulerLoad(
        num_running_reqs=running,
        num_waiting_reqs=waiting,
        num_total_reqs=running + waiting,
        num_used_tokens=used,
        max_total_num_tokens=total,
        token_usage=used / total if total else 0.0,
        num_waiting_uncached_tokens=sum(load.num_waiting_tokens for load in found),
    )
    return vllm_pb2.GetLoadsResponse(
        timestamp=datetime.now(UTC).isoformat(), version=SERVER_TYPE, dp_rank_count=1, loads=[load]
    )


def tokenizer_chunks(model_dir: Path) -> Iterator[common_pb2.GetTokenizerChunk]:
    """Yield a zip archive of the tokenizer's files in pieces; the last one has its SHA-256."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _TOKENIZER_FILES:
            if (model_dir / name).exists():
                archive.write(model_dir / name, name)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    for start in range(0, len(data), _CHUNK_BYTES):
        end = start + _CHUNK_BYTES
        is_last = end >= len(data)
        yield common_pb2.GetTokenizerChunk(data=data[start:end], sha256=digest if is_last else "")


def _first_id(value: object) -> int:
    """Return a token id: the first of several, 0 (proto3's unset) for none."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value if isinstance(value, int) else 0
