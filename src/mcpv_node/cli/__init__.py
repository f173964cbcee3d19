"""The command line: one file per command.

# Layout

`app` is the group and what all commands end in; `common` is what they share on the way in (`--json`,
`--state-dir`, errors), `output` on the way out. `stdio` stands alone: it is started again and again and must cost
nothing. `detach` starts a node that outlives its command. Each command is imported when it is used.
"""
