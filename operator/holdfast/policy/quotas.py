"""Quotas: bounds over all sessions of a memory, which the operator measures."""

from typing import Any, ClassVar

from pydantic import Field

from holdfast.policy.faults import Cause
from holdfast.policy.fields import Count, Size
from holdfast.policy.rules import Part, Rule


class Quota(Part):
    """A soft and a hard bound over all sessions of a memory."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["Quota"](
            path=".soft",
            reason=Cause.INVALID,
            message="soft must not exceed hard",
            check=lambda it: it.soft is None or it.hard is None or it.soft <= it.hard,
            expression="!has(self.soft) || !has(self.hard) || self.soft <= self.hard",
        ),
    )

    soft: Count | None = Field(default=None, description="Above it people are told.")
    hard: Count | None = Field(default=None, description="Above it writes are refused.")


class SizeQuota(Part):
    """A soft and a hard bound of bytes over all sessions of a memory."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["SizeQuota"](
            path=".soft",
            reason=Cause.INVALID,
            message="soft must not exceed hard",
            check=lambda it: it.soft is None or it.hard is None or it.soft.bytes <= it.hard.bytes,
            expression=(
                "!has(self.soft) || !has(self.hard)"
                " || quantity(string(self.soft)).compareTo(quantity(string(self.hard))) <= 0"
            ),
        ),
    )

    soft: Size | None = Field(default=None, description="Above it people are told.")
    hard: Size | None = Field(default=None, description="Above it writes are refused.")


class Quotas(Part):
    """Bounds over all sessions of a memory, measured by the operator."""

    sessions: Quota | None = Field(default=None, description="Number of sessions.")
    bytes: SizeQuota | None = Field(default=None, description="Size of all sessions.")
    tokens: Quota | None = Field(default=None, description="Tokens of all sessions.")
