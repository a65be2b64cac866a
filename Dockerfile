# The base may be any image with Python 3.11 or newer at python3, venv and pip with it.
ARG PYTHON_IMAGE=python:3.13-slim

# --- the dependencies: this layer changes with the lock file only ---
FROM ${PYTHON_IMAGE} AS dependencies
# `--build-arg EXTRAS=notify` adds apprise for BRIDGE_NOTIFY_URLS (24 MB). The lock file marks what belongs to it, and
# pip passes over what is marked.
ARG EXTRAS=""
COPY requirements.lock /build/
# The environment has no pip, so nothing can be installed in the final image. --no-deps: the lock file has every
# dependency, and `pip check` below verifies that.
RUN sed "s/ ; extra == '${EXTRAS}'$//" /build/requirements.lock > /build/chosen.lock \
 && python3 -m venv --without-pip /opt/amux-bridge \
 && python3 -m pip --python /opt/amux-bridge/bin/python install --no-cache-dir --no-deps --only-binary :all: \
    --requirement /build/chosen.lock

# --- the bridge itself ---
FROM dependencies AS package
COPY pyproject.toml README.md LICENSE /build/
COPY bridge /build/bridge
RUN python3 -m pip --python /opt/amux-bridge/bin/python install --no-cache-dir --no-deps /build \
 && python3 -m pip --python /opt/amux-bridge/bin/python check

# --- the final image ---
FROM ${PYTHON_IMAGE}
ARG VERSION=0.2.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="amux-bridge" \
      org.opencontainers.image.description="Turns amux video tasks that must be polled into signed webhooks." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Group 0 and `g=u`: OpenShift runs the image under any user id, in group 0.
RUN install -d -o 10001 -g 0 -m 0700 /data \
 && chmod g=u /data
COPY --from=package /opt/amux-bridge /opt/amux-bridge

# Listen on every address, because no other container reaches the loopback of this one. This requires BRIDGE_TOKENS.
# All other settings have their defaults, so that a `.env` file in /data counts. The database is /data/bridge.db.
ENV PATH="/opt/amux-bridge/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BRIDGE_HOST=0.0.0.0

USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
# /healthz, not /readyz: a restart does not help a bridge when amux or the database is down.
HEALTHCHECK --interval=15s --timeout=10s --start-period=30s --retries=3 \
  CMD ["amux-bridge", "healthy", "--alive"]
ENTRYPOINT ["amux-bridge"]
CMD ["serve"]
