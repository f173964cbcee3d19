"""mcpv-node: one place that owns your MCP servers.

# Layout

`node` is the composition root; `actors` and `supervisors` are what lives in it; `gateway` are its doors;
`embedding` is the node for host applications, and its names are this package's public names.

Nothing is imported until it is asked for: the `stdio` command must start in a few milliseconds.
"""
