# One image for the server and the clients: docker compose build, or docker build -t knot-fed:cpu .
# For a GPU: docker build -t knot-fed:gpu --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .
# A tag may point to another image tomorrow; docs/how-to/pin-code.md tells how to pin this one by its digest.
ARG BASE_IMAGE=python:3.11-slim

# What is installed depends on the list of dependencies only, so that a change of anything else keeps that layer.
FROM ${BASE_IMAGE} AS requirements
COPY pyproject.toml /
# Ray is for simulations only.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    | sed 's/\[simulation\]//' > /requirements.txt

FROM ${BASE_IMAGE} AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PATH=/opt/knot-fed/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && python -m venv /opt/knot-fed
WORKDIR /build
COPY constraints.txt ./
COPY --from=requirements /requirements.txt ./
# torch alone comes from its own index.
RUN pip install --no-deps --extra-index-url "$TORCH_INDEX" --constraint constraints.txt torch \
    && pip install --constraint constraints.txt --requirement requirements.txt hatchling \
    && cd /opt/knot-fed/lib/python3.11/site-packages \
    && rm -rf torch/include torch/test torch/bin/protoc* torch/bin/test_* \
    && find numpy pandas scipy sklearn matplotlib sympy -type d -name tests -prune -exec rm -rf {} + \
    && strip --strip-unneeded ot/bsp/*.so llvmlite/binding/*.so
COPY pyproject.toml README.md LICENSE ./
COPY knot_fed knot_fed
COPY simulations simulations
RUN pip install --no-deps --no-build-isolation . && pip uninstall --yes --quiet hatchling pip

FROM ${BASE_IMAGE}
COPY --from=build /opt/knot-fed /opt/knot-fed
ENV PATH=/opt/knot-fed/bin:$PATH HOME=/tmp FLWR_HOME=/tmp/flwr MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
# Volumes take over the mode of these folders, so that whichever user owns the keys may write; one volume, one container.
RUN install --directory --mode 0777 /state /server /server/database /server/runs /server/.knot-fed
WORKDIR /state
USER 10001:10001
CMD ["knot-fed", "--help"]
