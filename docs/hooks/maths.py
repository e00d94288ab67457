"""Formulas become MathML while the site is built: readers load no script for them."""

import html
import re

from latex2mathml.converter import convert


_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL
)


def on_page_content(content, **kwargs):
    def to_mathml(match):
        display = "block" if match[1] == "div" else "inline"
        return convert(html.unescape(match[2]), display=display)

    return _FORMULA.sub(to_mathml, content)
