"""Summaries: who writes them, what they are given, and what is accepted from them.

Pure but for the endpoint that an `OpenAICompatibleSummarizer` calls: when to summarise, and how a
summary takes the place of what it covers, is decided elsewhere.
"""

from holdfast.summaries.builtin import BuiltinSummarizer
from holdfast.summaries.checked import TIMEOUT, checked
from holdfast.summaries.choosing import is_remote, summarizer_of
from holdfast.summaries.item import summary_item, summary_text
from holdfast.summaries.openai_compatible import OpenAICompatibleSummarizer
from holdfast.summaries.protocol import (
    Summarizer,
    SummarizerLike,
    SummaryMessage,
    SummaryRequest,
    as_summarizer,
)
from holdfast.summaries.request import request_of

__all__ = [
    "TIMEOUT",
    "BuiltinSummarizer",
    "OpenAICompatibleSummarizer",
    "Summarizer",
    "SummarizerLike",
    "SummaryMessage",
    "SummaryRequest",
    "as_summarizer",
    "checked",
    "is_remote",
    "request_of",
    "summarizer_of",
    "summary_item",
    "summary_text",
]
