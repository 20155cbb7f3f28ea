"""fawa: a self-hosted daemon for real-time collaboration and file transfer, on Trio."""

__version__ = "0.1.0"
