# syntax=docker/dockerfile:1
# The image of any program here: pilotlight-operator, pilotlight-activator, hello, cart, users or slow-start.
#   docker build --build-arg PACKAGE=hello -t pilotlight.local/hello:dev .

FROM rust:1.95 AS build
ARG PACKAGE
# Linked statically: the image then needs nothing but this one file. Arranged by how often each part runs
# (docs/adr/0009-profile-guided.md).
ENV RUSTFLAGS="-C target-feature=+crt-static -C profile-use=/src/activator/rustc-1.95.profdata"
WORKDIR /src
COPY . .
# An explicit --target keeps the flags away from procedural macros, which cannot be static.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    : "${PACKAGE:?say which program: --build-arg PACKAGE=hello}" \
    && target="$(rustc -vV | sed -n 's/^host: //p')" \
    && cargo build --locked --profile dist --package "$PACKAGE" --target "$target" \
    && cp "target/$target/dist/$PACKAGE" /program

FROM scratch
COPY --from=build /program /program
USER 65532:65532
ENTRYPOINT ["/program"]
