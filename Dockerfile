# `trialese serve` over a classifier folder mounted at /model:
#   docker build -t trialese .
#   docker run --read-only --tmpfs /tmp -v jobs:/jobs -v "$PWD/MODEL:/model:ro" \
#     -v "$PWD/token:/run/token:ro" -p 8000:8000 trialese
FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml constraints.txt README.md CHANGELOG.md LICENSE ./
COPY recipes recipes
COPY src src
RUN python -m venv /opt/trialese \
 && /opt/trialese/bin/pip install --no-cache-dir --constraint constraints.txt \
      --extra-index-url https://download.pytorch.org/whl/cpu '.[serve,train]'

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 trialese && install -d -o trialese -m 0700 /jobs
COPY --from=build /opt/trialese /opt/trialese
ENV PATH=/opt/trialese/bin:$PATH HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
USER trialese
WORKDIR /home/trialese
VOLUME /jobs
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["trialese", "serve"]
CMD ["/model", "--host", "0.0.0.0", "--port", "8000", "--token-file", "/run/token", "--jobs", "/jobs"]
