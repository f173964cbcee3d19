"""`mcpv-node completion SHELL`: a script that completes verbs, options and their values.

It asks the program itself, so it knows every verb there is.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .common import common_options, invocation
from .output import print_json

# What the script sets when it asks: the program's name in capitals, as the library expects it.
VARIABLE = "_MCPV_NODE_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
      bash: eval "$(mcpv-node completion bash)"      in ~/.bashrc
      zsh:  eval "$(mcpv-node completion zsh)"       in ~/.zshrc, after compinit
      fish: mcpv-node completion fish > ~/.config/fish/completions/mcpv-node.fish
    """
    context = click.get_current_context().find_root()
    maker = get_completion_class(shell)
    if maker is None:
        raise click.UsageError(f"there is no completion for {shell}")
    made = maker(context.command, {}, "mcpv-node", VARIABLE)
    # Not source(): it runs the shell to ask for its version.
    script = made.source_template % made.source_vars()
    if invocation().as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
