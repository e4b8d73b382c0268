"""Engines: what turns a compiled question into the integer totals of one holder's snapshot."""
