"""Copies the tables of docs/results/NAME.md into the pages that ask for them.

    python tools/copy_results.py [--check]

A page asks with `<!-- result NAME -->` ... `<!-- end -->`; what stands between is replaced by title, command, table and
note of the file. `--check` changes nothing and exits 1 where a page differs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PLACE = re.compile(r"(<!-- result (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The page with every place filled from its results file."""

    def body(match: re.Match) -> str:
        lines = (ROOT / "docs" / "results" / f"{match[2]}.md").read_text(encoding="utf-8").strip().splitlines()
        return match[1] + "\n".join([lines[0].replace("# ", "### ", 1), *lines[1:]]) + "\n\n" + match[3]

    return PLACE.sub(body, text)


def main() -> int:
    """Fills or checks all pages under docs/ and the README."""
    stale = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(page)
            if "--check" not in sys.argv:
                page.write_text(filled(text), encoding="utf-8")
    print(*(f"{'stale' if '--check' in sys.argv else 'filled'}: {p.relative_to(ROOT)}" for p in stale), sep="\n")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
