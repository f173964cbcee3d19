"""What is wrong with a spec.

ValueError
└── SpecError         whoever wrote the spec has to change it; nothing was started
"""

from __future__ import annotations


class SpecError(ValueError):
    """A child spec or a supervisor spec says something impossible; the message names which thing."""
