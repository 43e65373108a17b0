# The image of all programs: holdfast-operator, holdfast-sidecar, holdfast-webhook and holdfast. See docs/image.md.
#
#   docker build --tag holdfast .
#
# BASE is any image with python3 (3.11 or newer), its venv module and a shell. RUNTIME is what the programs run on: the
# same, or one with the same python3 at the same place and less else; it needs no shell. An index of packages other than
# pip's default is told in a pip.conf, and its authority, if that is a private one, in a file that this pip.conf calls
# `cert = /run/secrets/certificates`:
#   docker build --secret id=pip,src=pip.conf --secret id=certificates,src=ca.pem .
ARG BASE=python:3.13-slim
ARG RUNTIME=${BASE}

FROM ${RUNTIME} AS runtime

FROM ${BASE} AS build
# pip runs in the environment that it installs into, and must leave nothing compiled there: it would hold today's time.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
RUN python3 -m venv /opt/build && python3 -m venv --without-pip /opt/holdfast && rm /opt/holdfast/bin/[Aa]ctivate*
COPY requirements/ requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=certificates \
    /opt/build/bin/python -m pip install --no-cache-dir --require-hashes --requirement requirements/build.txt \
 && /opt/build/bin/python -m pip --python /opt/holdfast/bin/python install --no-cache-dir --no-compile --require-hashes \
        --only-binary :all: --requirement requirements/image.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY operator/ operator/
# The wheel, not the sources, is what runs. Its dependencies are the locked ones that are there already.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=certificates \
    /opt/build/bin/python -m pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir dist . \
 && /opt/build/bin/python -m pip --python /opt/holdfast/bin/python install --no-compile --no-deps --no-index dist/*.whl \
 && /opt/build/bin/python -m pip --python /opt/holdfast/bin/python check
# Nothing can be compiled at run time, and official images bring their library without what is compiled of it. Our files
# cannot change any more, so they are not compared with their sources; the library's are. The Kubernetes client's code
# for each kind of object is never loaded.
ARG SOURCE_DATE_EPOCH=1767225600
RUN export PYTHONHASHSEED=0 PYTHONPYCACHEPREFIX=/opt/holdfast/pycache \
 && library=$(/opt/holdfast/bin/python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))') \
 && /opt/holdfast/bin/python -m compileall -q -j 1 --invalidation-mode unchecked-hash \
        -x '/kubernetes/(aio/)?client/(api|models)/(?!__init__)' /opt/holdfast/lib \
 && /opt/holdfast/bin/python -m compileall -q -j 1 --invalidation-mode checked-hash \
        -x '/(test|idlelib|tkinter|turtledemo|lib2to3|ensurepip|(site|dist)-packages)/' "$library"
COPY image/ image/
RUN --mount=type=bind,from=runtime,source=/,target=/runtime \
    python=$(readlink -f /opt/holdfast/bin/python3) \
 && { [ -x "/runtime$python" ] || { echo "RUNTIME has no $python, which BASE has: they do not fit" >&2; exit 1; }; } \
 && /opt/build/bin/python image/sbom.py --environment /opt/holdfast --root /runtime --output /opt/holdfast/sbom.cdx.json \
 && find /opt/holdfast -exec touch --no-dereference --date "@$SOURCE_DATE_EPOCH" {} +

FROM runtime
COPY --from=build /opt/holdfast /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH \
    HOME=/ \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/holdfast/pycache \
    PYTHONUNBUFFERED=1
# A number, so that runAsNonRoot can be checked without looking into the image.
USER 65532:65532
WORKDIR /
ENTRYPOINT ["holdfast-operator"]
ARG VERSION=""
ARG REVISION=""
ARG SOURCE=""
ARG LICENSES="Apache-2.0"
LABEL org.opencontainers.image.title="Holdfast" \
      org.opencontainers.image.description="Conversation memory for LLM agents on Kubernetes" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.licenses="$LICENSES"
