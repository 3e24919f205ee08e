#!/usr/bin/env bash
# vLLM and this project on a GPU machine without a network; docs/offline.md explains it.
#   docs/offline.sh fetch FOLDER              on a machine with a network: every wheel that the GPU machine needs
#   docs/offline.sh install FOLDER TARGET     on the GPU machine: into a folder for PYTHONPATH
#   docs/offline.sh table TARGET [SETTING ...]    on the GPU machine: every run of the table, or what is left of them
# Variables: VLLM (release), PYTHON_VERSION (of the GPU machine), LEAVE_OUT (packages that it has or that nobody needs).
set -euo pipefail

VLLM=${VLLM:-0.32.0}
PYTHON_VERSION=${PYTHON_VERSION:-3.12}
# Of a machine whose image has PyTorch with CUDA 13: its CUDA libraries serve. The rest is not needed for text models.
LEAVE_OUT=${LEAVE_OUT:-'nvidia-(cu|nv).*|cuda-.*|torchaudio|torchcodec|opencv.*|sentry-sdk|fastapi-cloud-cli|pynvvideocodec|z3-solver|pycountry|tokenspeed-triton|nccl-extensions|grpcio'}
PROJECT='hydra-core>=1.3.2,<1.4 hydra-joblib-launcher>=1.2,<2 omegaconf>=2.3,<2.4 msgspec psutil rich jinja2 nvidia-ml-py scipy matplotlib markupsafe'

here=$(cd "$(dirname "$0")/.." && pwd)

# Every glibc up to 2.39: pip takes the names of the platforms as they are, and does not know that one includes another.
target() {
    printf -- '--python-version %s --implementation cp --abi cp%s --abi abi3 --abi none --platform any ' \
        "$PYTHON_VERSION" "${PYTHON_VERSION/./}"
    printf -- '--platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform linux_x86_64 '
    for minor in $(seq 39 -1 5); do printf -- '--platform manylinux_2_%s_x86_64 ' "$minor"; done
}

fetch() {
    mkdir -p "$1"
    python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$1" antlr4-python3-runtime==4.9.3
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$1" "$1"/antlr4*.tar.gz && rm "$1"/antlr4*.tar.gz
    # shellcheck disable=SC2046,SC2086  the words are meant to be split
    python3 -m pip install --quiet --dry-run --ignore-installed --only-binary :all: --target /nowhere $(target) \
        --find-links "$1" --report "$1/report.json" "vllm==$VLLM" $PROJECT
    python3 - "$1/report.json" "$LEAVE_OUT" > "$1/requirements.txt" <<'PYTHON'
import json, re, sys
report = json.load(open(sys.argv[1]))
for item in report["install"]:
    name, version = item["metadata"]["name"], item["metadata"]["version"]
    if not re.fullmatch(sys.argv[2], name.lower().replace("_", "-")) and name != "antlr4-python3-runtime":
        print(f"{name}=={version}")
PYTHON
    # shellcheck disable=SC2046
    python3 -m pip download --quiet --no-deps --only-binary :all: $(target) --dest "$1" --requirement "$1/requirements.txt"
    du -sh "$1"
}

install() {
    python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$2" "$1"/*.whl
}

table() {
    PYTHONPATH="$1:$here:$here/bi_experiments/sweep/launchers/plugin" VLLM_USE_FLASHINFER_SAMPLER=0 HF_HUB_OFFLINE=1 \
        python3 -m bi_experiments -m 'experiment=glob(results/*)' hydra.sweep.dir=table sweep.resume=true \
        sweep.skip_impossible=true tracking=off "${@:2}"
}

case ${1:-} in
    fetch) fetch "${2:?a folder for the wheels}" ;;
    install) install "${2:?the folder of the wheels}" "${3:?a folder for PYTHONPATH}" ;;
    table) table "${2:?the folder that install filled}" "${@:3}" ;;
    *) sed -n '2,6s/^# *//p' "$0" >&2; exit 2 ;;
esac
