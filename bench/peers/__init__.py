"""Other systems that compute together, in an environment of their own: `make peers`."""
