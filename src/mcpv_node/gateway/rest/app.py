"""The application: every route on one screen."""

from __future__ import annotations

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from mcpv_node.actors.kernel import ActorError
from mcpv_node.gateway.event_streams import EventStreams
from mcpv_node.gateway.log_streams import LogStreams
from mcpv_node.gateway.services import DoorServices

from .catalog import show_catalog
from .clients import keep_client, list_clients, register_client, remove_client
from .config import reload_config
from .entries import (
    add_server,
    change_server,
    disable_server,
    enable_server,
    remove_server,
    show_entry,
)
from .events import follow_events
from .learning import refresh_catalog
from .lists import approve_tools
from .logs import follow_logs
from .node import list_nodes, show_node, show_tree, stop_node
from .problems import on_actor_error, on_error, on_http_error
from .servers import list_servers, retry_server, show_server, start_server, stop_server


class _Rest(Litestar):
    """Litestar that knows msgspec only.

    By itself it imports pydantic and attrs where somebody has installed them, for types we do not use: 8 MB.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def create_rest_app(services: DoorServices, streams: EventStreams, logs: LogStreams) -> Litestar:
    """Make the application. What it gets travels in its state, as `services`, `streams` and `logs`."""
    return _Rest(
        route_handlers=[
            Router(
                path="/api/v1",
                route_handlers=[
                    show_node,
                    show_tree,
                    list_servers,
                    show_server,
                    show_catalog,
                    refresh_catalog,
                    approve_tools,
                    reload_config,
                    stop_node,
                    start_server,
                    stop_server,
                    retry_server,
                    show_entry,
                    add_server,
                    change_server,
                    remove_server,
                    enable_server,
                    disable_server,
                    list_clients,
                    register_client,
                    keep_client,
                    remove_client,
                    follow_events,
                    follow_logs,
                    list_nodes,
                ],
            )
        ],
        state=State({"services": services, "streams": streams, "logs": logs}),
        exception_handlers={HTTPException: on_http_error, ActorError: on_actor_error, Exception: on_error},
        openapi_config=OpenAPIConfig(
            title="mcpv-node",
            version=services.version,
            path="/api",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            use_handler_docstrings=True,
        ),
        # Our own logging is set up by whoever runs the node; Litestar's would start a thread.
        logging_config=None,
        request_max_body_size=services.node.settings.limits.body_bytes,
    )
