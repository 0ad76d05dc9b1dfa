#!/bin/sh
# The tests, the times and whole runs of a GPU, on a bare CUDA machine without a network, in under five minutes.
#
#     benchmarks/gpu.sh [WHEELS] [--cpu] [--out FOLDER]
#
# Needs Python >= 3.11 with torch, triton, transformers, tokenizers, safetensors, scikit-learn, scipy, numba, pandas,
# pyarrow, jaxtyping, psutil, pytest and hypothesis. What else is missing is installed from WHEELS (default .gpu) into a
# temporary folder; nothing else changes. Results: gpu.json and gpu.md in FOLDER (default $OUT, else gpu-results).
# --cpu tries the script where there is no GPU: small sizes, Triton's interpreter.
#
# Fill WHEELS on a machine with a network (for Python 3.12 on Linux, x86-64; 41 MB):
#
#     python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#         --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
#         --platform manylinux_2_34_x86_64 --platform manylinux_2_27_x86_64 -d .gpu \
#         POT==0.9.7.post1 geomloss==0.3.1 beartype pydantic==2.14.3 pydantic-core==2.50.4 annotated-types \
#         typing-inspection typing-extensions cryptography cffi pycparser opacus==1.6.0 tomli-w
#
# Whole runs need Flower too, and here peft, accelerate, absl-py, attrs, mpmath, wrapt, opt-einsum, annotated-doc,
# shellingham, pathspec, seaborn, filelock, httpx, jinja2, matplotlib and rich. Add, with the same options and
# `--platform manylinux_2_24_x86_64` (21 MB), and this package's own wheel by `python3 -m pip wheel --no-deps -w .gpu .`:
#
#         flwr==1.41.0 flwr-datasets==0.6.1 datasets==4.8.5 dill==0.4.1 multiprocess==0.70.19 xxhash
#         grpcio==1.85.1 grpcio-health-checking==1.81.1 protobuf==6.33.6 iterators pycryptodome alembic sqlalchemy mako
#         fastapi==0.138.2 starlette==1.3.1 uvicorn==0.49.0 typer==0.20.1 click==8.4.2 prompt-toolkit wcwidth tomli
#         greenlet dp-accounting==0.6.0 dm-tree
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
wheels=$root/.gpu
case "${1:-}" in
"" | --*) ;;
*) wheels=$1 && shift ;;
esac
[ ! -d "$wheels" ] || wheels=$(cd "$wheels" && pwd)
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
trap 'exit 130' INT TERM
export PYTHONPATH="$root:$site" HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false

missing() { # names of those packages, given as MODULE=NAME, whose module cannot be found
    "$python" - "$@" <<'EOF'
import sys
from importlib.util import find_spec

print(*(pair.partition("=")[2] for pair in sys.argv[1:] if find_spec(pair.partition("=")[0]) is None))
EOF
}
NEEDED="torch=torch triton=triton transformers=transformers tokenizers=tokenizers safetensors=safetensors
 sklearn=scikit-learn scipy=scipy numba=numba pandas=pandas pyarrow=pyarrow jaxtyping=jaxtyping psutil=psutil
 pytest=pytest hypothesis=hypothesis pydantic=pydantic pydantic_core=pydantic-core annotated_types=annotated-types
 typing_inspection=typing-inspection typing_extensions=typing-extensions cryptography=cryptography
 _cffi_backend=cffi pycparser=pycparser"
OPTIONAL="ot=POT geomloss=geomloss beartype=beartype opacus=opacus tomli_w=tomli-w flwr=flwr peft=peft
 dp_accounting=dp-accounting"

install() { # into the temporary folder, from the wheels alone
    "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --find-links "$wheels" \
        --target "$site" "$@" 2>/dev/null || true # what is still missing is told below
}

for wheel in "$wheels"/flwr-*.whl; do
    # Flower's own needs fit each other: they are taken from the wheels whatever this Python has
    [ ! -f "$wheel" ] || install "$wheels"/*.whl
    [ ! -f "$wheel" ] || [ -d "$site/flwr" ] || echo "gpu.sh: $wheels does not install as a whole; whole runs fail" >&2
done
for name in $(missing $NEEDED $OPTIONAL); do
    # pydantic and its core fit each other in one version only: they are carried together
    install "$name"
done
absent=$(missing $NEEDED)
if [ -n "$absent" ]; then
    echo "gpu.sh: neither this Python nor $wheels has $absent; carry them as wheels, as this script's head says" >&2
    exit 1
fi
optional=$(missing $OPTIONAL)
[ -z "$optional" ] || echo "gpu.sh: without $optional; parts that need them fail, and are listed" >&2
case " $* " in
*" --cpu "*) export TRITON_INTERPRET=1 ;;
*) export TRITON_INTERPRET=0 ;;
esac
"$python" -m benchmarks.gpu "$@"
