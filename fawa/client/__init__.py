"""The trio client library: the same dialects and HTTP engine in their client role."""
