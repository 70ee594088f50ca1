#!/bin/sh
# Writes the hash-pinned requirements; run by `make lock` with the path of uv. No index or host name ends up in the file.
set -eu
unset PIP_FIND_LINKS UV_FIND_LINKS || true
exec "$1" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-header --no-annotate --extra demo --group dev --no-emit-package farside \
  pyproject.toml --output-file infra/local/requirements/all.txt
