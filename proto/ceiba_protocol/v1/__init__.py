"""The generated wire schema, package ceiba.v1. Rebuilt by `make proto`."""
