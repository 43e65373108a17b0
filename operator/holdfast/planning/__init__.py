"""Pure decisions: the state of a session and a policy in, a plan out. No I/O, no clock."""

from typing import TYPE_CHECKING, Any

from holdfast.planning.backstop import Backstop, plan_backstop
from holdfast.planning.expiry import GRACE, Expiry, plan_expiry, plan_shortened
from holdfast.planning.groups import Grouping, group_records
from holdfast.planning.reading import fit_budget, order_for_model, presentable

if TYPE_CHECKING:
    from holdfast.planning.flushing import FlushPlan, next_time_due, plan_flush
    from holdfast.planning.holdings import Departure
    from holdfast.planning.limits import Left, Limit, is_due, left_by, limits_of

__all__ = [
    "GRACE",
    "Backstop",
    "Departure",
    "Expiry",
    "FlushPlan",
    "Grouping",
    "Left",
    "Limit",
    "fit_budget",
    "group_records",
    "is_due",
    "left_by",
    "limits_of",
    "next_time_due",
    "order_for_model",
    "plan_backstop",
    "plan_expiry",
    "plan_flush",
    "plan_shortened",
    "presentable",
]


_LAZY = {
    "Departure": "holdings",
    "FlushPlan": "flushing",
    "Left": "limits",
    "Limit": "limits",
    "is_due": "limits",
    "left_by": "limits",
    "limits_of": "limits",
    "next_time_due": "flushing",
    "plan_flush": "flushing",
}


def __getattr__(name: str) -> Any:
    """Load the planner of flushes at its first use: it reads policies, which need pydantic."""
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'holdfast.planning' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - only who asks pays

    value = getattr(import_module(f"holdfast.planning.{module}"), name)
    globals()[name] = value
    return value
