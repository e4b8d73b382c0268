"""Design columns: what a fit multiplies its coefficients with, one number a row (PROTOCOL §4).

A formula such as `y ~ age * C(sex) + log(income)` becomes a list of these before it is sent, so holders parse no
formula: each column is a product of factors, and a factor is a function of an expression of the closed algebra.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from ceiba_protocol.canonical import Document, Text
from ceiba_protocol.expression import Expression


class Function(StrEnum):
    """What is done to a factor's exact value, in float64; undefined values are NULL, so the row is left out."""

    VALUE = "value"
    LOG = "log"
    LOG1P = "log1p"
    SQRT = "sqrt"
    EXP = "exp"


class Factor(Document):
    """`function(value)`; a condition counts as 1 or 0."""

    value: Expression
    function: Function = Function.VALUE


class DesignColumn(Document):
    """The product of its factors, under the name that a summary shows, such as `C(sex)[T.male]:age`."""

    name: Text
    factors: Annotated[tuple[Factor, ...], Field(min_length=1, max_length=8)]
