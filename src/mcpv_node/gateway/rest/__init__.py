"""The REST application: what the node is and does, as JSON, for operators and programs.

Mounted below `/api` by the HTTP door, which has checked host, origin and token before. The descriptions of the routes
are their documentation at `/api/openapi.json`.

# Layout

`app` makes the application. One file per group of routes, each with the bodies it answers with: `node`, `servers`,
`entries` (the configuration), `catalog`, `clients`, `events`. `problems` is what an error looks like, `state` what the routes get of the node.
"""

from __future__ import annotations

from .app import create_rest_app

__all__ = ["create_rest_app"]
