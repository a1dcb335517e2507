"""Tests of QIR; tests/golden holds programs and what must come out of them."""
