#!/bin/sh
# The recorded CamVid figures: train from scratch, export, prove, measure.  About 20 minutes on 2
# cores.  CAMVID is the data set in VOC layout; the results are copied to benchmarks/results/.
#   sh benchmarks/camvid.sh CAMVID RUN [fcn8s-resnet18]
set -eux
data=$1
run=$2
arch=${3:-fcn32s-resnet18}
results=$(dirname "$0")/results/camvid-$arch
[ -f "$run/model.safetensors" ] ||
    fcn-deploy train --data "$data" --arch "$arch" --weights none --out "$run" --resume
fcn-deploy export "$run"
fcn-deploy export "$run" --fp16
fcn-deploy parity "$run" --backend ort --json "$run/parity/ort.fp32.json" --data "$data"
fcn-deploy parity "$run" --backend ort --fp16 --json "$run/parity/ort.fp16.json" --data "$data"
fcn-deploy parity "$run" --bisect --json "$run/bisect/model.fp16.json" --data "$data"
fcn-deploy bench "$run" --images "$data/JPEGImages" --backend torch --backend ort --repeats 7 \
    --json "$run/bench/cpu.json"
fcn-deploy bench "$run" --images "$data/JPEGImages" --backend torch --backend ort \
    --scenario offline --tier end-to-end --batch 1,2,4,8 --seconds 1 --no-cold-start \
    --json "$run/bench/cpu-offline.json"
fcn-deploy report "$run"
mkdir -p "$results"
cp "$run/metrics.json" "$results/train.json"
# The data set's pictures are not ours to publish.
for precision in fp32 fp16; do
    python3 -c "import json, sys; d = json.load(sys.stdin); [r.update(pictures=[]) for r in d['results']]; json.dump(d, sys.stdout, indent=2)" \
        < "$run/parity/ort.$precision.json" > "$results/parity-ort-$precision.json"
done
cp "$run/bisect/model.fp16.json" "$results/bisect-fp16.json"
cp "$run/bench/cpu.json" "$results/bench-cpu.json"
cp "$run/bench/cpu-offline.json" "$results/bench-cpu-offline.json"
