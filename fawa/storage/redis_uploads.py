"""Records of uploads that may be interrupted, in Redis; see `redis` for what holds of all that is there.

Their slot is `{fawa.uploads}`: `upload:ID`, a hash; `expiry`, a sorted set of ids by when they expire, and
`keys`, a hash from a file's key to the id of the upload that becomes it. They have no time to live in Redis:
what is stored of an upload is found by its record alone, so the sweep removes both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from fawa.storage.base import AlreadyExists, NotFound, StorageError, Terms, UploadRecord
from fawa.storage.redis_link import InRedis, new_token, redis_link
from fawa.storage.redis_url import RedisAddress

_TAG: Final = "{fawa.uploads}:"

_FIELDS: Final = (
    *(
        "key",
        "name",
        "size",
        "content_type",
        "created",
        "expires",
        "sha256",
        "metadata",
        "epoch",
        "ttl",
        "terms",
    ),
)

#: Times stay the text that they came as: Lua would write fewer digits.
_LATER: Final = """
local function move(expires, id)
  if tonumber(expires) > tonumber(redis.call('HGET', KEYS[1], 'expires')) then
    redis.call('HSET', KEYS[1], 'expires', expires)
    redis.call('ZADD', KEYS[2], expires, id)
  end
end
"""

# KEYS: upload, expiry, keys. ARGV: id, key, expires, token, fields and values. An add that came through but
# whose answer was lost is known again by its token.
_ADD: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HGET', KEYS[1], 'added_by') == ARGV[4] and 1 or 0
end
if redis.call('HSETNX', KEYS[3], ARGV[2], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'added_by', ARGV[4], unpack(ARGV, 5))
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
return 1
"""
_GET: Final = "return redis.call('HMGET', KEYS[1], unpack(ARGV))"
# KEYS: upload, expiry. ARGV: id, now, expires, fields. One whose answer was lost has taken an epoch in vain.
_CLAIM: Final = (
    _LATER
    + """
local expires = redis.call('HGET', KEYS[1], 'expires')
if not expires or tonumber(expires) <= tonumber(ARGV[2]) then return false end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
move(ARGV[3], ARGV[1])
return redis.call('HMGET', KEYS[1], unpack(ARGV, 4))
"""
)
_EXTEND: Final = _LATER + "if redis.call('EXISTS', KEYS[1]) == 1 then move(ARGV[2], ARGV[1]) end"
_SET_SIZE: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSETNX', KEYS[1], 'size', ARGV[1])
return 1
"""
# KEYS: upload, expiry, keys.
_DELETE: Final = """
local key = redis.call('HGET', KEYS[1], 'key')
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
if key then redis.call('HDEL', KEYS[3], key) end
"""
_EXPIRED: Final = "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])"
# KEYS: uploads.
_GET_ALL: Final = """
local found = {}
for n, upload in ipairs(KEYS) do found[n] = redis.call('HMGET', upload, unpack(ARGV)) end
return found
"""
_HAS_KEY: Final = "return redis.call('HEXISTS', KEYS[1], ARGV[1])"


@attrs.frozen(eq=False)
class RedisUploads(InRedis):
    """Records of uploads; made by `upload_store`. See `base.UploadStore`."""

    async def add(self, record: UploadRecord) -> None:
        """Store a new record."""
        values: dict[str, str | bytes | int] = {
            "key": record.key,
            "name": record.name,
            "content_type": record.content_type,
            "created": repr(record.created),
            "expires": repr(record.expires),
            "metadata": record.metadata,
            "epoch": record.epoch,
        }
        if packed := record.terms.pack():
            values["terms"] = packed
        if record.ttl is not None:
            values["ttl"] = repr(record.ttl)
        if record.size is not None:
            values["size"] = record.size
        if record.sha256 is not None:
            values["sha256"] = record.sha256
        added = await self._link.run(
            _ADD,
            [*_of(record.id), _TAG + "keys"],
            [
                *(record.id, record.key, repr(record.expires), new_token()),
                *(part for field in values.items() for part in field),
            ],
        )
        if not added:
            raise AlreadyExists("there is an upload of this id or key already")

    async def get(self, upload_id: str) -> UploadRecord:
        """Return the record."""
        return self._record(upload_id, await self._link.run(_GET, _of(upload_id)[:1], list(_FIELDS)))

    async def claim(self, upload_id: str, now: float, expires: float) -> UploadRecord:
        """Add one to the epoch and move the expiry; return the record after that."""
        values = await self._link.run(_CLAIM, _of(upload_id), [upload_id, repr(now), repr(expires), *_FIELDS])
        return self._record(upload_id, values)

    async def extend(self, upload_id: str, expires: float) -> None:
        """Move the expiry, not to earlier."""
        await self._link.run(_EXTEND, _of(upload_id), [upload_id, repr(expires)])

    async def set_size(self, upload_id: str, size: int) -> None:
        """Note the size of an upload that had none."""
        if not await self._link.run(_SET_SIZE, _of(upload_id)[:1], [size]):
            raise _no_upload()

    async def delete(self, upload_id: str) -> None:
        """Remove the record."""
        await self._link.run(_DELETE, [*_of(upload_id), _TAG + "keys"], [upload_id])

    async def expired(self, now: float, limit: int) -> list[UploadRecord]:
        """Return up to `limit` records that expire at or before `now`, the oldest first."""
        found = await self._link.run(_EXPIRED, [_TAG + "expiry"], [repr(now), limit])
        if not found:
            return []
        ids = [upload_id.decode() for upload_id in found]
        values = await self._link.run(_GET_ALL, [_of(upload_id)[0] for upload_id in ids], list(_FIELDS))
        # Another daemon may have removed some since.
        return [self._record(*each) for each in zip(ids, values, strict=True) if each[1][0] is not None]

    async def has_key(self, key: str) -> bool:
        """Tell whether there is an upload that becomes the file under `key`."""
        return bool(await self._link.run(_HAS_KEY, [_TAG + "keys"], [key]))

    def _record(self, upload_id: str, values: list[bytes | None] | None) -> UploadRecord:
        if values is None or values[0] is None:
            raise _no_upload()
        texts = dict(zip(_FIELDS, values, strict=True))
        size, sha256, terms = texts.pop("size"), texts.pop("sha256"), texts.pop("terms")
        try:
            text: dict[str, Any] = {
                name: value.decode() for name, value in texts.items() if value is not None
            }
            return UploadRecord(
                id=upload_id,
                key=text["key"],
                name=text["name"],
                size=None if size is None else int(size),
                content_type=text["content_type"],
                created=float(text["created"]),
                expires=float(text["expires"]),
                sha256=sha256,
                metadata=text["metadata"],
                epoch=int(text["epoch"]),
                ttl=float(text["ttl"]) if "ttl" in text else None,
                terms=Terms.unpack(terms or b""),
            )
        except (KeyError, ValueError) as error:
            raise StorageError(
                f"a record under {_TAG}upload: in Redis at {self._link.address} is none of ours ({error})"
            ) from error


def _of(upload_id: str) -> list[str]:
    return [f"{_TAG}upload:{upload_id}", _TAG + "expiry"]


def _no_upload() -> NotFound:
    return NotFound("there is no upload of this id")


@asynccontextmanager
async def upload_store(address: RedisAddress, ca: Path | None = None) -> AsyncIterator[RedisUploads]:
    """Open the records; Redis is asked at the first call. For arguments and errors see `redis_link`."""
    async with redis_link(address, ca, _TAG + "probe") as link:
        yield RedisUploads(link)
