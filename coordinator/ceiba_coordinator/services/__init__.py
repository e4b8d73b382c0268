"""Thin gRPC adapters: translate, call, answer. What may happen is decided in `jobs` and `membership`."""
