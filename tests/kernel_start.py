"""What the kernel of a notebook runs first in the tests. It leaves no name behind that a cell could lean on."""

__import__("tests.threefry").threefry.write_out()
