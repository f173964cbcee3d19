"""The owner of who wants to hear of which resource, and so of what each server is asked to tell."""

from __future__ import annotations

from typing import TypeAlias

from .instance.messages import ResourceUpdated

WatchesMessage: TypeAlias = ResourceUpdated
