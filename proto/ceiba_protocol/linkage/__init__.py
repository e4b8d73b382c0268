"""Matching the same subject across holders and computing over the matches, no identifier shown (PROTOCOL §5)."""
