"""The contract of a store, as tests. Anybody can run them on a store of their own.

A test module takes them all in with one line and says what they run on by four fixtures:

    from holdfast.testing.conformance import *

    @pytest_asyncio.fixture
    async def store(): ...       # the `MemoryStore` under test; a new one for every test
    @pytest.fixture
    def namespace(): ...         # a random DNS label: each test gets a place of its own
    @pytest.fixture
    def advance(): ...           # an `Advance`: `await advance(seconds)` lets the store's time pass
    @pytest.fixture
    def govern(): ...            # a `Govern`: writes a policy and a measurement as an operator does

`advance` may simply sleep: no test lets more than a second and a half pass. The tests need
pytest-asyncio. Those that speak to the store itself come first, then those of the library on top.
"""

import pytest

_TOPICS = (
    *("appends", "expiry", "flushing", "groups", "ids", "leases", "limits", "line", "messages"),
    *("model", "others", "privacy", "quotas", "reading", "sessions", "support", "turns"),
    *(
        "departures",
        "explaining",
        "splices",
        "summaries",
        "upkeep",
        "windows",
        "erasing",
        "replacing",
        "transfer",
        "many_calls",
    ),
)
pytest.register_assert_rewrite(*(f"{__name__}.{topic}" for topic in _TOPICS))

from holdfast.testing.conformance.appends import (  # noqa: E402 - after the assertions are rewritten
    TestAppend,
    TestOrderOfChecks,
)
from holdfast.testing.conformance.departures import TestHistory  # noqa: E402
from holdfast.testing.conformance.erasing import (  # noqa: E402
    TestErase,
    TestEraseInTheStore,
    TestLabelsInTheStore,
)
from holdfast.testing.conformance.exact_copies import (  # noqa: E402
    TestExactCopies,
    TestExactHistories,
)
from holdfast.testing.conformance.expiry import TestClear, TestExpiry  # noqa: E402
from holdfast.testing.conformance.explaining import TestExplain  # noqa: E402
from holdfast.testing.conformance.flushing import TestFlusher, TestTrim  # noqa: E402
from holdfast.testing.conformance.groups import TestGroups, TestPin, TestPop  # noqa: E402
from holdfast.testing.conformance.ids import TestIds  # noqa: E402
from holdfast.testing.conformance.leases import TestLease  # noqa: E402
from holdfast.testing.conformance.limits import TestLimits  # noqa: E402
from holdfast.testing.conformance.line import TestLine  # noqa: E402
from holdfast.testing.conformance.many_calls import (  # noqa: E402
    TestManyCalls,
    TestManyCallsOfASession,
)
from holdfast.testing.conformance.messages import (  # noqa: E402
    TestMessages,
    TestRetries,
    TestSessionKeys,
)
from holdfast.testing.conformance.others import TestTurnAndOthers  # noqa: E402
from holdfast.testing.conformance.privacy import TestPrivacy  # noqa: E402
from holdfast.testing.conformance.quotas import (  # noqa: E402
    Govern,
    TestKnownIds,
    TestQuotas,
    TestSessionsOfAMemory,
)
from holdfast.testing.conformance.reading import TestPages, TestRead, TestReadBudget  # noqa: E402
from holdfast.testing.conformance.replacing import (  # noqa: E402
    TestReplace,
    TestReplaceInTheStore,
)
from holdfast.testing.conformance.sessions import TestHealth, TestSession  # noqa: E402
from holdfast.testing.conformance.splices import TestSplice  # noqa: E402
from holdfast.testing.conformance.summaries import TestSummaries  # noqa: E402
from holdfast.testing.conformance.support import Advance  # noqa: E402
from holdfast.testing.conformance.transfer import TestTransfer  # noqa: E402
from holdfast.testing.conformance.turns import TestTurn, TestTurnCancelled  # noqa: E402
from holdfast.testing.conformance.upkeep import TestFlush  # noqa: E402
from holdfast.testing.conformance.windows import TestWindows  # noqa: E402

__all__ = [
    "Advance",
    "Govern",
    "TestAppend",
    "TestClear",
    "TestErase",
    "TestEraseInTheStore",
    "TestExactCopies",
    "TestExactHistories",
    "TestExpiry",
    "TestExplain",
    "TestFlush",
    "TestFlusher",
    "TestGroups",
    "TestHealth",
    "TestHistory",
    "TestIds",
    "TestKnownIds",
    "TestLabelsInTheStore",
    "TestLease",
    "TestLimits",
    "TestLine",
    "TestManyCalls",
    "TestManyCallsOfASession",
    "TestMessages",
    "TestOrderOfChecks",
    "TestPages",
    "TestPin",
    "TestPop",
    "TestPrivacy",
    "TestQuotas",
    "TestRead",
    "TestReadBudget",
    "TestReplace",
    "TestReplaceInTheStore",
    "TestRetries",
    "TestSession",
    "TestSessionKeys",
    "TestSessionsOfAMemory",
    "TestSplice",
    "TestSummaries",
    "TestTransfer",
    "TestTrim",
    "TestTurn",
    "TestTurnAndOthers",
    "TestTurnCancelled",
    "TestWindows",
]
