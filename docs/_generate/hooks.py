"""Changes to the pages that no plugin makes."""

import re
from typing import Any

BLOCK = re.compile(r'<math [^>]*display="block".*?</math>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Put each block formula into a box of its own, which scrolls if the formula is wider than the page."""
    return BLOCK.sub(lambda formula: f'<div class="formula">{formula[0]}</div>', html)


def on_post_page(output: str, **_: Any) -> str:
    """Name the search for readers of a screen, which the theme does not."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')
