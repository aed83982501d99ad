"""The web page: chat and the server's figures in a browser, on the port of the API.

Needs the extra `ui`; nothing else of the package imports this one before it is asked for. The page takes the road of
every request, in this process. Must not know of command lines.
"""

from candle_vllm.ui.browser import MAX_MESSAGE
from candle_vllm.ui.mount import WebPage
from candle_vllm.ui.progress import LoadProgress

__all__ = ["MAX_MESSAGE", "LoadProgress", "WebPage"]
