# syntax=docker/dockerfile:1

FROM rust:1-slim-bookworm AS build
WORKDIR /src
# The allocator is built from C, by make. The roots are what servers' certificates are checked by.
RUN apt-get -qq update \
 && apt-get -qq install -y --no-install-recommends ca-certificates make \
 && rm -rf /var/lib/apt/lists/*
# .dockerignore lets through what the build reads, and nothing else.
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin wsgate \
 && packaging/image-root target/release/wsgate /out \
 && install -d -m 0750 /own/wsgate /own/wsgate/certs

# The program, the C libraries that it is linked to, and the system's roots: no shell, nothing else to run.
FROM scratch
COPY --from=build /out /
COPY --from=build --chown=10001:10001 /own /etc
ENV PATH=/usr/local/bin

# By number, so that an orchestrator can see that it is not root. Ports below 1024 need no capability where the engine lowers
# net.ipv4.ip_unprivileged_port_start, as Docker does; elsewhere set that sysctl, or listen above 1024. A file capability
# instead would keep the program from starting wherever capabilities are dropped.
USER 10001:10001

# proxy.toml is mounted here; certs/ is where `self_signed` keeps its CA and its leaf.
WORKDIR /etc/wsgate
VOLUME /etc/wsgate/certs
EXPOSE 80 443
STOPSIGNAL SIGTERM
# Asks the admin listener whether it is ready; without `[admin]`, whether a listener accepts. Needs no shell.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["wsgate", "status", "--health", "-c", "/etc/wsgate/proxy.toml"]
ENTRYPOINT ["wsgate"]
CMD ["run", "-c", "/etc/wsgate/proxy.toml"]
