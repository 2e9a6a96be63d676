# mmadclr in a container. Built by us with buildah for CPUs, on Debian 13 and with torch from PyPI, and trained in for one epoch; Docker
# itself, Ubuntu and the CUDA base have not been tried.
#
#   docker build -t mmadclr .                                                                    CPU
#   docker build -t mmadclr --build-arg BASE=nvidia/cuda:12.8.1-cudnn-runtime-ubuntu24.04 \
#       --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .                         NVIDIA GPUs
#   docker run --rm --shm-size=8g -v "$PWD:/work" mmadclr train adclr/vits16_folder --data my_images
#   docker run --rm --shm-size=8g --gpus all -v "$PWD:/work" mmadclr train adclr/vits16_folder --data my_images --gpus 8
#
# Workers of the loader pass images on in shared memory, of which a container has 64 MB unless --shm-size says otherwise.
ARG BASE=ubuntu:24.04
FROM ${BASE}

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=dense,export

RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv libgl1 libglib2.0-0t64 \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1

COPY . /src
# Versions of torch follow the CPU or GPU build; all others come with the package.
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir torch torchvision --index-url "${TORCH_INDEX}" \
    && pip install --no-cache-dir "/src[${EXTRAS}]" \
    && rm -rf /src

WORKDIR /work
ENTRYPOINT ["mmadclr"]
CMD ["--help"]
