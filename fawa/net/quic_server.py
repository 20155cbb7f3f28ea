"""QUIC's server side without I/O: the shorter way of common packets, and our reset tokens."""

from __future__ import annotations

from fawa.net.quic_packets import QuicSecrets, TlsFacts
from fawa.net.quic_send import ShortSender


class ServerCore(ShortSender):
    """The server's side, with our reset tokens (RFC 9000 section 10.3).

    Args:
        facts: the certificate and the limits.
        secrets: makes reset tokens.
        original_cid: the connection ID that the client chose for its first packet.
        retry_cid: the one that our Retry gave it, if there was one.

    """

    def __init__(
        self, facts: TlsFacts, secrets: QuicSecrets, *, original_cid: bytes, retry_cid: bytes | None = None
    ) -> None:
        super().__init__(
            facts.configuration,
            facts.limits,
            original_destination_connection_id=original_cid,
            retry_source_connection_id=retry_cid,
        )
        self._secrets = secrets
        self._host_cids[0].stateless_reset_token = secrets.reset_token(self._host_cids[0].cid)

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()
        for cid in self._host_cids:
            if not cid.was_sent:
                cid.stateless_reset_token = self._secrets.reset_token(cid.cid)
