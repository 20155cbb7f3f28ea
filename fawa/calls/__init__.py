"""The I/O shell of `fawa.rpc`: runs one call, from its exchange to its handler and back."""
