"""Formulas become MathML while the site is built: readers load no script for them.

A Markdown extension, so that every builder runs it. It follows `pymdownx.arithmatex`,
which finds the formulas. Install the package with `pip install -e`, or build by
`python -m`, and builders find this file as `docs.maths`.
"""

import html
import re

from latex2mathml.converter import convert
from markdown.extensions import Extension
from markdown.postprocessors import Postprocessor


_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL
)


class _ToMathML(Postprocessor):
    def run(self, text):
        return _FORMULA.sub(_to_mathml, text)


class Maths(Extension):
    def extendMarkdown(self, md):
        # After everything that puts HTML back in its place (30) and ampersands (20).
        md.postprocessors.register(_ToMathML(md), "maths", 10)


def makeExtension(**options):
    return Maths(**options)


def _to_mathml(match):
    display = "block" if match[1] == "div" else "inline"
    formula = convert(html.unescape(match[2]).strip(), display=display)
    # A wide formula scrolls in its own box.
    return f'<div class="formula">{formula}</div>' if match[1] == "div" else formula
