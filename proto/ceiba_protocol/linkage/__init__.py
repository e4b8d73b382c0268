"""Matching and computing over the same subjects' columns at several holders, without showing identifiers."""
