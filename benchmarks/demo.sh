#!/bin/sh
# The main job, end to end, on the built-in scenes: every line below is what a user would type.
#   sh benchmarks/demo.sh RUN
set -eu
run=$1

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

show fcn-deploy doctor
show fcn-deploy train --epochs 10 --crop-size 128x192 --batch-size 4 --out "$run"
show fcn-deploy export "$run"
show fcn-deploy export "$run" --fp16
show fcn-deploy parity "$run" --backend ort
show fcn-deploy parity "$run" --backend ort --fp16
show fcn-deploy bench "$run" --repeats 3 --tier end-to-end
show fcn-deploy scenes "$run/scenes" --train 1 --val 6 --size 277x363 --seed 7
show fcn-deploy predict "$run" "$run/scenes/JPEGImages" --overlay
show fcn-deploy report "$run"
