# The base may be any image with Python 3.11 or newer at python3, venv and pip with it.
ARG PYTHON_IMAGE=python:3.13-slim

# --- what the bridge runs on: this layer changes with the lock file only ---
FROM ${PYTHON_IMAGE} AS dependencies
COPY requirements.lock /build/
# Without pip in the environment itself: the final image has nothing to install with. Without dependencies: the lock
# file has them all, which the check below holds it to.
RUN python3 -m venv --without-pip /opt/amux-bridge \
 && python3 -m pip --python /opt/amux-bridge/bin/python install --no-cache-dir --no-deps --only-binary :all: \
    --requirement /build/requirements.lock

# --- the bridge itself ---
FROM dependencies AS package
COPY pyproject.toml README.md LICENSE /build/
COPY bridge /build/bridge
RUN python3 -m pip --python /opt/amux-bridge/bin/python install --no-cache-dir --no-deps /build \
 && python3 -m pip --python /opt/amux-bridge/bin/python check

# --- what runs ---
FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="amux-bridge" \
      org.opencontainers.image.description="Turns amux video tasks that must be polled into signed webhooks." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

RUN install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=package /opt/amux-bridge /opt/amux-bridge

# On every address: a container's loopback is nobody else's. Tokens are needed then (BRIDGE_TOKENS).
ENV PATH="/opt/amux-bridge/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BRIDGE_HOST=0.0.0.0 \
    BRIDGE_PORT=8080 \
    BRIDGE_DATABASE_URL=sqlite:////data/bridge.db

USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
# Alive, not ready: a bridge whose amux or database is away must not be restarted for it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python3", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['BRIDGE_PORT'] + '/healthz', timeout=4)"]
ENTRYPOINT ["amux-bridge"]
CMD ["serve"]
