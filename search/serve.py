"""Answer requests with a bundle, over HTTP on this machine alone.

    segsearch serve --bundle RUN/bundle [--port 8000]

The address that it prints has a page to drop images on; `search/serving/service.py` lists the routes for programs.
Requests are predicted in batches by Ray Serve. Ctrl-C and SIGTERM end it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.stop_signals import StopSignals, stop_signals
from trainables.command import DebugOption, errors_to_exit, new_app

if TYPE_CHECKING:
    from search.serving.limits import Batching, Limits

HOST = "127.0.0.1"
FIRST_PORTS = range(8000, 9000)
PACKAGES = ("fastapi", "starlette", "uvicorn")  # of ray[serve]
Say = Callable[[str], None]
app = new_app()


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True)
class Server:
    """What is served, and where."""

    bundle: Path
    port: int
    device: Device
    limits: Limits
    batching: Batching


@app.command()
def main(
    bundle: Annotated[Path, typer.Option(help="The bundle/ folder of a finished run.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: the first free one from 8000.")] = 8000,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")] = Device.auto,
    batch_size: Annotated[int, typer.Option(min=1, max=256, help="Images per batch at most.")] = 8,
    batch_wait_ms: Annotated[
        float, typer.Option(min=0, max=1000, help="How long the first image of a batch waits for others.")
    ] = 5.0,
    max_upload_mib: Annotated[int, typer.Option(min=1, max=1024, help="The largest file, in MiB.")] = 32,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=178, help="The largest image.")] = 16.0,
    max_waiting: Annotated[
        int, typer.Option(min=1, max=1024, help="Images in the server at once; more are told to come again.")
    ] = 16,
    debug: DebugOption = False,
) -> None:
    """Answer requests with a bundle on this machine: a page to drop images on, and HTTP for programs."""
    with errors_to_exit(debug=debug):
        check_packages()
        from analysis.bundle.manifest import read_bundle
        from search.serving.limits import Batching, Limits

        read_bundle(bundle)
        port = free_port(port)
        limits = Limits(upload_mib=max_upload_mib, megapixels=max_megapixels, waiting=max_waiting)
        batching = Batching(size=batch_size, wait_ms=batch_wait_ms)
        with stop_signals() as signals:
            serve_until_stopped(Server(bundle, port, device, limits, batching), signals, say)


def check_packages() -> None:
    """Raises ValueError, with the command that installs them, where packages are missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ValueError(
            f"segsearch serve needs Ray Serve's packages, got no {', '.join(missing)}; install them: "
            "pip install 'ray[serve]'"
        )


def free_port(port: int) -> int:
    """`port`, or for 0 the first from 8000 that is free: a port that the system chose might be Ray's own next one.

    Raises ValueError where it is taken: Ray Serve would say so after half a minute.
    """
    for one in [port] if port else FIRST_PORTS:
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((HOST, one))
            except OSError:
                continue
            return one
    raise ValueError(f"--port must be one that is free, got {port}; give another, or 0 for the first from 8000")


def serve_until_stopped(server: Server, signals: StopSignals, say: Say) -> None:
    """Start Ray and the server, say where it is, and wait for a signal.

    Raises ValueError where the device is not there or the bundle's weights do not fit.
    """
    from search.cluster.connection import connected

    try:
        with connected(None, say=say, dashboard=False) as num_gpus:
            signals.install()  # Ray has set its own
            start(server, num_gpus)
            say(f"http://{HOST}:{server.port}/ answers on this machine alone; Ctrl-C ends it")
            while True:
                time.sleep(3600)
    except (KeyboardInterrupt, SystemExit) as error:
        if not signals.caused(error):
            raise
        say("stopped")


def start(server: Server, num_gpus: float) -> None:
    """Start the replica and wait until it answers."""
    import ray
    from ray import serve

    from search.serving.deployment import APPLICATION, application

    if server.device is Device.cuda and num_gpus < 1:
        raise ValueError("--device must be one that is here, got cuda, and no GPU; use cpu or auto")
    on_gpu = server.device is not Device.cpu and num_gpus >= 1
    cpus = float(ray.cluster_resources().get("CPU", 1.0))  # type: ignore[no-untyped-call]
    resources = {"num_cpus": cpus, "num_gpus": float(on_gpu)}  # Ray gives a replica as many threads as it has CPUs
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    at = {"host": HOST, "port": server.port}
    found = application(server.bundle, "cuda" if on_gpu else "cpu", server.limits, server.batching, resources)
    try:
        serve.start(proxy_location="HeadOnly", http_options=at, logging_config=quiet)
        handle = serve.run(found, name=APPLICATION, route_prefix="/")
    except (RuntimeError, TimeoutError) as error:  # what Serve raises for all that went wrong in its processes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ValueError(
            f"Ray Serve must start on this machine, got {reason:.300}; let other work end, or give another --port"
        ) from error
    fault = handle.fault.remote().result()
    if fault:
        raise ValueError(fault)


def say(line: str) -> None:
    """One line, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    app()
