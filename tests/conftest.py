"""Fixtures that tests of several folders share, and how properties are tested."""

from hypothesis import settings

from tests.support.space import space_of_four

__all__ = ["space_of_four"]

settings.register_profile("shared machine", deadline=None)  # how long an example takes says something about the machine
settings.load_profile("shared machine")
