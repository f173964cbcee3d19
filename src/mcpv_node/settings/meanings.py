"""What each key of the configuration means, in the words of the reference and of editors.

The types say what may be written and what holds when nothing is; here is why one would write it. A test holds that
every key has a meaning and that no meaning is left of a key that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .types import (
    AuthSettings,
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
    ProfileSettings,
    RestartSettings,
    ServerSpec,
    ServerTlsSettings,
    TelemetrySettings,
    TlsSettings,
    TokenSettings,
    ToolRules,
)

# Beside the fields of an entry; it stands for `command` and `args`.
CMD = "cmd"

MEANINGS: Mapping[type[msgspec.Struct], Mapping[str, str]] = {
    NodeSettings: {
        "servers": "The servers of this node. `servers: []` for none.",
        "bootstrapMode": "`metadata`: at the start, run each server once whose tools are not known yet, so that they "
        "are listed. `disabled`: a server's tools are listed from its first run on.",
        "bootstrapConcurrency": "How many servers are learnt at once; each start costs a core for a moment.",
        "bootstrapTimeoutSeconds": "How long learning one server may take.",
        "defaultActivationMode": "`activationMode` of entries that do not say.",
        "toolNamespace": "`prefix`: tools are named `server_tool`. `flat`: their own names, the server's name only "
        "against collisions.",
        "toolSeparator": "What stands between the server's name and the tool's. `.` is listed as `_`, since one dotted name makes some "
        "clients drop the whole list.",
        "refreshSeconds": "0: lists are read again when a server says that they changed. More: servers that run are "
        "asked this often, too.",
        "reloadMode": "`lenient`: a reload that cannot be applied is refused and the node goes on as it is. "
        "`strict`: it stops the node.",
        "clientInactiveSeconds": "A client that was not heard of for this long does not count any more.",
        "clientCheckSeconds": "How often that is looked at.",
        "listen": "Where the doors are.",
        "auth": "Who may come in.",
        "stateDir": "Where the node keeps its state; relative to this file. Default: `$XDG_STATE_HOME/mcpv-node`, "
        "which is `~/.local/state/mcpv-node`.",
        "journal": "How durable an accepted execution is.",
        "cluster": "The cluster this node belongs to; a node on its own needs nothing here.",
        "limits": "Bounds of what the node takes from clients and servers.",
        "log": "What is logged, how, and where to besides stderr.",
        "telemetry": "What is told of the node's work to other systems.",
        "pinTools": "A tool whose definition is not the one first seen: `off` nothing, `warn`, or `block` it until it "
        "is approved.",
    },
    ServerSpec: {
        "name": "Unique; the prefix of its tools: up to 32 of a-z, 0-9, `_` and `-`, the first a letter or a digit.",
        "transport": "How the server is spoken to. A `url` without it means `streamable-http`.",
        "command": "stdio: the program.",
        "args": "stdio: its arguments.",
        CMD: "stdio: program and arguments as one list, in place of `command` and `args`.",
        "env": "stdio: variables for it, added to a minimal environment. Values are taken as written.",
        "cwd": "stdio: the folder it runs in, relative to this file; without it, the node's own.",
        "url": "http and sse: the server's address.",
        "headers": "http and sse: headers of every request; those the transport writes itself are refused.",
        "tls": "https: how the server is believed, and who the node is to it.",
        "proxy": "`none`, or an http URL. Without it `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` say; "
        "never for loopback.",
        "oauth": "How a token for the server is had (needs `pip install 'mcpv-node[oauth]'`).",
        "tags": "Who sees it: clients with one of these tags, or without any. Trimmed, in lower case.",
        "disabled": "`true`: not run, not listed.",
        "exposeTools": "Only these tools, by the server's own names; without it, all.",
        "strategy": "`stateless`: the least loaded instance. `stateful`: always the same one for the same key. "
        "`exclusive`: one instance for each key. `singleton`: one instance. `persistent`: never stopped for being "
        "idle.",
        "maxConcurrent": "Calls at once in one instance; many servers are not safe with more than one.",
        "minReady": "Instances kept warm while clients are there; it alone keeps nothing running. 0 starts on the "
        "first call.",
        "maxInstances": "Never more, whatever waits.",
        "activationMode": "`on-demand`: runs while somebody needs it. `always-on`: runs without clients, too, "
        "`minReady` instances and at least one. Default: `defaultActivationMode`.",
        "idleSeconds": "An instance above what is wanted stops after being idle for this long.",
        "sessionTTLSeconds": "How long a key stays with its instance; 0: for ever.",
        "startTimeoutSeconds": "From starting the program to the end of the handshake; a package may have to be "
        "downloaded first.",
        "callTimeoutSeconds": "How long a call may go without progress; progress starts it anew.",
        "maxCallSeconds": "How long a call may take in all, progress or not.",
        "queueTimeoutSeconds": "How long a caller waits for a slot.",
        "queueLimit": "Callers that may wait; more are refused at once.",
        "drainTimeoutSeconds": "What calls in flight get when their instance is to go.",
        "stopGraceSeconds": "Between asking a process to stop and making it.",
        "restart": "How often, and how fast, a failed instance is started again.",
        "retryCalls": "`annotated`: calls of tools marked read-only or idempotent are tried a second time. `never`: "
        "not these either.",
        "limits": "What one instance may use.",
        "pingIntervalSeconds": "How often an idle instance is asked whether it lives; 0: never.",
        "pingTimeoutSeconds": "How long it may take to answer.",
        "pingFailures": "Missed answers in a row, then it is replaced.",
    },
    RestartSettings: {
        "maxRetries": "Failures in a row, then the server is suspended until `mcpv-node server retry`.",
        "baseSeconds": "The first try is at once, the second after this, each next after twice as long, with jitter.",
        "maxSeconds": "The longest wait between two tries.",
    },
    LimitSettings: {
        "memoryMB": "Memory of the whole process group, looked at each ping interval.",
        "openFiles": "Open files of one process.",
        "nice": "How far it steps back for others.",
        "cpuSeconds": "CPU time of one process, then the kernel ends it.",
    },
    ServerTlsSettings: {
        "ca": "PEM file of whose certificates are believed; without it, those the system believes.",
        "cert": "PEM file of what the node shows a server that asks.",
        "key": "PEM file of its key, unless that is in the same file.",
        "verify": "`false` believes anybody.",
    },
    OAuthSettings: {
        "grant": "`client-credentials`: the node's own. `authorization-code`: for a server whose consent was given "
        "before.",
        "clientId": "Who the node is to the authorization server; with authorization-code it may be left out.",
        "clientSecret": "Its secret; better as `${file:PATH}`.",
        "issuer": "The authorization server that knows the client: the secret goes nowhere else.",
    },
    ListenSettings: {
        "http": "HOST:PORT of the HTTP door; port 0: any free one.",
        "tls": "The certificate of the HTTP door; without it, plain HTTP.",
    },
    TlsSettings: {
        "cert": "PEM file of the certificate and whoever stands between it and its authority, relative to this file; "
        "read again within a minute when it changes.",
        "key": "PEM file of its key, without a passphrase.",
    },
    AuthSettings: {
        "tokens": "Bearer tokens beside the node's own, which sees everything.",
        "allowedHosts": "Names under which the node may be reached, beside loopback.",
        "allowedOrigins": "Web pages that may call it; none by default.",
        "oauth": "An OAuth authorization server whose tokens open the door, too.",
    },
    IssuerSettings: {
        "issuer": "Its address; tokens of another are refused.",
        "audience": "Who the node is to it; without it, the URL of /mcp where the node listens.",
        "jwksUri": "Where its keys are; without it, its metadata says.",
        "scopes": "What clients without a token are told to ask for.",
        "requiredScopes": "A token without all of these is refused.",
        "principalClaim": "The claim that says who the bearer is.",
        "profile": "What its tokens show; without it, every server. They never operate the node.",
    },
    TokenSettings: {
        "name": "Who its bearer is.",
        "file": "The file with the token, relative to this file.",
        "server": "The only server its bearer sees.",
        "tags": "Its bearer sees servers with one of these tags, and untagged ones.",
        "profile": "Its bearer sees what this profile shows.",
    },
    JournalSettings: {
        "durability": "`full`: an execution that was accepted survives the loss of power. `normal`: it survives a "
        "crash of the node.",
    },
    ClusterSettings: {},
    NodeLimits: {
        "bodyBytes": "One HTTP request.",
        "lineBytes": "One line of a server.",
        "depth": "Nested brackets of a message.",
        "sessions": "Sessions at once.",
        "sessionIdleSeconds": "A session that was not used for this long ends.",
        "inFlightPerSession": "Calls at once in one session.",
        "inFlightPerPrincipal": "Calls at once under one token or user.",
        "listPage": "Entries on one page of a list.",
        "requestsPerMinute": "Requests of one principal; 0: no limit. More are refused for as long as they are too many.",
    },
    LogSettings: {
        "level": "Log from this level on.",
        "format": "`json` or `text`; `auto`: text for a terminal.",
        "file": "A file to log to besides stderr, relative to this file; always JSON, for its owner alone.",
        "rotateMB": "A log that is longer begins anew; the one before it is kept beside it.",
        "keep": "So many former ones of `file` are kept.",
        "audit": "A file with one line for each call (who, what, how it ended, and the digest of its arguments), "
        "for each order of an operator's, and for who was turned away.",
    },
    TelemetrySettings: {
        "otlp": "Traces of calls (needs `pip install 'mcpv-node[otel]'`); `otlp: {}` goes by the `OTEL_*` variables.",
    },
    OtlpSettings: {
        "endpoint": "The collector's URL; `/v1/traces` is added where it has no path. Without it "
        "`OTEL_EXPORTER_OTLP_ENDPOINT`, else `http://localhost:4318`.",
        "headers": "Headers of every export.",
        "serviceName": "Who the spans are of. Without it `OTEL_SERVICE_NAME`, else `mcpv-node`.",
        "sampleRatio": "Which share of the calls is traced that bring no trace of their own. Without it "
        "`OTEL_TRACES_SAMPLER`, else all.",
    },
    ProfileSettings: {
        "servers": "Names of entries of runtime.yaml, or entries of its own; without it, all servers.",
        "tags": "Only servers with one of these tags, and untagged ones.",
        "tools": "Which tools its clients see.",
    },
    ToolRules: {
        "allow": "Only these tools; without it, all.",
        "deny": "Not these.",
    },
}
