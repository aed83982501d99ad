"""Chats as models read them: messages through the model's own template, to the prompt's text.

Must not know of HTTP, of requests' other fields, or of how the engine computes.
"""

from candle_vllm.chat.control import ControlTexts
from candle_vllm.chat.template import ChatTemplate, ChatTemplateError, ChatTemplates

__all__ = ["ChatTemplate", "ChatTemplateError", "ChatTemplates", "ControlTexts"]
