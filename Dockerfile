# Two images: docker build --target cpu . and docker build --target cuda .  (docs/deploy.md)
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim-bookworm AS build
# pip stays in this stage: the environment has none of its own.
RUN python -m venv --without-pip /opt/streamdiffvsr
WORKDIR /src
COPY . .

FROM build AS build-cpu
RUN pip --python /opt/streamdiffvsr install --no-cache-dir --disable-pip-version-check \
    --constraint constraints.txt '.[cpu,live]'

FROM build AS build-cuda
RUN pip --python /opt/streamdiffvsr install --no-cache-dir --disable-pip-version-check \
    --constraint constraints.txt '.[cuda,live]'

FROM python:${PYTHON_VERSION}-slim-bookworm AS runtime
RUN pip uninstall --yes --root-user-action=ignore pip setuptools wheel \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /work streamdiffvsr \
    && mkdir -p /var/cache/streamdiffvsr /work \
    && chown 10001:10001 /var/cache/streamdiffvsr /work
COPY --chmod=755 deploy/healthcheck.py /usr/local/bin/streamdiffvsr-healthcheck
ENV PATH=/opt/streamdiffvsr/bin:$PATH \
    HF_HOME=/var/cache/streamdiffvsr/huggingface \
    PYTHONUNBUFFERED=1 \
    STREAMDIFFVSR_CACHE=/var/cache/streamdiffvsr \
    STREAMDIFFVSR_STATE=/var/cache/streamdiffvsr/state
VOLUME /var/cache/streamdiffvsr
WORKDIR /work
USER 10001:10001
EXPOSE 8080
# For `live` with --preview; other commands have nothing to ask, and count as healthy.
HEALTHCHECK --interval=15s --timeout=5s --start-period=3m --retries=4 \
    CMD ["python", "/usr/local/bin/streamdiffvsr-healthcheck"]
ENTRYPOINT ["streamdiffvsr"]
CMD ["--help"]

FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
COPY --from=build-cuda /opt/streamdiffvsr /opt/streamdiffvsr

# The last stage is what a build without --target makes.
FROM runtime AS cpu
COPY --from=build-cpu /opt/streamdiffvsr /opt/streamdiffvsr
