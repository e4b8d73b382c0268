"""The Ceiba protocol: the wire schema and every rule that two parties share. No I/O, no clock, no randomness."""
