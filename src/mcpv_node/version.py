"""The version of this package, as setup.cfg has it; a test holds the two together.

A constant, because asking the installed distribution costs more than all of `mcpv-node stdio`.
"""

VERSION = "0.1.0"
