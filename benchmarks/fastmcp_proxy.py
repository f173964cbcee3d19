"""fastmcp's own proxy in front of a command, as its documentation writes it; run by the environment it is installed in.

python fastmcp_proxy.py PORT COMMAND [ARGUMENT ...]
"""

import sys

from fastmcp.server import create_proxy

port, command, *arguments = sys.argv[1:]
proxy = create_proxy({"mcpServers": {"echo": {"command": command, "args": arguments}}}, name="proxy")
proxy.run(transport="http", host="127.0.0.1", port=int(port), show_banner=False, log_level="ERROR")
