"""Pure decisions: the state of a session and a policy in, a plan out. No I/O, no clock."""

from holdfast.planning.backstop import Backstop, plan_backstop
from holdfast.planning.expiry import GRACE, Expiry, plan_expiry, plan_shortened
from holdfast.planning.groups import Grouping, group_records
from holdfast.planning.reading import fit_budget, order_for_model, presentable

__all__ = [
    "GRACE",
    "Backstop",
    "Expiry",
    "Grouping",
    "fit_budget",
    "group_records",
    "order_for_model",
    "plan_backstop",
    "plan_expiry",
    "plan_shortened",
    "presentable",
]
