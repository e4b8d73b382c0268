"""The innovation lab: a whole space on one machine, and stories that run on it."""

from ceiba_scenarios.sandbox import Sandbox

__all__ = ["Sandbox"]
