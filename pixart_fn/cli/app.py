"""`pixart-fn app`: show a page in the browser that draws."""

from __future__ import annotations

from importlib.util import find_spec

import click

from .. import picture as picture_
from ..backend.device import has_ascend
from ..backend.runtime import settle_on_cpu
from ..checks import check_whole
from ..process.signals import deferred
from . import drawing
from .console import note
from .verb import Verb, folder


@click.command(cls=Verb)
@click.option("--model", shell_complete=folder, show_default="the embedded one", help=drawing.MODEL)
@click.option("--variant", show_default="none", help="Variant of the weights' files, such as fp16.")
@click.option("--dtype", type=click.Choice(picture_.DTYPES), default="float32", help="Type that weights compute in.")
@click.option("--lora", metavar="SOURCE", shell_complete=folder, help="Merge this adapter into the model.")
@click.option("--controlnet", metavar="SOURCE", show_default="the embedded one's", help=drawing.CONTROLNET)
@click.option("--host", default="127.0.0.1", help="Address to listen at; 0.0.0.0 lets other machines in.")
@click.option("--port", type=int, default=7860, help="Port to listen at.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors and the page's address.")
def app(
    model: str | None, variant: str | None, dtype: str, lora: str | None, controlnet: str | None, host: str, port: int,
    quiet: bool,
) -> None:  # fmt: skip
    """Show a page in the browser that draws, until Ctrl-C.

    It needs the extra `app`, and listens to this machine alone unless --host says otherwise.
    """
    check_whole("--port", port, 1, 65535)
    if find_spec("gradio") is None:
        raise click.UsageError("the page needs gradio: pip install 'pixart_fn[app]'")
    with deferred():  # an interrupted import of MindSpore would abort
        from ..app import serve
        from ..checkpoint import controlnet as controlnet_
        from ..checkpoint import lora as lora_

    if not has_ascend():
        settle_on_cpu()
    params = drawing.load({"model": model, "variant": variant, "dtype": dtype, "shown": not quiet})
    if lora is not None:
        params = params.replace(transformer=lora_.merge(params.transformer, lora_.load(lora)))
        note("the settings inside the page's pictures don't name --lora, so `pixart-fn show` draws them without it")
    net = controlnet_.load(controlnet) if controlnet is not None or model is None else None
    loaded = {name: value for name, value in (("model", model), ("variant", variant), ("dtype", dtype)) if value}
    serve(params, host=host, port=port, controlnet=net, loaded=loaded)
