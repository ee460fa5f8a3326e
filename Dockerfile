# syntax=docker/dockerfile:1

# aws-lc's cryptography is C and assembly, so the builder has a C compiler and cmake; the runtime has neither.
FROM rust:1-slim-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential cmake libcap2-bin \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
# An empty harness stands for tests/, which the image does not need but Cargo.toml names.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    mkdir -p tests/it && echo 'fn main() {}' > tests/it/main.rs \
 && cargo build --release --locked --bin wsgate \
 && install -D -m 0755 target/release/wsgate /out/usr/local/bin/wsgate
# Ports below 1024 without root, also where the engine does not lower net.ipv4.ip_unprivileged_port_start by itself.
RUN setcap cap_net_bind_service=+ep /out/usr/local/bin/wsgate

FROM debian:bookworm-slim
RUN groupadd --system --gid 10001 wsgate \
 && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /etc/wsgate --shell /usr/sbin/nologin wsgate \
 && install -d -o wsgate -g wsgate -m 0750 /etc/wsgate /etc/wsgate/certs
COPY --from=build /out/ /
USER 10001:10001
# proxy.toml is mounted here, and certs/ is where `self_signed` keeps its CA and its leaf.
WORKDIR /etc/wsgate
VOLUME /etc/wsgate/certs
EXPOSE 80 443
STOPSIGNAL SIGTERM
ENTRYPOINT ["wsgate"]
CMD ["run", "-c", "/etc/wsgate/proxy.toml"]
