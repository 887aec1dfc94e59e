"""`page` builds the page and `serve` shows it to browsers."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..checks import check_type, check_whole, kind, shown
from ..control import Net, check_net
from ..models import controlnet as controlnet_
from ..params import Params
from ..public import public
from ..request import check_params, vae_config
from ..settings import check_settings
from .limits import Limits

if TYPE_CHECKING:
    import gradio as gr

LOADED = ("model", "variant", "revision", "dtype", "controlnet", "lora", "lora_sha256", "lora_weight")
"""The settings of what is loaded, which all pictures of a page share."""


@public
def page(
    params: Params,
    *,
    controlnet: Net | None = None,
    limits: Limits | None = None,
    loaded: Mapping[str, object] | None = None,
) -> gr.Blocks:
    """Build the page, without showing it.

    Args:
        params: from `px.load`, with a text encoder and a VAE.
        controlnet: what `px.controlnet.load` gives, for drawing along the edges of a picture; None leaves that out.
        limits: what a visitor may take at most; None takes those of `Limits()`.
        loaded: what the settings inside each picture say of params and of the ControlNet: `model`, `variant`,
            `revision` and `dtype` as `px.load` was given them; `controlnet` as `px.controlnet.load` was; and of each
            adapter in params `lora`, `lora_sha256` and `lora_weight`, in lists where there are several, in the order in
            which `px.lora.merge` added one after the other. None is for the embedded checkpoint.
    Returns:
        gradio's Blocks, which `serve` launches.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: params lack a model, the ControlNet is for another transformer, the limits leave no size, or loaded
            has another setting.
        ImportError: gradio is missing.
    """
    check_params(params)
    vae_config(params)
    if params.text_encoder is None:
        raise ValueError("these params have no text encoder, which reads prompts; load them with text_encoder=True")
    if controlnet is not None:
        check_net(controlnet)
        controlnet_.check_base(controlnet[1], params.config.transformer)
    if limits is not None:
        check_type("limits", limits, Limits, "a pixart_fn.app.Limits")
    given = {} if loaded is None else _loaded(loaded)
    _check_gradio()
    from .layout import build

    return build(params, controlnet, limits or Limits(), given)


@public
def serve(
    params: Params,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    controlnet: Net | None = None,
    limits: Limits | None = None,
    loaded: Mapping[str, object] | None = None,
) -> None:
    """Show the page until Ctrl-C; its address is printed once it can be opened.

    One drawing runs at a time, and the others wait. Nothing is fetched from other servers, and nothing is sent to them.

    Args:
        params: as in `page`.
        host: the address to listen at. The default takes connections from this machine alone. With "0.0.0.0" whoever
            reaches this machine can draw on it, as there are no passwords.
        port: 1 … 65535.
        controlnet: as in `page`.
        limits: as in `page`.
        loaded: as in `page`.
    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument isn't as described above.
        OSError: the host and the port can't be listened at.
        ImportError: gradio is missing.
    """
    if not isinstance(host, str):
        raise TypeError(f"host must be a string, such as '127.0.0.1', got {kind(host)}")
    check_whole("port", port, 1, 65535)
    check_free(host, port)
    built = page(params, controlnet=controlnet, limits=limits, loaded=loaded)
    try:
        launch(built, host, port, limits or Limits())
        print(f"The page is at http://{host}:{port} and ends with Ctrl-C.", flush=True)
        while True:  # a wait without an end isn't interrupted where MindSpore has taken Ctrl-C in another thread
            time.sleep(0.5)
    finally:
        built.close(verbose=False)


def launch(built: gr.Blocks, host: str, port: int, limits: Limits) -> None:
    """Start the server of a page, and return.

    Args:
        built: from `page`.
        host: the address to listen at.
        port: likewise.
        limits: those of the page.
    """
    from .look import look

    built.queue(default_concurrency_limit=None, max_size=4 * limits.waiting, api_open=False)
    built.launch(
        server_name=host,
        server_port=port,
        max_file_size=limits.upload * 2**20,
        max_threads=40 + limits.waiting,  # gradio's own, beside those in which drawings wait
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        show_error=False,
        **look(),
    )


def _loaded(loaded: Mapping[str, object]) -> dict[str, Any]:
    others = set(loaded) - {*LOADED}
    if others:
        raise ValueError(f"loaded must have no other settings than {', '.join(LOADED)}, got {shown(min(others))}")
    followed = {"control": "", "control_sha256": "0" * 64}
    check_settings({"prompt": "", "seed": 0, **followed, **loaded})
    return dict(loaded)


def _check_gradio() -> None:
    if find_spec("gradio") is None:
        raise ImportError("the page needs gradio: pip install '.[app]' in a clone")


def check_free(host: str, port: int) -> None:
    """Raise an OSError where nothing can listen there."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise OSError(
            f"the page can't listen at {host}, port {port}: {error.strerror or error}; take another"
        ) from None
