"""Listeners and connections: bytes on one side, `Exchange`s (one request, one response) on the other."""
