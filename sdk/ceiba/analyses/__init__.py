"""Analyses, one file each: which query is asked, and what is made of its answer.

Every file has an `Outcome` with its numbers and a function that makes the `Analysis` of a table; `methods.py` makes
them methods of a table.
"""
