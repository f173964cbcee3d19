# A node in a container: `docker build -t mcpv-node .`, then as docs/service.md says.
FROM python:3.11-slim-bookworm AS build
COPY . /src
RUN python -m venv /opt/mcpv-node \
 && /opt/mcpv-node/bin/pip install --no-cache-dir --constraint /src/constraints.txt /src

FROM python:3.11-slim-bookworm
# What servers run with is yours to choose: the image has Python alone. For those that npx starts:
# RUN apt-get update && apt-get install -y --no-install-recommends nodejs npm && rm -rf /var/lib/apt/lists/*
# For those that uvx starts:
# RUN pip install --no-cache-dir uv

# Not root: a node needs no right that a user does not have, and its servers get none. The number is fixed, so that
# a volume that was made by hand can be given to it.
RUN useradd --system --uid 10001 --home-dir /var/lib/mcpv-node --create-home mcpv \
 && chmod 0700 /var/lib/mcpv-node
COPY --from=build /opt/mcpv-node /opt/mcpv-node
# Yours takes its place: --volume ./runtime.yaml:/etc/mcpv-node/runtime.yaml:ro
COPY config/runtime.yaml /etc/mcpv-node/runtime.yaml

ENV PATH=/opt/mcpv-node/bin:$PATH \
    MCPV_CONFIG=/etc/mcpv-node/runtime.yaml \
    MCPV_STATE_DIR=/var/lib/mcpv-node
USER mcpv
# The token, what was learnt, and what npx and uvx have downloaded.
VOLUME /var/lib/mcpv-node
EXPOSE 8090

# The node is the first process: it hears the signal, drains and ends, and waits for orphans of its servers.
STOPSIGNAL SIGTERM
# Good as long as every actor answers; needs no token.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8090/healthz', timeout=8)"]

# The whole network may knock: the token, <state>/token, says who may come in.
ENTRYPOINT ["mcpv-node"]
CMD ["start", "--http", "0.0.0.0:8090"]
