"""Invoices: what a customer owes, line by line."""

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass
class Line:
    """One position of an invoice."""

    what: str
    count: int
    price: Decimal

    def total(self) -> Decimal:
        """What this position costs, without tax."""
        return self.price * self.count


@dataclass
class Invoice:
    """All positions, with the tax that they bear."""

    customer: str
    lines: list[Line] = field(default_factory=list)
    tax: Decimal = Decimal("0.19")

    def add(self, what: str, count: int, price: str) -> "Invoice":
        """Add one position; returns the invoice, so that calls chain."""
        self.lines.append(Line(what, count, Decimal(price)))
        return self

    def net(self) -> Decimal:
        """The sum of all positions."""
        return sum((line.total() for line in self.lines), Decimal(0))

    def gross(self) -> Decimal:
        """The sum with tax, to the cent."""
        return (self.net() * (1 + self.tax)).quantize(Decimal("0.01"))
