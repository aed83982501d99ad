"""PrefixRouter: Serve's way to say which replica a request goes to; here the one that has its prompt's beginning.

The first argument of a request are its prefix keys. Must not know of engines.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, ReplicaResult, RequestRouter, RunningReplica

from candle_vllm.ray.prefixes import PrefixTable

__all__ = ["PrefixRouter"]

_PATIENCE = 2.0
"""Seconds for which a request waits for the replica that has its beginning."""


class PrefixRouter(RequestRouter):
    """Who has most of a prompt's beginning gets it, unless it is `most_ahead` requests busier than the least busy."""

    def initialize_state(self, most_ahead: int = 8) -> None:
        """As Serve calls it, with `request_router_kwargs`."""
        self._most_ahead = most_ahead
        self._prefixes: PrefixTable[ReplicaID] = PrefixTable()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The one it should be, and behind it all others, for where that one takes no more."""
        if not candidate_replicas:
            return []
        cache = self.replica_queue_len_cache
        # What is not known yet counts as idle; Serve asks it before it sends anything there.
        load = {replica.replica_id: cache.get(replica.replica_id) or 0 for replica in candidate_replicas}
        order = sorted(candidate_replicas, key=lambda replica: (load[replica.replica_id], random.random()))
        most = load[order[0].replica_id] + self._most_ahead
        able = [replica for replica in order if load[replica.replica_id] <= most]
        having = self._prefixes.best(_keys(pending_request), [replica.replica_id for replica in able])
        first = next((replica for replica in able if replica.replica_id in having), order[0])
        full = load[first.replica_id] >= first.max_ongoing_requests
        late = pending_request is not None and time.time() - pending_request.created_at > _PATIENCE
        if having and not full and not late:
            # It may be slow to say whether it takes one more; to compute the prompt anew is slower.
            return [[first]]
        return [[first], [replica for replica in order if replica is not first]]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult) -> None:
        """Note who has it now."""
        self._prefixes.add(_keys(pending_request), replica_id)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Forget what it had."""
        super().on_replica_actor_died(replica_id)
        self._prefixes.keep(self.curr_replicas)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Forget what those had that are gone."""
        super().update_replicas(replicas)
        self._prefixes.keep(self.curr_replicas)


def _keys(request: PendingRequest | None) -> Sequence[Any]:
    return request.args[0] if request is not None and request.args else ()
