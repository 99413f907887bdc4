#!/bin/sh
# The main job, end to end, on the built-in scenes: every line after a $ is what a user would type.
#   sh benchmarks/demo.sh RUN
set -eu
run=$1

# say and run: the first word says what the step shows, the rest is the command.
step() {
    printf '\n%s\n$ ' "$1"
    shift
    printf '%s\n' "$*"
    "$@"
}

step "What can this machine run? The libraries that are installed, and how to get the others." \
    fcn-deploy doctor
step "Train: a small network learns seven kinds of shape from 160 drawn pictures, in a minute or two." \
    fcn-deploy train --epochs 9 --crop-size 128x192 --batch-size 4 --out "$run"
step "Export: the trained network becomes one ONNX file, which runs without PyTorch." \
    fcn-deploy export "$run"
step "Export at half precision: the same network in half the bytes." \
    fcn-deploy export "$run" --fp16
step "Parity: does ONNX Runtime give the same masks as PyTorch, pixel by pixel, on eight pictures?" \
    fcn-deploy parity "$run" --backend ort --limit 8
step "Parity at half precision, on two pictures: which pixels change their class, and was it close?" \
    fcn-deploy parity "$run" --backend ort --fp16 --limit 2
step "Bench: a quick look at how long each backend takes from a picture to its mask." \
    fcn-deploy bench "$run" --quick --tier end-to-end
step "Six new pictures, of a size that the network has not seen, written to disk as JPEG files." \
    fcn-deploy scenes "$run/scenes" --train 1 --val 6 --size 277x363 --seed 7
step "Predict: a mask for each picture, and an overlay to look at." \
    fcn-deploy predict "$run" "$run/scenes/JPEGImages" --overlay
step "Report: all of the above on one page." \
    fcn-deploy report "$run"

cat <<END

Done. Look at:
  $run/report.html            the results of every step, in a browser
  $run/preview.png            picture, prediction and truth of validation scenes
  $run/predictions/overlays   the new pictures with their masks over them

Three commands to try next:
  fcn-deploy scenes mydata                          a data set whose layout yours should have
  fcn-deploy train --data mydata --out runs/mine    train on it, or on your own labelled pictures
  fcn-deploy bench $run                             every backend here, in more detail than above
END
