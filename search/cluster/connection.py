"""Connects to Ray: a cluster of this machine alone, unless an address is given.

Without an address, neither RAY_ADDRESS nor Ray's `ray_current_cluster` file is read: any local user could plant that
file, and would be sent this user's token. What is started here listens on loopback.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from search.stop_signals import stop_signals
from trainables.worker_process import worker_environment

LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # Ray's: "0" binds a node to 127.0.0.1
AUTH_NOTICE = "ray._private.authentication.authentication_token_setup"  # warns at every start that there is a token
TOO_LATE = "The current node timed out during startup"  # Ray's own time limit, which no setting changes
SHIPPED = ("trainables", "analysis", "search")  # this project's packages, from the lowest on
RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for what `ray job submit` starts
ROOT_UID = 0
ANSWER_S = 5.0  # within which a cluster takes a connection; Ray itself tries for minutes
CLIENT = "ray://"  # before the address of a Ray Client server
TASK_OOM_RETRIES = 2  # Ray's default is for ever: a task that always runs out of memory would never end
Say = Callable[[str], None]


@contextmanager
def connected(address: str | None, *, say: Say, num_cpus: int | None = None, dashboard: bool = True) -> Iterator[float]:
    """Be connected to the cluster at `address`, or to one that is started on this machine; the value is its number of
    GPUs. Says which it is.

    Raises ValueError where 'auto' would follow another user's file, and where no cluster answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for name, value in worker_environment(1).items():
        if name != "OMP_NUM_THREADS":
            os.environ[name] = value  # local workers inherit it; elsewhere each trial sets it for itself
    limits = {"task_oom_retries": TASK_OOM_RETRIES}
    local: dict[str, Any] = {"num_cpus": num_cpus, "include_dashboard": dashboard, "_system_config": limits}
    if address is None:
        os.environ.setdefault(LOOPBACK_SWITCH, "0")
        logging.getLogger(AUTH_NOTICE).setLevel(logging.ERROR)
        protect_token(Path.home() / ".ray" / "auth_token", say)

    import ray
    from ray._private import ray_constants as constants

    # Ray reads the switch as it is imported, and who did that first has bound this node to every interface
    constants.ENABLE_RAY_CLUSTER = constants.env_bool(  # type: ignore[attr-defined, no-untyped-call]
        LOOPBACK_SWITCH, not constants.IS_WINDOWS_OR_OSX
    )
    if address == "auto":
        _check_owner_of_current_cluster()
    try:
        try:
            if address:
                _check_answers(address)
            say(f"Ray: joining {address}" if address else "Ray: starting on this machine, which takes some seconds")
            context = ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.WARNING,
                **(_own_code() if address else local),
            )
        except ConnectionError as error:
            raise ValueError(
                f"--address must name a Ray cluster that answers, got {address} ({error}); start one with `ray start "
                "--head`, or leave --address out to use this machine alone"
            ) from error
        except Exception as error:
            if not str(error).startswith(TOO_LATE):
                raise
            raise ValueError(
                "Ray must start within 30 s on this machine, got no answer by then: it is too busy; let other work on "
                "it end, then give the same command again"
            ) from error
        _say_which(address, context, say)
        yield float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
    finally:
        ray.shutdown()


@contextmanager
def connected_until_stopped(address: str | None, say: Say) -> Iterator[float]:
    """As `connected`, for a command that goes on when it is given again: SIGTERM ends it as Ctrl-C does, with the exit
    code of the signal."""
    with stop_signals() as signals:
        try:
            with connected(address, say=say, dashboard=False) as num_gpus:
                signals.install()  # Ray has set its own
                yield num_gpus
        except (KeyboardInterrupt, SystemExit) as error:
            if not signals.caused(error):
                raise
            say("stopped; what was finished is kept: give the same command again to go on")
            raise typer.Exit(signals.exit_code) from None


def _check_answers(address: str) -> None:
    """Raises ConnectionError where no Ray answers at the address that Ray makes of `address`, and ValueError where it
    takes another token: Ray itself tries for half a minute, and then calls both a failed connection."""
    from ray._private.services import canonicalize_bootstrap_address_or_die

    place = address.removeprefix(CLIENT)
    if not address.startswith(CLIENT):
        try:
            place = canonicalize_bootstrap_address_or_die(address)  # 'auto' as Ray follows it
        except ValueError as error:
            raise ConnectionError(f"it must be auto or HOST:PORT: {error}") from error
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError, OverflowError) as error:  # ValueError, OverflowError: no port
        raise ConnectionError(f"{place}: {error}") from error
    _check_is_ray(place, is_client=address.startswith(CLIENT))


def _check_is_ray(place: str, *, is_client: bool) -> None:
    """Asks what listens at `place` whether it is alive. Raises as `_check_answers` does."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc, ray_client_pb2, ray_client_pb2_grpc
    from ray.exceptions import AuthenticationError

    channel: Any = None
    try:
        channel = init_grpc_channel(place)
        if is_client:
            ping = ray_client_pb2.ClusterInfoRequest(type=ray_client_pb2.ClusterInfoType.PING)
            ray_client_pb2_grpc.RayletDriverStub(channel).ClusterInfo(ping, timeout=ANSWER_S, wait_for_ready=True)
        else:
            ask = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).CheckAlive
            ask(gcs_service_pb2.CheckAliveRequest(), timeout=ANSWER_S, wait_for_ready=True)
    except AuthenticationError as error:
        raise ValueError(_not_the_token(place, "none")) from error
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise ValueError(_not_the_token(place, "another or none")) from error
        is_silent = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        reason = f"Ray gives no answer there within {ANSWER_S:.0f} s" if is_silent else error.details()
        raise ConnectionError(f"{place}: {reason}") from error
    finally:
        if channel is not None:
            channel.close()


def _not_the_token(place: str, got: str) -> str:
    return (
        f"the cluster at {place} must be given its token, got {got}; copy the head node's ~/.ray/auth_token to this "
        "machine with mode 0600 (or name it in RAY_AUTH_TOKEN_PATH), and set RAY_AUTH_MODE=token"
    )


def _own_code() -> dict[str, Any]:
    """What makes workers on other machines import this project as the driver does, whether it is installed there or
    not. Within `ray job submit` the job's working directory does so already."""
    if RAY_JOB in os.environ:
        return {}
    packages = [str(Path(import_module(name).__path__[0])) for name in SHIPPED]
    return {"runtime_env": {"py_modules": packages, "excludes": ["**/__pycache__/**"]}}


def _say_which(address: str | None, context: Any, say: Say) -> None:
    if address:
        found = context.address_info.get("gcs_address", address) if hasattr(context, "address_info") else address
        say(f"Ray: joined the cluster at {found} (--address {address})")
    else:
        say("Ray: started on this machine, for this run alone")
        if os.environ.get("RAY_ADDRESS"):
            say(f"note: RAY_ADDRESS={os.environ['RAY_ADDRESS']} is not followed; to join it give --address auto")
    if context.dashboard_url:
        say(f"Ray dashboard: http://{context.dashboard_url} (where it asks for a token: ray get-auth-token)")


def protect_token(path: Path, say: Say) -> None:
    """Make sure that the token of local clusters can be read by its owner alone. Ray makes it with the umask's mode.

    Raises ValueError where it cannot be made or changed.
    """
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH") or not _wants_token():
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                path.chmod(0o600)
                say(f"note: Ray's token {path} could be read by others; it is now yours alone")
        else:
            with os.fdopen(file, "w", encoding="ascii") as out:
                out.write(secrets.token_hex(32))
    except OSError as error:
        raise ValueError(
            f"Ray's token must be a file of yours with mode 0600, got {path} ({error.strerror}); remove it"
        ) from error


def _wants_token() -> bool:
    """Whether Ray authenticates: its default for clusters that it starts."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"


def _check_owner_of_current_cluster() -> None:
    """'auto' follows RAY_ADDRESS, else a file in Ray's temporary folder, which all users may write to."""
    from ray._common.utils import get_ray_address_file

    if os.environ.get("RAY_ADDRESS"):
        return
    file = Path(get_ray_address_file(None))
    if file.exists() and file.stat().st_uid not in (ROOT_UID, os.getuid()):
        raise ValueError(
            f"--address auto follows {file}, which must be yours or root's, got a file of user {file.stat().st_uid}; "
            "give the cluster's HOST:PORT"
        )
