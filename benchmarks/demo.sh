#!/bin/sh
# The main job, end to end, on the built-in scenes: every line below is what a user would type.
#   sh benchmarks/demo.sh RUN
set -eu
run=$1
pictures=$(mktemp -d)
trap 'rm -rf "$pictures"' EXIT

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

show fcn-deploy doctor
show fcn-deploy train --data synthetic --epochs 8 --out "$run"
show fcn-deploy export "$run"
show fcn-deploy export "$run" --fp16
show fcn-deploy parity "$run" --backend ort
show fcn-deploy parity "$run" --backend ort --fp16
show fcn-deploy bench "$run" --repeats 3
python -c "
import sys
from PIL import Image
from fcn_deploy.scenes import draw_scene
for index in range(4):
    Image.fromarray(draw_scene(7, index, (240 + 37 * index, 320))[0]).save(
        f'{sys.argv[1]}/scene{index}.png')
" "$pictures"
show fcn-deploy predict "$run" "$pictures" --overlay
show fcn-deploy report "$run"
