"""A failure to reach the store that is none of the store's."""

from holdfast.errors import StoreUnavailable


class PoolInUse(StoreUnavailable):
    """The program uses all connections of the redis client that it lends.

    Whoever catches `StoreUnavailable` need not know it. It says nothing of the server: no breaker counts it,
    and no read is answered with something else for it.
    """


def pool_in_use(connections: int) -> PoolInUse:
    """Nobody gave a connection back in time; the pool may have so many."""
    return PoolInUse(
        f"all {connections} connections of the pool of the program's own redis client were in use, and none "
        "came free in time: nothing was sent. Give that pool more (max_connections), or hold fewer for long"
    )
