# The MONAI Label server, which needs older packages. See docker/compose.yaml.
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim-bookworm

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make=4.3-* libgl1=1.6.0-* libglib2.0-0=2.74.6-* \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 researcher

WORKDIR /opt/roi-fusion
COPY --chown=researcher . .
RUN chown researcher /opt/roi-fusion
USER 1000
ENV PIP_NO_CACHE_DIR=1
RUN make .venv-label/.installed

EXPOSE 8000
ENTRYPOINT ["make", "label"]
CMD ["HOST=0.0.0.0", "PORT=8000", "STUDIES=/studies"]
