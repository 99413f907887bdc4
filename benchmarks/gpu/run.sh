#!/usr/bin/env bash
# Everything that only a GPU can show, in one go, on a machine that one owns; see docs/gpu-checks.md.
#
#   benchmarks/gpu/run.sh OUT [--run RUN] [--data DIR] [--torch-python P] [--trt-python P]
#                             [--rtx-python P] [--opset 17|20] [--workspace MiB] [--limit N]
#                             [--work DIR] [--only REGEX]
#
# RUN is a trained run (default: what the step `train-fcn32s` learns), DATA its labelled images (default:
# the built-in scenes, of which no rates of training are taken).  Neither is written to.
# The Pythons may be one or three: TensorRT 8.6 lives in a 3.10 without torch (give --opset 17 then, and
# --workspace 8192: by itself it takes the whole memory of the GPU as its pool).
# The one of TensorRT needs numpy, pillow, click, rich, onnx, onnxruntime, cuda-bindings, pytest
# (onnxruntime-gpu where it can be had, for the baseline).
# The steps are those of steps.txt, also those that begin with +; each runs when what it needs is there.
# Each writes OUT/STEP.log and a line of OUT/steps.jsonl as it ends, and its results as JSON into OUT;
# OUT/results.tgz holds them all.  A step that fails, or takes STEP_SECONDS (600), does not stop the
# others; OUT/not-run.txt names those that wait for it.  Exit code 1 if any failed, 2 with
# one line if an option is wrong or another run uses OUT or WORK.  --only takes the steps whose whole name
# matches and supposes that those before have run; engines and exports stay in WORK (default OUT/work) from
# one call to the next.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: run.sh OUT [--run RUN] [--data DIR] [--torch-python P] [--trt-python P] …}
shift
run='' data=synthetic torch_python=${TORCH_PYTHON:-python3} opset=20 few='' workspace='' work='' only='.*'
trt_python=${TRT_PYTHON:-} rtx_python=${RTX_PYTHON:-}
refuse() { echo "run.sh: $1" >&2; exit 2; }
while (($#)); do
    case $1 in --*) (($# > 1)) || refuse "$1 needs a value" ;; esac
    case $1 in
        --run) run=$2 ;; --data) data=$2 ;; --opset) opset=$2 ;; --limit) few="--limit $2" ;;
        --torch-python) torch_python=$2 ;; --trt-python) trt_python=$2 ;;
        --rtx-python) rtx_python=$2 ;; --work) work=$2 ;; --only) only=$2 ;;
        --workspace) workspace="--workspace $2" ;;
        *) refuse "unknown option $1" ;;
    esac
    shift 2
done
from_anywhere() { case $1 in /*) echo "$1" ;; */*) echo "$PWD/$1" ;; *) echo "$1" ;; esac; }
torch_python=$(from_anywhere "$torch_python")
trt_python=$(from_anywhere "${trt_python:-$torch_python}")
rtx_python=$(from_anywhere "${rtx_python:-$torch_python}")
case $(realpath -m "$out" "${work:-$out}" "$data" "$here") in
    *[[:blank:]]*) refuse "the steps are words: give folders without spaces" ;;
esac
[[ '' =~ ^($only)$ ]] 2> /dev/null
(($? < 2)) || refuse "--only $only is no regular expression"
kept=$work
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
work=${work:-$out/work}; mkdir -p "$work" && work=$(cd "$work" && pwd) || exit 2
# Before anything there is touched: no other run may be using it.
exec 7< "$out" 8< "$work"
if ! flock -n 7 || { [ "$out" != "$work" ] && ! flock -n 8; } ||
    { [ -e "$work/queue.lock" ] && ! flock -s -n "$work/queue.lock" true; }; then
    refuse "another run uses $out or $work"
fi
mkdir -p "$work/model" "$work/done"
if [ "$data" != synthetic ]; then data=$(cd "$data" && pwd) || exit 2; fi

# The run's network goes beside the results, so that nothing of the run is overwritten.
if [ -n "$run" ] && ! cmp -s "$run/model.safetensors" "$work/model/model.safetensors"; then
    if ! cp "$run/model.safetensors" "$work/model/"; then
        refuse "$run holds no trained network: run fcn-deploy train --out $run first"
    fi
fi

left_out='none'
[ "$data" != synthetic ] || left_out+='|train-eightfold|train-rate-.*'
# TensorRT for RTX has no engines for these, and cannot be told to build some.
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1)
case $capability in
    9.0 | 10.*)
        left_out+='|rtx-.*'
        echo "rtx-build, rtx-load: left out, TensorRT for RTX does not build for compute capability $capability"
        ;;
esac

steps() { # the lines of steps.txt that were asked for, without their +
    local name needs _ limit command need step kept names=" "
    # shellcheck disable=SC2013 # a name is a word
    for step in $(sed -n 's/^+\{0,1\}\([a-z0-9-]*\) *|.*/\1/p' "$here/steps.txt"); do
        if [[ $step =~ ^($only)$ && ! $step =~ ^($left_out)$ ]]; then names+="$step "; fi
    done
    # shellcheck disable=SC2162 # a backslash at the end of a line goes on with the next one
    while IFS='|' read name needs _ limit command; do
        name=${name//[[:space:]]/} name=${name#+} kept=
        [[ $name && $names = *" $name "* ]] || continue
        for need in $needs; do # that of a step which was not asked for is taken to be there
            step=${need#done/} step=${step%.ok}
            [[ $need = done/* && $names != *" $step "* ]] || kept+=" $need"
        done
        printf '%s |%s | 0 |%s|%s\n' "$name" "$kept" "$limit" "$command"
        rm -f "$work/done/$name" "$work/done/$name.ok"
    done < "$here/steps.txt"
}
steps > "$work/steps.txt"
[ -s "$work/steps.txt" ] || refuse "--only $only names no step that can run here"
rm -f "$work/deadline" "$work/src"
: > "$work/all-sent" # nothing is on its way

export out torch_python trt_python rtx_python data opset workspace few
export trt_path=${PYTHONPATH:-} shapes='' contexts=1,2 batches=8,32,64 cold_start=''
for shape in 1x320x480 8x320x480 32x320x480 64x320x480 1x1024x2048; do shapes+=" --shape $shape"; done
STEPS=$work/steps.txt STEP_SECONDS=${STEP_SECONDS:-600} RESULTS=$out/results.tgz bash "$here/queue.sh" "$work" 7<&- 8<&-
failed=$?
[ -n "$kept" ] || rm -rf "$work/reference" # gigabytes of logits; the results are in OUT
[ ! -s "$out/not-run.txt" ] || sed 's/^/not run: /' "$out/not-run.txt"
echo "results in $out and $out/results.tgz; steps in $out/steps.jsonl"
exit $failed
