"""What is counted of files and stores, and the figures that `/metrics` shows of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final

import attrs

from fawa.ops.meters import Figure
from fawa.storage.watching import StoreWatch

#: What a sweep removes: files, uploads that were not finished, and what was found to be nobody's.
SWEPT: Final = ("file", "upload", "stray")


@attrs.define(eq=False)
class Flow:
    """Transfers in one direction by one way.

    It is the context of a transfer, that is of one request or call that moves content: a large file may come
    in several. All are counted together, so nothing is kept from one to another.
    """

    started: int = 0
    #: Ended as the client wanted.
    finished: int = 0
    #: Broken off by either side, or refused on the way.
    failed: int = 0
    #: Of content.
    bytes: int = 0
    #: Uploads that went on where an earlier transfer had ended.
    resumed: int = 0

    async def __aenter__(self) -> Flow:
        self.started += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if error is None:
            self.finished += 1
        else:
            self.failed += 1


@attrs.frozen(eq=False)
class Transfers:
    """All transfers of content, by direction and way."""

    #: Up by `SendFile`, tus, the IETF's draft, and in one request.
    rpc_up: Flow = attrs.field(factory=Flow, init=False)
    tus: Flow = attrs.field(factory=Flow, init=False)
    draft: Flow = attrs.field(factory=Flow, init=False)
    put: Flow = attrs.field(factory=Flow, init=False)
    #: Down by `ReceiveFile`, and by links through this daemon; the backend's own links are not seen.
    rpc_down: Flow = attrs.field(factory=Flow, init=False)
    link: Flow = attrs.field(factory=Flow, init=False)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What to show."""
        ways = {
            ("up", "rpc"): self.rpc_up,
            ("up", "tus"): self.tus,
            ("up", "draft"): self.draft,
            ("up", "put"): self.put,
            ("down", "rpc"): self.rpc_down,
            ("down", "link"): self.link,
        }

        def figure(name: str, text: str, count: Callable[[Flow], int]) -> Figure:
            def read() -> list[tuple[tuple[str, ...], float]]:
                return [(way, count(flow)) for way, flow in ways.items()]

            return Figure(name, text, read, ("direction", "way"), counts=True)

        return (
            figure(
                "fawa_transfers_started",
                "Calls and requests that began to move a file's content.",
                lambda flow: flow.started,
            ),
            figure("fawa_transfers_finished", "Those that ended well.", lambda flow: flow.finished),
            figure(
                "fawa_transfers_failed",
                "Those that broke off, by either side, or were refused on the way.",
                lambda flow: flow.failed,
            ),
            figure("fawa_transfer_bytes", "Bytes of content that they moved.", lambda flow: flow.bytes),
            Figure(
                "fawa_uploads_resumed",
                "Uploads that went on where an earlier transfer had ended.",
                lambda: [((way,), ways["up", way].resumed) for way in ("rpc", "tus", "draft")],
                ("way",),
                counts=True,
            ),
        )


@attrs.define(eq=False)
class Swept:
    """What sweeps of the file stores did."""

    done: int = 0
    #: Something remained that should be gone.
    failed: int = 0
    removed: Counter[str] = attrs.field(factory=Counter, init=False)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What to show."""
        return (
            Figure(
                "fawa_file_sweeps",
                "Looks for what has expired; `failed` left some of it.",
                lambda: [(("done",), self.done), (("failed",), self.failed)],
                ("outcome",),
                counts=True,
            ),
            Figure(
                "fawa_file_sweep_removed",
                "What they removed: files, unfinished uploads, and what crashes had left.",
                lambda: [((what,), self.removed[what]) for what in SWEPT],
                ("what",),
                counts=True,
            ),
        )


def storage_figures(watches: Iterable[StoreWatch]) -> tuple[Figure, ...]:
    """Return what to show of stores."""
    stores = tuple(watches)
    if not stores:
        return ()
    return (
        Figure(
            "fawa_storage_up",
            "Whether a store's backend could be reached when it was last asked.",
            lambda: [((watch.store, watch.backend), watch.is_up) for watch in stores],
            ("store", "backend"),
        ),
        Figure(
            "fawa_storage_failures",
            "Operations that failed; not those that found nothing, or lost against another.",
            lambda: [
                ((watch.store, watch.backend, kind), count)
                for watch in stores
                for kind, count in watch.failures.items()
            ],
            ("store", "backend", "kind"),
            counts=True,
        ),
    )
