"""Records, copies of boards and leases in Redis, Valkey or Dragonfly, for daemons that share them.

Every change is one Lua script, so it happens whole or not at all. A script's keys share a hash tag, and so a
cluster's slot: `{fawa.files}`, `{fawa.boards}`, `{fawa.leases}`; `{fawa.uploads}` is `redis_uploads`'.

Records (`{fawa.files}`):

- `record:KEY`, a hash. Redis removes it `RECORD_MARGIN` after its file expires, counted by Redis's own clock.
- `reserved:KEY`, a sorted set of who is downloading the last of a limited number, by until when.
- `identity`, what tells these records from others.
- `expiry`, a sorted set of keys by when they expire; `keys`, of all, and `uploading`, of those that are: in
  the order of the keys. None of them is removed by time. So a file whose record Redis has removed, or lost to
  `maxmemory`, is still found by the sweep, its content before its key; only then is the key free again.
- `sizes`, a hash of the bytes of each file, as long as its key is in `keys`; `held`, the same of files to
  come, and `held_until`, a sorted set of when that runs out; `taken`, the sum of both.

Redis keeps what it acknowledged as well as it is told to: set `appendonly yes`, and `maxmemory-policy
noeviction`, or files can be lost.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from fawa.storage.base import AlreadyExists, FileRecord, NotFound, State, StorageError, Terms
from fawa.storage.leases import Lease
from fawa.storage.redis_link import InRedis, new_token, redis_link
from fawa.storage.redis_url import RedisAddress

#: Seconds that a record outlives its file at least: time for the sweep, also of a daemon that was away.
RECORD_MARGIN: Final = 7 * 86400.0

#: Keys fetched at once when iterating over all.
PAGE: Final = 1000

#: Copies that one run of the script removes, so that Redis is not held up.
SWEEP_BATCH: Final = 100

#: Bytes that a copy takes beside itself, about; as `boards.OVERHEAD`.
OVERHEAD: Final = 200

_FILES: Final = "{fawa.files}:"
_ROOM: Final = [_FILES + name for name in ("sizes", "held", "held_until", "taken")]
_BOARDS: Final = "{fawa.boards}:"
_LEASES: Final = "{fawa.leases}:"

# KEYS: record, expiry, keys, uploading, and those of room. An add that came through but whose answer was lost
# is known again by its token.
_ADD: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  return redis.call('HGET', KEYS[1], 'added_by') == ARGV[3] and 1 or 0
end
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'added_by', ARGV[3], unpack(ARGV, 7))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
redis.call('ZADD', KEYS[3], 0, ARGV[1])
if ARGV[5] == 'uploading' then redis.call('ZADD', KEYS[4], 0, ARGV[1]) end
redis.call('DECRBY', KEYS[8], redis.call('HGET', KEYS[6], ARGV[1]) or '0')
redis.call('HDEL', KEYS[6], ARGV[1])
redis.call('ZREM', KEYS[7], ARGV[1])
redis.call('HSET', KEYS[5], ARGV[1], ARGV[6])
redis.call('INCRBY', KEYS[8], ARGV[6])
return 1
"""
# KEYS: identity. ARGV: one that was just drawn.
_IDENTITY: Final = """
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
"""
_PUBLISH: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'state', 'ready')
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""
_GET: Final = "return redis.call('HMGET', KEYS[1], unpack(ARGV))"
# KEYS: record, expiry, keys, uploading, reserved, sizes, taken.
_DELETE: Final = """
redis.call('DEL', KEYS[1], KEYS[5])
for n = 2, 4 do redis.call('ZREM', KEYS[n], ARGV[1]) end
local size = redis.call('HGET', KEYS[6], ARGV[1])
if size then
  redis.call('HDEL', KEYS[6], ARGV[1])
  if redis.call('DECRBY', KEYS[7], size) == 0 then redis.call('DEL', KEYS[7]) end
end
"""
_COUNT: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HINCRBY', KEYS[1], 'downloads', 1) end
"""
# KEYS: record, reserved. ARGV: token, most, now, until.
_RESERVE: Final = """
local downloads = redis.call('HGET', KEYS[1], 'downloads')
if not downloads then return 0 end
local taken = redis.call('ZCOUNT', KEYS[2], '(' .. ARGV[3], '+inf')
local mine = redis.call('ZSCORE', KEYS[2], ARGV[1])
if mine and tonumber(mine) > tonumber(ARGV[3]) then taken = taken - 1 end
if downloads + taken >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[2], ARGV[4], ARGV[1])
redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
return 1
"""
# KEYS: record, reserved. ARGV: token, whether it was completed.
_RELEASE: Final = """
local had = redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if had == 1 and ARGV[2] == '1' then return redis.call('HINCRBY', KEYS[1], 'downloads', 1) end
return tonumber(redis.call('HGET', KEYS[1], 'downloads'))
"""
# KEYS: sizes, held, held_until, taken, as in `_ROOM`.
_FREE: Final = """
local function free(key)
  local size = redis.call('HGET', KEYS[2], key)
  if not size then return end
  redis.call('HDEL', KEYS[2], key)
  redis.call('ZREM', KEYS[3], key)
  if redis.call('DECRBY', KEYS[4], size) == 0 then redis.call('DEL', KEYS[4]) end
end
"""
_FREE_ROOM: Final = _FREE + "free(ARGV[1])"
_RUN_OUT: Final = (
    _FREE
    + """
local over
repeat
  over = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', ARGV[1], 'LIMIT', 0, 1000)
  for _, key in ipairs(over) do free(key) end
until #over == 0
"""
)
_ROOM_TAKEN: Final = _RUN_OUT + "return tonumber(redis.call('GET', KEYS[4]) or 0)"
# ARGV: now, key, size, most, until.
_HOLD_ROOM: Final = (
    _RUN_OUT
    + """
local held = tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0)
local own = tonumber(redis.call('HGET', KEYS[1], ARGV[2]) or 0)
local left = ARGV[4] - (redis.call('GET', KEYS[4]) or 0) + held + own
left = math.max(left, held)
local size = tonumber(ARGV[3])
if size > left then return left end
if size > held then redis.call('INCRBY', KEYS[4], string.format('%.0f', size - held)) end
redis.call('HSET', KEYS[2], ARGV[2], string.format('%.0f', math.max(size, held)))
local before = redis.call('ZSCORE', KEYS[3], ARGV[2])
if not before or tonumber(before) < tonumber(ARGV[5]) then redis.call('ZADD', KEYS[3], ARGV[5], ARGV[2]) end
return left
"""
)
_EXPIRED: Final = "return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])"
# KEYS: the set to go through, `uploading`. Returns a page, and those of it that are to be met.
_KEYS: Final = """
local page = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
if ARGV[3] ~= 'ready' then return {page, page} end
local met = {}
for _, key in ipairs(page) do
  if not redis.call('ZSCORE', KEYS[2], key) then met[#met + 1] = key end
end
return {page, met}
"""

_FIELDS: Final = (
    "name",
    "size",
    "content_type",
    "sha256",
    "created",
    "expires",
    "downloads",
    "state",
    "terms",
)


@attrs.frozen(eq=False)
class RedisRecords(InRedis):
    """Records; made by `metadata_store`. See `base.MetadataStore`."""

    async def identity(self) -> str:
        """Return what whoever asked first has drawn."""
        identity: bytes = await self._link.run(_IDENTITY, [_FILES + "identity"], [secrets.token_hex(16)])
        return identity.decode()

    async def add(self, record: FileRecord) -> None:
        """Store a new record."""
        values: dict[str, str | bytes | int | float] = {
            "name": record.name,
            "size": record.size,
            "content_type": record.content_type,
            "sha256": record.sha256,
            "created": repr(record.created),
            "expires": repr(record.expires),
            "downloads": record.downloads,
            "state": record.state.value,
            "terms": record.terms.pack(),
        }
        ttl = max(record.expires - record.created, 0.0) + RECORD_MARGIN
        added = await self._link.run(
            _ADD,
            [*_of(record.key), _FILES + "uploading", *_ROOM],
            [
                *(record.key, int(ttl * 1000), new_token(), repr(record.expires), record.state.value),
                record.size,
                *(part for field in values.items() for part in field),
            ],
        )
        if not added:
            raise AlreadyExists(f"there is a record under the key {record.key} already")

    async def publish(self, key: str) -> None:
        """Make the record `READY`."""
        if not await self._link.run(_PUBLISH, [_FILES + "record:" + key, _FILES + "uploading"], [key]):
            raise _no_record(key)

    async def get(self, key: str) -> FileRecord:
        """Return the record."""
        values = await self._link.run(_GET, [_FILES + "record:" + key], list(_FIELDS))
        if values[0] is None:
            raise _no_record(key)
        try:
            name, size, content_type, sha256, created, expires, downloads, state, terms = values
            return FileRecord(
                key=key,
                name=name.decode(),
                size=int(size),
                content_type=content_type.decode(),
                sha256=sha256,
                created=float(created),
                expires=float(expires),
                downloads=int(downloads),
                state=State(state.decode()),
                terms=Terms.unpack(terms or b""),  # what an earlier version has stored has none
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise StorageError(
                f"the record {_FILES}record:{key} in Redis at {self._link.address} is none of ours ({error})"
            ) from error

    async def delete(self, key: str) -> None:
        """Remove the record."""
        sizes, *_, taken = _ROOM
        keys = [*_of(key), _FILES + "uploading", _reserved(key), sizes, taken]
        await self._link.run(_DELETE, keys, [key])

    async def count_download(self, key: str) -> None:
        """Add one to the record's downloads; when the answer is lost, whether it did is not known."""
        await self._link.run(_COUNT, [_FILES + "record:" + key], [], again=False)

    async def reserve(self, key: str, token: str, most: int, now: float, until: float) -> bool:
        """Reserve one of `most` downloads."""
        keys = [_of(key)[0], _reserved(key)]
        return bool(await self._link.run(_RESERVE, keys, [token, most, repr(now), repr(until)]))

    async def release(self, key: str, token: str, *, completed: bool) -> int:
        """Give a reservation back; returns how many downloads were completed."""
        keys = [_of(key)[0], _reserved(key)]
        completed_by_now: int = await self._link.run(_RELEASE, keys, [token, int(completed)])
        return completed_by_now

    async def hold_room(self, key: str, size: int, most: int, now: float, until: float) -> int:
        """Hold room for a file to come; returns how many bytes there are for it."""
        left: int = await self._link.run(_HOLD_ROOM, _ROOM, [repr(now), key, size, most, repr(until)])
        return left

    async def free_room(self, key: str) -> None:
        """Give back what is held under the key."""
        await self._link.run(_FREE_ROOM, _ROOM, [key])

    async def room_taken(self, now: float) -> int:
        """Return the bytes of all files, and of what is held."""
        taken: int = await self._link.run(_ROOM_TAKEN, _ROOM, [repr(now)])
        return taken

    async def expired(self, now: float, limit: int) -> list[str]:
        """Return up to `limit` keys whose records expire at or before `now`, the oldest first."""
        keys = await self._link.run(_EXPIRED, [_FILES + "expiry"], [repr(now), limit])
        return [key.decode() for key in keys]

    async def keys(self, state: State | None = None) -> AsyncIterator[str]:
        """Iterate over the keys in their order, a page at a time."""
        source = "uploading" if state is State.UPLOADING else "keys"
        after = "-"
        while True:
            page, met = await self._link.run(
                _KEYS, [_FILES + source, _FILES + "uploading"], [after, PAGE, state.value if state else ""]
            )
            for key in met:
                yield key.decode()
            if len(page) < PAGE:
                break
            after = "(" + page[-1].decode()


def _of(key: str) -> list[str]:
    return [_FILES + "record:" + key, _FILES + "expiry", _FILES + "keys"]


def _reserved(key: str) -> str:
    return _FILES + "reserved:" + key


def _no_record(key: str) -> NotFound:
    return NotFound(f"there is no record under the key {key}")


# KEYS: saved (a hash), expiry, total. What a copy counts is what HSTRLEN says of it and OVERHEAD.
_PUT_BOARD: Final = """
local before = 0
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  before = redis.call('HSTRLEN', KEYS[1], ARGV[1]) + ARGV[4]
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('INCRBY', KEYS[3], string.format('%d', #ARGV[2] + ARGV[4] - before))
"""
_GET_BOARD: Final = """
local expires = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not expires or tonumber(expires) <= tonumber(ARGV[2]) then return false end
return redis.call('HGET', KEYS[1], ARGV[1])
"""
_REMOVE: Final = """
local function remove(code)
  local size = redis.call('HSTRLEN', KEYS[1], code) + OVERHEAD
  redis.call('HDEL', KEYS[1], code)
  redis.call('ZREM', KEYS[2], code)
  redis.call('INCRBY', KEYS[3], string.format('%d', -size))
end
""".replace("OVERHEAD", str(OVERHEAD))
_DELETE_BOARD: Final = _REMOVE + "if redis.call('ZSCORE', KEYS[2], ARGV[1]) then remove(ARGV[1]) end"
_SWEEP_BOARDS: Final = (
    _REMOVE
    + """
local codes = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, code in ipairs(codes) do remove(code) end
local removed = #codes
while removed < tonumber(ARGV[3])
    and tonumber(redis.call('GET', KEYS[3]) or 0) > tonumber(ARGV[2]) do
  local first = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
  if not first then break end
  remove(first)
  removed = removed + 1
end
return removed
"""
)


@attrs.frozen(eq=False)
class RedisBoards(InRedis):
    """Copies of boards; made by `board_store`. See `base.BoardStore`."""

    async def put(self, code: str, saved: bytes, expires: float) -> None:
        """Store a copy in place of the one before."""
        await self._link.run(_PUT_BOARD, _board_keys(), [code, saved, repr(float(expires)), OVERHEAD])

    async def get(self, code: str, now: float) -> bytes:
        """Return the copy."""
        saved: bytes | None = await self._link.run(_GET_BOARD, _board_keys(), [code, repr(now)])
        if saved is None:
            raise NotFound(f"there is no copy of a board {code}")
        return saved

    async def delete(self, code: str) -> None:
        """Remove the copy."""
        await self._link.run(_DELETE_BOARD, _board_keys(), [code])

    async def sweep(self, now: float, most: int) -> int:
        """Remove what has expired, and what is too much."""
        total = 0
        while True:
            removed: int = await self._link.run(_SWEEP_BOARDS, _board_keys(), [repr(now), most, SWEEP_BATCH])
            total += removed
            if removed < SWEEP_BATCH:
                return total


def _board_keys() -> list[str]:
    return [_BOARDS + "saved", _BOARDS + "expiry", _BOARDS + "total"]


# KEYS: holder, fence. ARGV: who asks, milliseconds.
_ACQUIRE: Final = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if holder then return tonumber(redis.call('GET', KEYS[2])) end
return redis.call('INCR', KEYS[2])
"""
# ARGV: who asks, fence, milliseconds; 0 lets go.
_CHANGE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
"""


@attrs.frozen(eq=False)
class RedisLeases(InRedis):
    """Leases; made by `lease_store`. See `leases.Leases`."""

    _holder: str = attrs.field(factory=new_token)

    async def acquire(self, name: str, ttl: float) -> Lease | None:
        """Return the lease, or `None` while another holder has it."""
        fence = await self._link.run(_ACQUIRE, _lease_keys(name), [self._holder, _milliseconds(ttl)])
        return Lease(name, fence) if fence else None

    async def renew(self, lease: Lease, ttl: float) -> bool:
        """Keep a lease; `False` when it was lost."""
        return await self._change(lease, _milliseconds(ttl))

    async def release(self, lease: Lease) -> None:
        """Let others have it at once."""
        await self._change(lease, 0)

    async def _change(self, lease: Lease, milliseconds: int) -> bool:
        arguments: list[Any] = [self._holder, lease.fence, milliseconds]
        return bool(await self._link.run(_CHANGE, _lease_keys(lease.name), arguments))


def _lease_keys(name: str) -> list[str]:
    return [f"{_LEASES}{name}:holder", f"{_LEASES}{name}:fence"]


def _milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1000))


@asynccontextmanager
async def metadata_store(address: RedisAddress, ca: Path | None = None) -> AsyncIterator[RedisRecords]:
    """Open the records; Redis is asked at the first call. For arguments and errors see `redis_link`."""
    async with redis_link(address, ca, _FILES + "probe") as link:
        yield RedisRecords(link)


@asynccontextmanager
async def board_store(address: RedisAddress, ca: Path | None = None) -> AsyncIterator[RedisBoards]:
    """Open the copies of boards, as `metadata_store`."""
    async with redis_link(address, ca, _BOARDS + "probe") as link:
        yield RedisBoards(link)


@asynccontextmanager
async def lease_store(address: RedisAddress, ca: Path | None = None) -> AsyncIterator[RedisLeases]:
    """Open the leases for a new holder, as `metadata_store`."""
    async with redis_link(address, ca, _LEASES + "probe") as link:
        yield RedisLeases(link)
