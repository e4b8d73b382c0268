"""Fixtures that tests of several folders share."""

from tests.support.space import space_of_four

__all__ = ["space_of_four"]
