"""Which summariser writes."""

from holdfast.policy import Policy
from holdfast.summaries.builtin import BuiltinSummarizer
from holdfast.summaries.openai_compatible import OpenAICompatibleSummarizer
from holdfast.summaries.protocol import Summarizer, SummarizerLike, as_summarizer


def summarizer_of(policy: Policy, given: SummarizerLike | None = None) -> Summarizer:
    """Return the summariser that was given, else the one the policy names, else the built-in one.

    Keep what it returns for as long as the policy holds: it may learn what its endpoint takes.

    Raises:
        ConfigurationError: what was given is no summariser.
    """
    if given is not None:
        return as_summarizer(given)
    summary = policy.flushing.summary
    endpoint = summary.summarizer.open_ai_compatible if summary is not None else None
    if endpoint is None:  # a rule of the policy: it is there exactly with that type
        return BuiltinSummarizer()
    return OpenAICompatibleSummarizer(endpoint.url, endpoint.model)


def is_remote(summarizer: Summarizer) -> bool:
    """Tell whether what the summariser is given may leave the process.

    True for all but the built-in one: nobody can see where a function sends what it gets.
    """
    return not isinstance(summarizer, BuiltinSummarizer)
