"""Fits: statistics that take several rounds, whose iterates stay with the holders (PROTOCOL §4.1).

Every holder sums over its own rows in float64 and rounds to integers; the masked sum is exact; and the next iterate
follows from the sum by correctly rounded arithmetic, so that all holders derive the same one and nobody proposes it.
"""
