import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError

from common.config import ServeConfig
from common.machine import Memory
from deploy.ray_session import _is_about_token, _store_bytes, start_ray
from pdserve.errors import SetupError

MIB = 2**20
TWO_WORKERS = ServeConfig.model_validate({"transfer": {"max_inflight_mib": 300}})  # 2 x 300 / 0.3


@pytest.mark.parametrize(
    ("memory_mib", "shm_mib", "store_mib"),
    [
        (64_000, 64_000, 2000),  # all that is wanted
        (4000, 64_000, 1000),  # a quarter of the container's memory
        (4000, 500, 450),  # the shared memory, with a tenth left free
        (200, 64_000, 128),  # the minimum
    ],
)
def test_the_object_store_fits_the_container(
    monkeypatch: pytest.MonkeyPatch, memory_mib: int, shm_mib: int, store_mib: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=shm_mib * MIB))
    memory = Memory(memory_mib * MIB, memory_mib * MIB)
    assert _store_bytes(TWO_WORKERS, memory) == store_mib * MIB


def test_a_ray_that_nobody_serves_is_one_line() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and not listening
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        for spelled in (address, f"ray://{address}"):
            config = ServeConfig(ray_address=spelled)
            with pytest.raises(SetupError, match=f"^Ray at '{spelled}' does not answer") as caught:
                start_ray(config, 0)
            assert "\n" not in str(caught.value)


def test_an_error_about_the_token_is_known_by_what_caused_it() -> None:
    cause = AuthenticationError("Token authentication is enabled but no token was found")
    error = ConnectionError("Failed to connect to Ray cluster")
    assert not _is_about_token(error)
    error.__cause__ = cause
    assert _is_about_token(error)


def test_a_folder_too_deep_for_rays_sockets_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # or the start would set one for later tests
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("deep" * 20)))
    with pytest.raises(
        SetupError, match=r"^Ray did not start: .* cannot exceed 107 bytes"
    ) as caught:
        start_ray(ServeConfig(), 1)
    assert "TMPDIR" in str(caught.value.remedy)
    assert "\n" not in str(caught.value)
