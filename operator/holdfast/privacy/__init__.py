"""What is never stored: matches of patterns, fields that a caller names, kinds of messages.

Pure, and run in the caller's process before anything is counted, sent or logged.
"""

from holdfast.privacy.redactor import Redactor
from holdfast.privacy.screening import Screened, Screening

__all__ = ["Redactor", "Screened", "Screening"]
