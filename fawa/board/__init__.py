"""The whiteboard without I/O: commands and the time go in, effects and frames come out.

A glossary:

- **event**: one thing that happens on a board (`events.DrawEvent`), a segment of a stroke for instance.
- **stroke**: the segments that a client drew in one go, under a number that it chose. It can be taken back.
- **proposal**: an event that has no place in the order yet; **entry**: one that has, a committed event.
- **bus**: what puts the proposals of a board in order, outside; `Publish` and `Committed` speak with it.
- **seq**: an entry's number in the order of its board; **epoch**: the name within which those numbers go on.
- **op**: an event's number among those of its sender, by which none is taken twice.
- **peer**: a client that is here, on one connection; **member**: a client whose numbered events are known.
- **command**, **effect**: what is asked of a board, and what it wants done (`commands`, `effects`).
- **shell**: who sends the commands, does the effects, and has the sockets and the clock: `fawa.rooms`.
- **log**: the newest entries as they are; **snapshot**: what can be seen of older ones; both: **history**.
- **run**: events that differ in their coordinates alone and follow one another, kept as a list of points.
- **wire**: a format and its framing (`wire`); **frame**: bytes ready to be sent on one.
- **channel**: what the peers on one wire share; **tape**: their frames in order, of which each peer has a
  **place**; **batch**: frames that are sent at once; **reel**: batches made for who joins or is behind.
- **lane**: presence, status and cursors, of which only the latest is sent.
- **ladder**: what happens to a peer that reads slowly: larger batches; the lane is left out; a snapshot
  replaces what waits; its connection is closed.
"""
