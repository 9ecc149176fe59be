# The image of the edge (and of an agent, where one runs as a container): one static program on an empty root.
#
#   docker build -t culvert .
#
# The stage that compiles can be replaced by a binary that is there already: BINARY=prebuilt takes the files `culvert` and
# `ca-certificates.crt` from the build context (tests/cluster/image does so).
ARG BINARY=compiled

FROM rust:1.95-bookworm AS compiled
WORKDIR /src
COPY . .
ARG TARGETARCH=amd64
# --target, or the flag would reach proc-macros, which cannot be linked statically.
RUN case "$TARGETARCH" in amd64) arch=x86_64 ;; arm64) arch=aarch64 ;; *) echo "no such platform: $TARGETARCH" >&2; exit 1 ;; esac \
    && target=$arch-unknown-linux-gnu \
    && rustup target add "$target" \
    && RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target "$target" --bin culvert \
    && strip --strip-debug -o /culvert "target/$target/release/culvert" \
    && cp /etc/ssl/certs/ca-certificates.crt /ca-certificates.crt

FROM scratch AS prebuilt
COPY culvert ca-certificates.crt /

FROM ${BINARY} AS binary

FROM scratch
LABEL org.opencontainers.image.title="Culvert" \
      org.opencontainers.image.description="A Kubernetes-native tunnel ingress" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=binary /culvert /culvert
# The system's roots, for `culvert agent` in a container: a bridge may have a publicly trusted certificate.
COPY --from=binary /ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["/culvert"]
