"""Encrypted sums: packed Paillier under the merchant's key, with pairwise masks between the holders (PROTOCOL §2)."""
