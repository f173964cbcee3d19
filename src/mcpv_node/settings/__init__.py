"""The configuration: what may be said, how it is read, and what it means.

# Layout

`types` is the data, with every default, `meanings` what each key is for; `loader` reads files (`reading` the typed
walk, `expand` the variables, `rules` what types cannot say, `problems` what was wrong); `find` knows where files
are; `spec_key` which entries are the same thing; `difference` what a new configuration changes, `marks` when to look
at the files again; `describe` shows the settings in effect without secrets, `explain`
with where each comes from; `editing` changes one entry of a file's text, `target` is the files it is in; `schema` is all of it for editors.

`editing`, `target`, `explain`, `schema` and `meanings` are imported by those who need them: a node that runs does not.
"""

from __future__ import annotations

from .describe import command_line, describe, describe_server, hide_secrets
from .difference import Change, ChangeClass, Difference, KeptGroup, compare, enabled_groups
from .find import PACKAGED_CONFIG, find_config, state_dir, user_config
from .loader import Loaded, load_settings
from .marks import Marks, file_marks
from .problems import Problem, SettingsError
from .rules import is_private_way, parse_address
from .secrets import secret_values
from .spec_key import ServerGroup, group_servers, pool_settings, spec_key
from .types import (
    ActivationMode,
    AuthSettings,
    BootstrapMode,
    ClusterSettings,
    IssuerSettings,
    JournalSettings,
    LimitSettings,
    ListenSettings,
    LogSettings,
    NodeLimits,
    NodeSettings,
    OAuthSettings,
    OtlpSettings,
    PinTools,
    ProfileSettings,
    RestartSettings,
    ServerName,
    ServerSpec,
    ServerStrategy,
    ServerTlsSettings,
    SpecKey,
    TelemetrySettings,
    TlsSettings,
    TokenSettings,
    ToolNamespace,
    ToolRules,
    ToolSeparator,
    Transport,
)

__all__ = [
    "BootstrapMode",
    "PACKAGED_CONFIG",
    "ActivationMode",
    "AuthSettings",
    "Change",
    "ChangeClass",
    "ClusterSettings",
    "Difference",
    "KeptGroup",
    "IssuerSettings",
    "JournalSettings",
    "LimitSettings",
    "ListenSettings",
    "Loaded",
    "Marks",
    "LogSettings",
    "NodeLimits",
    "NodeSettings",
    "OAuthSettings",
    "OtlpSettings",
    "PinTools",
    "Problem",
    "ProfileSettings",
    "RestartSettings",
    "ServerGroup",
    "ServerName",
    "ServerSpec",
    "ServerStrategy",
    "ServerTlsSettings",
    "SettingsError",
    "SpecKey",
    "TelemetrySettings",
    "TlsSettings",
    "TokenSettings",
    "ToolNamespace",
    "ToolRules",
    "ToolSeparator",
    "Transport",
    "command_line",
    "describe",
    "describe_server",
    "compare",
    "enabled_groups",
    "file_marks",
    "find_config",
    "group_servers",
    "hide_secrets",
    "is_private_way",
    "load_settings",
    "parse_address",
    "pool_settings",
    "secret_values",
    "spec_key",
    "state_dir",
    "user_config",
]
