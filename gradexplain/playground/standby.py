"""What the standby loads, so that its forks need not; it is imported there alone, and runs nothing of torch."""

# ruff: noqa: F401, E402  # loaded, not used; and first of all it is seen to that it ends with its server
from gradexplain.training.confinement import die_with_parent

die_with_parent()

import jinja2
import sympy.combinatorics
import sympy.tensor.tensor
import torch._dynamo  # loaded by torch itself at the first function that it transforms

import gradexplain.api
import gradexplain.documents.console
import gradexplain.graphs.formats.html
import gradexplain.pages.drawing
import gradexplain.pages.moments
import gradexplain.playground.computing
import gradexplain.playground.drawing
from gradexplain.graphs.formats.html import template_of
from gradexplain.locale.catalogue import LANGUAGES, sentences
from gradexplain.pages.page import TEMPLATE
from gradexplain.rules.registry import rules

rules()
template_of(TEMPLATE)
for language in LANGUAGES:
    sentences(language)
