"""The configuration as frozen data: every key, its type, its default, its range.

The reader is driven by these types, so what is written here is what a file may say. YAML keys are the field
names in camelCase. Durations are seconds. Rules between keys are in `rules`, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NewType

from msgspec import Meta, Struct, field

ServerName = NewType("ServerName", str)
SpecKey = NewType("SpecKey", str)

Transport = Literal["stdio", "streamable-http", "sse"]
ServerStrategy = Literal["stateless", "stateful", "exclusive", "singleton", "persistent"]
ActivationMode = Literal["on-demand", "always-on"]
BootstrapMode = Literal["metadata", "disabled"]
RetryCalls = Literal["annotated", "never"]
ToolNamespace = Literal["prefix", "flat"]
ToolSeparator = Literal["_", "-", "."]
ReloadMode = Literal["lenient", "strict"]
PinTools = Literal["off", "warn", "block"]
LogLevel = Literal["trace", "debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]
OAuthGrant = Literal["client-credentials", "authorization-code"]
Durability = Literal["full", "normal"]

# Spellings that mean the same and are accepted.
SPELLINGS: Mapping[str, str] = {"streamable_http": "streamable-http"}

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,31}$"

# Longer than any wait that makes sense, and short enough for every timer below us.
ONE_YEAR = 31_536_000.0

Seconds = Annotated[float, Meta(ge=0, le=ONE_YEAR)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=ONE_YEAR)]
Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(ge=1)]
Ratio = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Text = Annotated[str, Meta(min_length=1)]


class RestartSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """How often, and how fast, a failed instance is started again."""

    max_retries: Count = 5
    base_seconds: PositiveSeconds = 1.0
    max_seconds: PositiveSeconds = 30.0


class LimitSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """What one instance may use; None is no limit."""

    memory_mb: PositiveCount | None = field(default=None, name="memoryMB")
    open_files: PositiveCount | None = None
    nice: Annotated[int, Meta(ge=0, le=19)] | None = None
    cpu_seconds: PositiveCount | None = None


class ServerTlsSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """How a server behind https is believed, and who we are to it; files in PEM."""

    # Whose certificates are believed; None: those the system believes.
    ca: Text | None = None
    # What we show a server that asks, and its key, unless that is in the same file.
    cert: Text | None = None
    key: Text | None = None
    # False believes anybody.
    verify: bool = True


class OAuthSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """How a token for a server is had."""

    grant: OAuthGrant = "client-credentials"
    # None: the node registers itself, which goes with authorization-code only.
    client_id: Text | None = None
    client_secret: Text | None = None
    # The authorization server that knows the client: its secret goes nowhere else.
    issuer: Text | None = None


class ServerSpec(Struct, frozen=True, kw_only=True, rename="camel"):
    """One entry of `servers:`."""

    name: Annotated[ServerName, Meta(pattern=NAME_PATTERN)]
    transport: Transport = "stdio"
    command: str = ""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str = ""
    headers: dict[str, str] = {}
    tls: ServerTlsSettings | None = None
    # An http URL, or "none". None: what the environment says.
    proxy: Text | None = None
    oauth: OAuthSettings | None = None
    # Normalised: trimmed, lower case, sorted, no doubles.
    tags: tuple[Text, ...] = ()
    disabled: bool = False
    # None: all tools.
    expose_tools: tuple[Text, ...] | None = None
    strategy: ServerStrategy = "stateless"
    max_concurrent: PositiveCount = 1
    min_ready: Count = 0
    max_instances: PositiveCount = 4
    # In loaded settings the node's default has already been filled in.
    activation_mode: ActivationMode = "on-demand"
    idle_seconds: Seconds = 60.0
    session_ttl_seconds: Seconds = field(default=300.0, name="sessionTTLSeconds")
    start_timeout_seconds: PositiveSeconds = 30.0
    call_timeout_seconds: PositiveSeconds = 60.0
    max_call_seconds: PositiveSeconds = 3600.0
    queue_timeout_seconds: Seconds = 30.0
    queue_limit: Count = 256
    drain_timeout_seconds: Seconds = 30.0
    stop_grace_seconds: Seconds = 2.0
    restart: RestartSettings = RestartSettings()
    retry_calls: RetryCalls = "annotated"
    limits: LimitSettings = LimitSettings()
    # 0: never pinged.
    ping_interval_seconds: Seconds = 30.0
    ping_timeout_seconds: PositiveSeconds = 5.0
    ping_failures: PositiveCount = 3

    @property
    def is_stdio(self) -> bool:
        """Tell whether an instance is a child process."""
        return self.transport == "stdio"


class TlsSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """The certificate of the HTTP door."""

    cert: Text
    key: Text


class ListenSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """Where the doors are."""

    http: Text = "127.0.0.1:8090"
    tls: TlsSettings | None = None


class TokenSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """One bearer token: its name is the principal, its selector is all its bearer may see."""

    name: Text
    file: Text
    server: Name | None = None
    tags: tuple[Text, ...] | None = None
    profile: Name | None = None


class IssuerSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """An OAuth authorization server whose tokens open the door, too. They never open what operates the node."""

    issuer: Text
    # Who we are to it: the audience of its tokens. None: the URL of /mcp at the address that is listened on.
    audience: Text | None = None
    # Where its keys are. None: its metadata says.
    jwks_uri: Text | None = None
    # Told to clients that come without a token, as what to ask for.
    scopes: tuple[Text, ...] = ()
    # A token without all of these is refused.
    required_scopes: tuple[Text, ...] = ()
    # The claim that says who it is.
    principal_claim: Text = "sub"
    # What its tokens show. None: every server.
    profile: Name | None = None


class AuthSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """Who may come in, and under which names the node is reached."""

    tokens: tuple[TokenSettings, ...] = ()
    oauth: IssuerSettings | None = None
    allowed_hosts: tuple[Text, ...] = ()
    allowed_origins: tuple[Text, ...] = ()


class JournalSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """How durable a committed execution is."""

    durability: Durability = "full"


class ClusterSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """The cluster this node belongs to. A node on its own has nothing to say here."""


class NodeLimits(Struct, frozen=True, kw_only=True, rename="camel"):
    """Bounds of what the node takes from clients and servers."""

    body_bytes: PositiveCount = 4 * 1024 * 1024
    line_bytes: PositiveCount = 16 * 1024 * 1024
    depth: PositiveCount = 512
    sessions: PositiveCount = 10_000
    session_idle_seconds: PositiveSeconds = 1800.0
    in_flight_per_session: PositiveCount = 64
    in_flight_per_principal: PositiveCount = 512
    list_page: PositiveCount = 1000
    # Of one principal, at all doors together; 0: as many as it likes.
    requests_per_minute: Count = 0


class LogSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """What is logged, how, and where to besides stderr."""

    level: LogLevel = "info"
    # auto: JSON when stderr is not a terminal.
    format: LogFormat = "auto"
    file: Text | None = None
    # A file that is longer begins anew, and so many of the former are kept.
    rotate_mb: PositiveCount = field(default=50, name="rotateMB")
    keep: Count = 10
    # Who asked which server for what, a line each; None: nowhere.
    audit: Text | None = None


class OtlpSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """Where spans of calls go. What is None here the OTEL_* variables may say, as for any program."""

    # The collector's, for OTLP over HTTP.
    endpoint: Text | None = None
    headers: dict[str, str] = {}
    service_name: Text | None = None
    # Of the calls that bring no trace of their own; whoever brings one has decided.
    sample_ratio: Ratio | None = None


class TelemetrySettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """What is told of the node's work to other systems."""

    # None: no traces are made.
    otlp: OtlpSettings | None = None


class ToolRules(Struct, frozen=True, kw_only=True, rename="camel"):
    """Which tools a profile shows: all but `deny`, or of these only `allow`."""

    allow: tuple[Text, ...] | None = None
    deny: tuple[Text, ...] = ()


class ProfileSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """A named set of servers and what its clients may see."""

    name: Name
    # None: all servers.
    servers: tuple[ServerName, ...] | None = None
    tags: tuple[Text, ...] = ()
    tools: ToolRules = ToolRules()


class NodeSettings(Struct, frozen=True, kw_only=True, rename="camel"):
    """Everything a node was told."""

    servers: tuple[ServerSpec, ...]
    profiles: tuple[ProfileSettings, ...] = ()
    bootstrap_mode: BootstrapMode = "metadata"
    bootstrap_concurrency: PositiveCount = 3
    bootstrap_timeout_seconds: PositiveSeconds = 30.0
    default_activation_mode: ActivationMode = "on-demand"
    tool_namespace: ToolNamespace = "prefix"
    tool_separator: ToolSeparator = "_"
    # 0: lists are read again only when a server says that they changed.
    refresh_seconds: Seconds = 0.0
    reload_mode: ReloadMode = "lenient"
    client_inactive_seconds: PositiveSeconds = 300.0
    client_check_seconds: PositiveSeconds = 5.0
    listen: ListenSettings = ListenSettings()
    auth: AuthSettings = AuthSettings()
    state_dir: Text | None = None
    journal: JournalSettings = JournalSettings()
    cluster: ClusterSettings | None = None
    limits: NodeLimits = NodeLimits()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    pin_tools: PinTools = "off"
