# SPDX-License-Identifier: Apache-2.0
"""`hafm serve`: one model that stays loaded and answers over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import HAFMCommandError, loading, stdout


def serve(
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than loopback let other machines in.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8321,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Of a request.")] = 64,
    queue: Annotated[int, typer.Option(min=1, help="Requests at once; one is computed, the others wait.")] = 8,
) -> None:
    """Keeps a model loaded and accompanies what is posted to it: audio, or JSON as Inference Endpoints take it."""
    from ..hub.endpoint import EndpointHandler
    from ..hub.serving import AccompanimentServer
    from ..pretrained.loading import model_source

    try:
        server = AccompanimentServer(host, port, max_megabytes * 1_000_000, queue)
    except OSError as error:
        raise HAFMCommandError(
            f"Nothing can listen at {host}:{port} ({error.strerror or error}); choose another --port or --host."
        ) from error
    try:
        with loading(model):
            server.handler = EndpointHandler(str(model_source(model)))
        shown = f"[{host}]" if ":" in host else host
        stdout.print(f"listening on http://{shown}:{server.server_port} (Ctrl-C ends it)", markup=False)
        server.serve_forever()
    finally:
        server.stop()
