"""The page in a browser: `page` builds it and `serve` shows it; both need gradio, which is the extra `app`."""

from .limits import Limits
from .serving import check_free as check_free
from .serving import page, serve

__all__ = ["Limits", "page", "serve"]
