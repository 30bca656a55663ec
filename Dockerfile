# The program alone on an empty base: no shell, no package manager, not root. Needs no BuildKit.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
ENV CARGO_PROFILE_RELEASE_DEBUG=none CARGO_PROFILE_RELEASE_STRIP=symbols

# The dependencies, in a layer that only Cargo.toml and Cargo.lock renew: an empty program
# is built against them, its target tables left out because their files are not here yet.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' >src/main.rs && touch src/lib.rs \
    && awk '/^\[/ { skip = /^\[\[/ } !skip' Cargo.toml >Cargo.deps && mv Cargo.deps Cargo.toml \
    && cargo build --release --locked --bin lamplight \
    && cargo clean --release --locked --package lamplight

# The program, and beside it the few shared libraries it is linked to.
COPY . .
RUN cargo build --release --locked --bin lamplight \
    && install -D -t /rootfs/usr/local/bin target/release/lamplight \
    && ldd target/release/lamplight | grep -o '/[^ ]*' | xargs cp -L --parents -t /rootfs \
    && mkdir -p /owned/data

# In a container it listens on all addresses, so it starts with --tokens or --jwt-key only, or with --insecure where nobody
# else reaches it (docs/security.md). With tokens the health check needs one, of any role, in the
# file that LAMPLIGHT_TOKEN_FILE names (docker-compose.secure.yml mounts it as a secret) or in LAMPLIGHT_TOKEN.
FROM scratch
LABEL org.opencontainers.image.title="Lamplight" \
      org.opencontainers.image.description="A leaderless live database: write to any node, cut the network, converge." \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /rootfs /
# A volume mounted there is the user's too: a new one takes the owner of the directory that it covers.
COPY --from=build --chown=65532:65532 /owned /
ENV LAMPLIGHT_LISTEN=0.0.0.0:7171 LAMPLIGHT_DATA=/data
USER 65532:65532
EXPOSE 7171
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["lamplight", "status", "--ready"]
ENTRYPOINT ["lamplight"]
CMD ["serve"]
