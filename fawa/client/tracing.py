"""The trace that a call belongs to, for those who use OpenTelemetry: fawa itself does not import it.

Header fields: https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import sys


def trace_fields() -> list[tuple[str, str]]:
    """Return what tells the server of the span that is active here; nothing where there is none."""
    # Whoever has an active span has imported this.
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return []
    context = api.get_current_span().get_span_context()
    if not context.is_valid:
        return []
    fields = [
        (
            "traceparent",
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 0xFF:02x}",
        )
    ]
    if state := context.trace_state.to_header():
        fields.append(("tracestate", state))
    return fields
