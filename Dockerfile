# The image of the operator.
#
#   docker build --tag holdfast-operator .
#
# BASE is any image with python3 (3.11 or newer) and its venv module; both stages use the same one, since an
# environment is bound to its interpreter. An index of packages other than pip's default is given as a secret:
#   docker build --secret id=pip,src=pip.conf .
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv /opt/build && python3 -m venv /opt/holdfast
COPY requirements/ requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/build/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        --requirement requirements/build.txt \
 && /opt/holdfast/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        --only-binary :all: --requirement requirements/operator.txt
COPY pyproject.toml hatch_build.py README.md LICENSE CHANGELOG.md ./
COPY operator/ operator/
# The wheel, not the sources, is what runs. Its dependencies are the locked ones that are there already.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    /opt/build/bin/python -m pip wheel --no-cache-dir --disable-pip-version-check --no-build-isolation --no-deps \
        --wheel-dir dist . \
 && /opt/holdfast/bin/python -m pip install --no-cache-dir --disable-pip-version-check --no-deps --no-index dist/*.whl \
 && /opt/holdfast/bin/python -m pip check --disable-pip-version-check \
 && /opt/holdfast/bin/python -m pip uninstall --yes --quiet pip

FROM ${BASE}
COPY --from=build /opt/holdfast /opt/holdfast
ENV PATH=/opt/holdfast/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, so that runAsNonRoot can be checked without looking into the image.
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["holdfast-operator"]
