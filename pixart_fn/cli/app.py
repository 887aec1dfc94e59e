"""`pixart-fn app`: show a page in the browser that draws."""

from __future__ import annotations

from importlib.util import find_spec

import click

from .. import settings as settings_
from ..backend.runtime import settle_on_cpu
from ..checks import check_whole
from . import adapters, drawing, source
from .importing import importing
from .verb import Computing


@click.command(cls=Computing)
@source.options
@click.option("--dtype", type=click.Choice(settings_.DTYPES), default="float32", help="Type that weights compute in.")
@adapters.options
@click.option("--controlnet", metavar="SOURCE", show_default="the embedded one's", help=drawing.CONTROLNET)
@click.option("--host", default="127.0.0.1", help="Address to listen at; 0.0.0.0 lets other machines in.")
@click.option("--port", type=int, default=7860, help="Port to listen at.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors and the page's address.")
def app(
    dtype: str, lora: tuple[str, ...], lora_weight: tuple[float, ...], controlnet: str | None, host: str, port: int,
    quiet: bool, **which: str | None,
) -> None:  # fmt: skip
    """Show a page in the browser that draws, until Ctrl-C.

    It needs the extra `app`, and listens to this machine alone unless --host says otherwise.
    """
    check_whole("--port", port, 1, 65535)
    rows = adapters.rows(lora, lora_weight)
    if find_spec("gradio") is None:
        raise click.UsageError("the page needs gradio: pip install '.[app]' in a clone")
    with importing():
        from ..app import check_free, serve
        from ..checkpoint import controlnet as controlnet_

    check_free(host, port)
    settle_on_cpu()
    merge = adapters.merging(rows)
    params = merge(source.load(which, not quiet, dtype=dtype))
    net = controlnet_.load(controlnet) if controlnet is not None or which["model"] is None else None
    given = {**which, "dtype": dtype, "controlnet": controlnet}
    loaded = {name: value for name, value in given.items() if value} | settings_.adapters(rows)
    serve(params, host=host, port=port, controlnet=net, loaded=loaded)
