#!/bin/sh
# The recorded CamVid figures: train from scratch (40 minutes on 2 slow cores), export, prove, measure
# (half an hour).  CAMVID is the data set in VOC layout; the results are copied to benchmarks/results/.
#   sh benchmarks/camvid.sh CAMVID RUN [fcn8s-resnet18]
set -eux
data=$1
run=$2
arch=${3:-fcn32s-resnet18}
here=$(dirname "$0")
results=$here/results/camvid-$arch
pictures=$data/JPEGImages
# Says the option for a backend that runs here, and nothing for one that does not.
if_it_runs() {
    python -c "import sys; from fcn_deploy.runners.base import unavailable_reason as why
print('' if why(sys.argv[1]) else '--backend ' + sys.argv[1])" "$1"
}
float="--backend ort --backend ncnn --backend openvino $(if_it_runs openvino-int8x3)"
bf16=$(if_it_runs openvino-bf16)
[ -f "$run/model.safetensors" ] ||
    fcn-deploy train --data "$data" --arch "$arch" --weights none --out "$run" --resume
fcn-deploy export "$run"
fcn-deploy export "$run" --fp16
fcn-deploy export "$run" --int8
# shellcheck disable=SC2086 # $float and $bf16 are words
fcn-deploy parity "$run" $float --data "$data" --json "$run/parity/fp32.json"
rm -f "$run/parity/bf16.json" "$results/parity-bf16.json"
if [ -n "$bf16" ]; then
    # A gate that fails (1) is a result too, as long as it is written.
    # shellcheck disable=SC2086
    fcn-deploy parity "$run" $bf16 --data "$data" --json "$run/parity/bf16.json" || [ $? = 1 ]
    [ -f "$run/parity/bf16.json" ]
fi
fcn-deploy parity "$run" --backend ort --fp16 --data "$data" --json "$run/parity/fp16.json"
fcn-deploy parity "$run" --backend ort --backend openvino --int8 --data "$data" \
    --json "$run/parity/int8.json"
fcn-deploy parity "$run" --bisect --data "$data" --json "$run/bisect/fp16.json"
# shellcheck disable=SC2086
fcn-deploy bench "$run" --images "$pictures" --json "$run/bench/cpu.json" \
    --backend torch $float $bf16
fcn-deploy bench "$run" --images "$pictures" --json "$run/bench/int8.json" --int8 \
    --backend ort --backend openvino
fcn-deploy report "$run"

mkdir -p "$results"
cp "$run/metrics.json" "$results/train.json"
# The data set's pictures are not ours to publish.
for precision in fp32 bf16 fp16 int8; do
    [ -f "$run/parity/$precision.json" ] || continue
    python -c "
import json, sys
document = json.load(sys.stdin)
for result in document['results']:
    result['pictures'] = []
json.dump(document, sys.stdout, indent=2)" \
        < "$run/parity/$precision.json" > "$results/parity-$precision.json"
done
cp "$run/bisect/fp16.json" "$results/bisect-fp16.json"
cp "$run/bench/cpu.json" "$results/bench-cpu.json"
cp "$run/bench/int8.json" "$results/bench-int8.json"
# Appended to the runs that are recorded; refused (2) where those are of another network.
python "$here/overlap.py" "$run" "$pictures" --backend ncnn --json "$results/overlap-ncnn.json"
