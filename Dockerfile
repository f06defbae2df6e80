# syntax=docker/dockerfile:1
# art-export on an NVIDIA GPU: build, swap, serve. How to use it: docs/docker.md.
# CUDA 13.0 and cuDNN 9 are what torch 2.13, onnxruntime-gpu 1.31 and tensorrt 11 are made for.

# Ubuntu keeps only the newest build of a package, so a pinned one would soon be gone.
FROM nvidia/cuda:13.0.3-cudnn-runtime-ubuntu24.04 AS base
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 \
 && rm -rf /var/lib/apt/lists/*

FROM base AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/art-export
ENV PATH=/opt/art-export/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY art_export art_export
COPY engines engines
COPY training training
COPY optimum optimum
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install ".[gpu,serve]" onnxruntime-gpu==1.31.1 tensorrt==11.4.0.106
# The packages onnxruntime and onnxruntime-gpu write the same folder: the first must go, and with it
# go files of the second.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip uninstall -y onnxruntime onnxruntime-gpu \
 && pip install --no-deps onnxruntime-gpu==1.31.1
RUN python -c "import onnxruntime; onnxruntime.get_available_providers().index('CUDAExecutionProvider')"

FROM base
RUN groupadd --gid 10001 art \
 && useradd --uid 10001 --gid art --create-home art \
 && install -d -o art -g art /models /bundles
COPY --from=build /opt/art-export /opt/art-export
ENV PATH=/opt/art-export/bin:$PATH \
    HF_HOME=/models \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /bundles
VOLUME ["/models", "/bundles"]
EXPOSE 8000
# Asks the server if the container runs one, where its options say; anything else counts as healthy.
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s --retries=3 \
    CMD ["python", "-m", "art_export.serve.health"]
ENTRYPOINT ["art-export"]
CMD ["--help"]
