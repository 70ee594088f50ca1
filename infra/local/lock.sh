#!/bin/sh
# Writes the hash-pinned requirements; run by `make lock` with the path of uv. No index or host name ends up in the files.
set -eu
unset PIP_FIND_LINKS UV_FIND_LINKS || true
pins() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-emit-find-links --no-header --no-annotate "$@"
}
uv=$1
pins --extra demo --group dev --no-emit-package farside pyproject.toml --output-file infra/local/requirements/all.txt
pins infra/local/requirements/reader.in --output-file infra/local/requirements/reader.txt
