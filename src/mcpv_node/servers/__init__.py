"""Two small MCP servers of our own, which need nothing from outside: what the default configuration runs.

Each is a program: `python -m mcpv_node.servers.clock`, `python -m mcpv_node.servers.notes`.
"""
