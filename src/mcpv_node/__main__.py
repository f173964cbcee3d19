"""`python -m mcpv_node` and the console script `mcpv-node`.

`stdio` is what clients start again and again: its way imports the standard library only.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command that `sys.argv` names; return its exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["stdio"]:
        from mcpv_node.cli.stdio import main as stdio_main

        return stdio_main(arguments[1:])
    from mcpv_node.cli.app import main as app_main

    return app_main(arguments)


if __name__ == "__main__":
    sys.exit(main())
