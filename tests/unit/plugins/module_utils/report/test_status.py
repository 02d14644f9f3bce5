# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status of a host: what it says where all is well, and what in each bad state."""

from __future__ import annotations

import json

from celled import NEEDS_ROOT
from watched import Watched

pytestmark = NEEDS_ROOT


def test_a_host_that_fares_well(well: Watched) -> None:
    told = well.look()
    assert told["needs"] == [] and told["well"] and told["state"] == "deployed"
    assert told["timer"] == {"active": True, "next": "2026-01-01T12:00:00Z", "reason": ""}
    assert told["proof"]["matches"] and told["policy"]["matches"] and told["engine"]["drift"] == []
    assert told["today"] == {"runs": 0, "max_runs": 2, "cost_usd": 0.25, "max_cost_usd": 10.0}
    (cycle,) = told["history"]
    assert (cycle["outcome"], cycle["cost_usd"], cycle["issue"]) == (
        "published", 0.25, "AS215932/network-operations#235"
    )  # fmt: skip
    assert json.loads(json.dumps(told)) == told
