#!/bin/sh
# The recorded CamVid figures: train from scratch, export, prove, measure.  About 20 minutes on 2
# cores.  CAMVID is the data set in VOC layout; the results are copied to benchmarks/results/.
#   sh benchmarks/camvid.sh CAMVID RUN
set -eux
data=$1
run=$2
results=$(dirname "$0")/results/camvid-fcn32s-resnet18
[ -f "$run/model.safetensors" ] || fcn-deploy train --data "$data" --weights none --out "$run"
fcn-deploy export "$run"
fcn-deploy export "$run" --fp16
fcn-deploy parity "$run" --backend ort --json "$run/parity/ort.fp32.json" --data "$data"
fcn-deploy parity "$run" --backend ort --fp16 --json "$run/parity/ort.fp16.json" --data "$data"
fcn-deploy bench "$run" --images "$data/JPEGImages" --batch 1,8 --repeats 7 --seconds 1 \
    --json "$run/bench/cpu.json"
fcn-deploy report "$run"
mkdir -p "$results"
cp "$run/metrics.json" "$results/train.json"
cp "$run/parity/ort.fp32.json" "$results/parity-ort-fp32.json"
cp "$run/parity/ort.fp16.json" "$results/parity-ort-fp16.json"
cp "$run/bench/cpu.json" "$results/bench-cpu.json"
