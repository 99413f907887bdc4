#!/bin/sh
# The recorded comparison of networks: how long each may train, train, export, score, time, record.
# On two cores that do nothing else; a run that was killed goes on.
#   sh benchmarks/networks/camvid.sh CAMVID OUT [NAME...]
set -eu
data=$1
out=$2
shift 2
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"
if [ ! -x "$out/venv/bin/python" ]; then
    # Beside the environment that is active, whose packages it sees.
    python -m venv "$out/venv"
    packages=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    echo "$packages" > "$("$out/venv/bin/python" -c \
        "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth"
    # ultralytics is under AGPL-3.0: only this measurement uses it.
    "$out/venv/bin/pip" install segmentation_models_pytorch==0.6.0 ultralytics==8.4.190
fi
python=$out/venv/bin/python
export PYTHONPATH="$here/..:$here" YOLO_CONFIG_DIR="$out" YOLO_OFFLINE=true
[ -f "$out/budget.json" ] || "$python" -m networks.budget "$data" "$out/budget.json" "$@"
"$python" -m networks.train "$data" "$out/runs" "$out/budget.json" "$@"
"$python" -m networks.latency "$out/runs" "$out/latency.json" --images "$data/JPEGImages"
"$python" -m networks.record "$out/runs" "$out/latency.json" \
    "$here/results/networks-amd-epyc-2-cores.json" "$out/budget.json"
