# `trialese serve`: the classifiers that ship with trialese, without torch, as a user without rights.
# `token` holds a secret of your own, in a file that user 1000 can read.
#   docker build -t trialese .
#   docker run --read-only --tmpfs /tmp -v jobs:/jobs -v "$PWD/token:/run/token:ro" -p 8000:8000 trialese
# A classifier of your own; one of PyTorch's needs an image built with --build-arg EXTRAS=serve,train:
#   docker run --read-only --tmpfs /tmp -v jobs:/jobs -v "$PWD/token:/run/token:ro" \
#     -v "$PWD/MODEL:/model:ro" -p 8000:8000 trialese /model --token-file /run/token
FROM python:3.12-slim AS build
ARG EXTRAS=serve,infer
WORKDIR /source
COPY pyproject.toml constraints.txt README.md CHANGELOG.md LICENSE ./
COPY recipes recipes
COPY src src
RUN python -m venv /opt/trialese \
 && /opt/trialese/bin/pip install --no-cache-dir --constraint constraints.txt \
      --extra-index-url https://download.pytorch.org/whl/cpu ".[$EXTRAS]"

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 trialese && install -d -o trialese -m 0700 /jobs
COPY --from=build /opt/trialese /opt/trialese
ENV PATH=/opt/trialese/bin:$PATH HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
USER 1000
WORKDIR /home/trialese
VOLUME /jobs
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["trialese", "serve", "--host", "0.0.0.0", "--port", "8000", "--jobs", "/jobs"]
CMD ["--token-file", "/run/token"]
