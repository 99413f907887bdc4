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

# Few pictures, and a quick look at the speed: the whole demo is to take minutes.
ship() {
    step "$1" fcn-deploy ship "$run" --out "$run/demo.fcnd.zip" --limit 2 --images 2 --quick
}

step "What can this machine run? The libraries that are installed, and how to get the others." \
    fcn-deploy doctor
step "Train: a small network learns seven kinds of shape from 160 drawn pictures, in a minute or two." \
    fcn-deploy train --epochs 9 --crop-size 128x192 --batch-size 4 --out "$run"
ship "Ship: the network as one ONNX file; are its masks PyTorch's; how fast is each backend; all of it in
one bundle with the proof; does the bundle hold? What it runs are commands that you could type."
step "Seven new pictures, of a size that the network has not seen, written to disk as JPEG files." \
    fcn-deploy scenes "$run/scenes" --train 1 --val 6 --size 277x363 --seed 7
step "Predict: a mask for each picture, and an overlay to look at, by the fastest backend that was proven." \
    fcn-deploy predict "$run" "$run/scenes/JPEGImages" --overlay
step "Report: all of the above on one page." \
    fcn-deploy report "$run"
ship "Ship again: what is current is left alone."

cat <<END

Done. Look at:
  $run/report.html            the results of every step, in a browser
  $run/preview.png            picture, prediction and truth of validation scenes
  $run/predictions/overlays   the new pictures with their masks over them
  $run/demo.fcnd.zip          the network with its proof, for any machine, which needs no PyTorch

Four commands to try next:
  fcn-deploy scenes mydata                          a data set whose layout yours should have
  fcn-deploy train --data mydata --out runs/mine    train on it, or on your own labelled pictures
  fcn-deploy bench $run                             every backend here, in more detail than above
  fcn-deploy ship $run --fp16                       the same at half precision as well
END
