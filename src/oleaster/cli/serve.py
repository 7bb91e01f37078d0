"""`oleaster serve`: a model behind OpenAI's API."""

from __future__ import annotations

import socket
from contextlib import suppress

from oleaster.cli.evaluate import MODEL
from oleaster.cli.generate import SAMPLING, SETTINGS, model_settings
from oleaster.cli.words import Command, Given
from oleaster.config.flags import Flag, select
from oleaster.core.errors import ConfigError, MissingExtraError

HOST, PORT = "127.0.0.1", 8000


def command() -> Command:
    """What `serve` takes."""
    return Command(
        name="serve",
        summary="Answer over HTTP as OpenAI's API does: /v1/chat/completions, /v1/completions, /v1/models, /health.\n"
        "The adapters of an artifact answer under their names. No request leaves anything behind.",
        usage=("oleaster serve RUN_OR_ARTIFACT [flags]",),
        run=run,
        words=(MODEL,),
        own=(
            MODEL,
            Flag("host", "Address to listen at; 0.0.0.0 = reachable from other machines, without any password.",
                 "text", HOST),
            Flag("port", "0 = a free one.", "integer", PORT),
            *SAMPLING,
        ),
        settings=tuple(select((), SETTINGS)),
        titles={"": "other", "model": "base model", "data": "prompt", "training": "speed", "evaluation": "answer"},
    )  # fmt: skip


def run(given: Given) -> int:
    """Until Ctrl-C."""
    config, usual = model_settings(given)
    try:
        import fastapi  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(
            "fastapi or uvicorn is not installed", remedy="pip install 'oleaster[serve]'"
        ) from error
    door = _listening(given.own["host"], given.own["port"])

    from oleaster import pipeline
    from oleaster.serving import Served, build_app

    with door:
        base, *adapters = pipeline.load_all(given.own["model_path"], config).items()
        models = {base[0]: Served(base[1], usual)}
        models |= {name: Served(assistant, model_settings(given, name)[1]) for name, assistant in adapters}
        app = build_app(models)
        door.listen()  # from here on a request waits for its answer
        host, port = door.getsockname()[:2]
        print(f"{', '.join(models)} at http://{host}:{port}/v1 until Ctrl-C", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[door])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """Taken before the model is loaded. Raises: ConfigError when it cannot be had."""
    door = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except (OSError, OverflowError) as error:
        door.close()
        found = f"{host}:{port} cannot be listened at ({getattr(error, 'strerror', None) or error})"
        raise ConfigError(found, where="--port", remedy="--port 0 takes a free one") from error
    return door
