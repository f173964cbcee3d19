"""A node as a service: in the hands of a service manager, or of a supervisor of its own where there is none.

# Layout

`keeping` decides, purely, what the supervisor does; `node_process` is the node as its child; `supervised` the Thespian
actor that owns the child, and the process around it. `definition` says what a service manager is to know of a node,
`systemd` and `launchd` write it down as their service managers read it, `commands` runs their programs.
"""
