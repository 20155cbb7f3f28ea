"""The I/O shell of the boards: it performs what the engine wants done.

    adapter ── Seat ── Room ── Board (fawa.board, pure)
                        │
                      Rooms: flusher, alarms, copies

An adapter (WebSocket, gRPC) gives its `Connection` to a room, draws through the `Seat` it gets, and ends when
it is told to. What is sent to it comes by `Connection.push`, a batch at a time.
"""
