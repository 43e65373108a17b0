"""Sessions in Redis or Valkey: plain data types, one script per operation, no modules."""

from holdfast.store.redis.store import RedisStore

__all__ = ["RedisStore"]
