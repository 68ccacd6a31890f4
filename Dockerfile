# docker build -t sivae .
# docker run --gpus all --ipc=host --user $(id -u):$(id -g) -v /my/data:/workspace/data -v /my/runs:/workspace/runs sivae train ...
# See docs/install.md, and docs/slurm.md for SLURM. CUDA comes with the pinned wheels of torch; the host needs only
# NVIDIA's driver and container toolkit.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
FROM ${PYTHON_IMAGE}

# make builds the environment; torch.compile and the layers' kernels for CPUs need a C++ compiler at run time; git records the commit of a run.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git make \
    && rm -rf /var/lib/apt/lists/*

ENV SIVAE_ENVS=/opt/sivae-envs
WORKDIR /opt/sivae

# The environment depends only on these three files, so that a change in the sources does not rebuild it.
COPY Makefile pyproject.toml constraints.txt ./
RUN PIP_NO_CACHE_DIR=1 make env \
    && ln -s "$(dirname "$(make env | tail -n 1)")" /opt/sivae-env

COPY . .
RUN useradd --create-home --uid 1000 sivae \
    && install -d -o sivae -g sivae /workspace

# HOME is writable for any --user, since torch.compile and triton keep caches there.
# Container runtimes other than `docker run --gpus` (enroot, pyxis, Kubernetes) need the NVIDIA variables to add the GPUs:
# their hook does nothing when NVIDIA_VISIBLE_DEVICES is unset.
RUN install -d -m 1777 /tmp/home
ENV PATH=/opt/sivae-env/bin:$PATH \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp/home

USER sivae
WORKDIR /workspace
ENTRYPOINT ["sivae"]
CMD ["--help"]
