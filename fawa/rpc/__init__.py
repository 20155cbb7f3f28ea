"""The RPC dialects (gRPC, gRPC-Web, Connect) without I/O: envelopes, metadata, status, compression."""
