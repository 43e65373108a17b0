# The image of all programs: holdfast-operator, holdfast-sidecar, holdfast-webhook and holdfast. See docs/image.md.
#
#   docker build --tag holdfast .
#
# BASE is any image with python3 (3.11 or newer), its venv module and a shell. RUNTIME is what the programs run on: the
# same, or one with the same python3 at the same place and less else; it needs no shell. An index of packages other than
# pip's default is told in a pip.conf, and its authority, if that is a private one, in a file that pip.conf calls
# `cert = /run/secrets/certificates`:
#   docker build --secret id=pip,src=pip.conf --secret id=certificates,src=ca.pem .
ARG BASE=python:3.13-slim
ARG RUNTIME=${BASE}

FROM ${RUNTIME} AS runtime

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/holdfast
COPY requirements/ requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=certificates \
    /opt/build/bin/python -m pip install --require-hashes --requirement requirements/build.txt \
 && /opt/build/bin/python -m pip --python /opt/holdfast/bin/python install --require-hashes --only-binary :all: \
        --requirement requirements/image.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY operator/ operator/
# The wheel, not the sources, is what runs. Its dependencies are the locked ones that are there already.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=certificates \
    /opt/build/bin/python -m pip wheel --no-build-isolation --no-deps --wheel-dir dist . \
 && /opt/build/bin/python -m pip --python /opt/holdfast/bin/python install --no-deps --no-index dist/*.whl \
 && /opt/build/bin/python -m pip --python /opt/holdfast/bin/python check

FROM runtime
COPY --from=build /opt/holdfast /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# A number, so that runAsNonRoot can be checked without looking into the image.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["holdfast-operator"]
