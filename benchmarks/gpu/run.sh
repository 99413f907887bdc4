#!/usr/bin/env bash
# Everything that only a GPU can show, in one go; see docs/gpu-checks.md.
#
#   benchmarks/gpu/run.sh OUT [--run RUN] [--data DIR] [--torch-python P] [--trt-python P]
#                             [--rtx-python P] [--opset 17|20] [--limit N] [--work DIR] [--only REGEX]
#
# RUN is a trained run (default: what the step `train-fcn32s` learns), DATA its labelled images (default:
# the built-in scenes, of which no rates of training are taken).  Neither is written to.
# The Pythons may be one or three: TensorRT 8.6 lives in a 3.10 without torch (give --opset 17 then).
# The one of TensorRT needs numpy, pillow, click, rich, onnx, onnxruntime, cuda-bindings, pytest
# (onnxruntime-gpu where it can be had, for the baseline).
# Each step writes OUT/STEP.log and a line of OUT/steps.jsonl as it ends, and its results as JSON
# into OUT; a step that fails, or takes STEP_SECONDS (600), does not stop the others.  Exit code 1 if
# any failed.  --only takes the steps whose whole name matches, for a machine that is lent by the
# minute; engines and exports stay in WORK (default OUT/work) from one call to the next.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:?usage: run.sh OUT [--run RUN] [--data DIR] [--torch-python P] [--trt-python P] …}
shift
run= data=synthetic torch_python=${TORCH_PYTHON:-python3} opset=20 limit= work= only='.*'
trt_python=${TRT_PYTHON:-} rtx_python=${RTX_PYTHON:-} step_seconds=${STEP_SECONDS:-600}
while (($#)); do
    case $1 in
        --run) run=$2 ;; --data) data=$2 ;; --opset) opset=$2 ;; --limit) limit=$2 ;;
        --torch-python) torch_python=$2 ;; --trt-python) trt_python=$2 ;;
        --rtx-python) rtx_python=$2 ;; --work) work=$2 ;; --only) only=$2 ;;
        *) echo "run.sh: unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
trt_python=${trt_python:-$torch_python} rtx_python=${rtx_python:-$torch_python}
mkdir -p "$out"; out=$(cd "$out" && pwd)
kept=$work
work=${work:-$out/work}; mkdir -p "$work"; work=$(cd "$work" && pwd)
run=${run:-$work/fcn32s}
[ "$data" = synthetic ] || data=$(cd "$data" && pwd)
case $run in /*) ;; *) run=$PWD/$run ;; esac
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
few=(${limit:+--limit "$limit"})
failed=0
cd "$work"

step() { # step NAME COMMAND…: run it, log it, go on
    local name=$1 started code
    shift
    [[ $name =~ ^($only)$ ]] || return 0
    started=$(date +%s)
    echo "── $name: $*"
    timeout -k 30 "$step_seconds" "$@" > "$out/$name.log" 2>&1
    code=$?
    ((code)) && failed=1
    printf '{"step": "%s", "exit_code": %d, "seconds": %d, "log": "%s.log"}\n' \
        "$name" "$code" "$(($(date +%s) - started))" "$name" >> "$out/steps.jsonl"
    echo "   exit code $code, $(($(date +%s) - started)) s"; tail -n 3 "$out/$name.log" | sed 's/^/   /'
    return 0
}
training() { # training NAME FOLDER ARGUMENT…: a step whose metrics.json goes into OUT once it has ended well
    local name=$1 folder=$2
    shift 2
    step "$name" bash -c 'folder=$1 json=$2; shift 2; "$@" && cp "$folder/metrics.json" "$json"' - \
        "$folder" "$out/$name.json" "${torch[@]}" train "$@" --out "$folder" --overwrite
}
anew() { # anew NAME FILE: what a former call left is no result of this one
    [[ $1 =~ ^($only)$ ]] && rm -f "$2"
    return 0
}
torch=("$torch_python" -m fcn_deploy) trt=("$trt_python" -m fcn_deploy)

step machine bash -c "nvidia-smi -q -x > '$out/nvidia-smi.xml'; nvidia-smi; '$torch_python' -m fcn_deploy doctor"

# Training.  Of the small data set an epoch is over in a moment, so that its rate says little: the
# rate is taken where an epoch has eight times the pictures, from the second on.
training train-fcn32s fcn32s --data "$data" --crop-size 320x480 --batch-size 32 --epochs 40 --half-size 0 --validate-every 10
if [ "$data" != synthetic ]; then
    step train-eightfold "$torch_python" "$here/eightfold.py" "$data" eightfold
    for size in 32 64; do
        rate=(--data eightfold --crop-size 320x480 --batch-size $size --epochs 4 --half-size 0 --validate-every 4)
        training "train-rate-$size" "rate-$size" "${rate[@]}"
        training "train-rate-$size-compiled" "rate-$size-compiled" "${rate[@]}" --compile
    done
fi
training train-fcn8s fcn8s --data "$data" --arch fcn8s-resnet18 --output-stride 8 --crop-size 320x480 --batch-size 16 \
    --epochs 120 --half-size 0 --validate-every 30

# Engines and exports go beside the results, so that nothing of the run is overwritten.
mkdir -p model model-trt
for model in model model-trt; do
    [ -e "$run/model.safetensors" ] || continue
    cmp -s "$run/model.safetensors" $model/model.safetensors || cp "$run/model.safetensors" $model/
done
for precision in "" --fp16; do
    step "export${precision#-}" "${torch[@]}" export model $precision
    step "export-trt${precision#-}" "${torch[@]}" export model-trt $precision --opset "$opset"
done
# The scales of the 8-bit file are measured on training pictures.
step export-trt-int8 "${torch[@]}" export model-trt --int8 --calibration "$data" --opset "$opset"
# What `bench` holds the others against; the Python of TensorRT cannot make it.
for model in model model-trt; do
    step "baseline-$model" "$torch_python" -c "
from fcn_deploy.core.run import Run
from fcn_deploy.export.baseline import ensure_baseline
print(ensure_baseline(Run.from_argument('$model')))"
done

profiles=(--profile 1x1x1:1x320x480:8x1024x2048 --profile 8x320x480:32x320x480:64x320x480
    --timing-cache timings.cache)
step build-fp16 "${trt[@]}" build model-trt --product trt --fp16 "${profiles[@]}"
step build-fp32 "${trt[@]}" build model-trt --product trt "${profiles[@]}"
step build-int8 "${trt[@]}" build model-trt --product trt --int8 "${profiles[@]}"
step gpu-tests env GPU_RUN="$work/model-trt" GPU_TIMINGS="$work/timings.cache" \
    "$trt_python" -m pytest --noconftest -m gpu -rs "$root/tests/machine/test_cuda.py" "$root/tests/runners/test_trt_gpu.py"
step gpu-tests-torch "$torch_python" -m pytest -p no:cacheprovider -m gpu -rs "$root/tests/runners/test_pytorch.py"

reference=$work/reference
step parity-record "$torch_python" "$here/parity_apart.py" record model "$data" "$reference" "$out/parity-torch-fp16.json" "${few[@]}"
for precision in fp16 fp32 int8; do
    step "parity-trt-$precision" "$trt_python" "$here/parity_apart.py" compare model-trt trt $precision \
        "$data" "$reference" "$out/parity-trt-$precision.json" "${few[@]}"
done
for precision in fp32 fp16; do
    step "parity-ort-cuda-$precision" "$torch_python" "$here/parity_apart.py" compare model ort-cuda $precision \
        "$data" "$reference" "$out/parity-ort-cuda-$precision.json" "${few[@]}"
done
for backend in torch-graphs torch-compile; do
    step "parity-$backend-fp16" "$torch_python" "$here/parity_apart.py" compare model $backend fp16 \
        "$data" "$reference" "$out/parity-$backend-fp16.json" "${few[@]}"
done
[ -n "$kept" ] || rm -rf "$reference"  # gigabytes of logits; the results are in OUT

step device-tier-fp16 "$trt_python" "$here/device_tier.py" model-trt fp16 "$out/device-tier-fp16.json" --contexts 1,2
for precision in int8 fp32; do
    step "device-tier-$precision" "$trt_python" "$here/device_tier.py" model-trt $precision "$out/device-tier-$precision.json"
done

# The plain export on the GPU needs a Python of its own where TensorRT has an old one: they take
# turns, each three times, and the ratio is that of neighbours.
turns=()
for turn in 1 2 3; do
    engine=$out/turn-$turn-trt.json others=$out/turn-$turn-others.json
    anew "turn-$turn-trt" "$engine"; anew "turn-$turn-others" "$others"
    step "turn-$turn-trt" "$trt_python" "$here/device_tier.py" model-trt fp16 "$engine" --shape 32x320x480
    step "turn-$turn-others" "${torch[@]}" bench model --backend torch --backend ort-cuda --fp16 --scenario offline \
        --tier host --batch 32 --size 320x480 --repeats 3 --no-cold-start --json "$others"
    turns+=("$engine" "$others")
done
step turns "$torch_python" "$here/turns.py" "$out/turns.json" "${turns[@]}"

# One picture at a time, then as many as there are.
for size in 320x480 1024x2048; do
    common=(--batch 1 --size $size --repeats 3)
    step "bench-trt-$size" "${trt[@]}" bench model-trt --backend trt --fp16 "${common[@]}" --json "$out/bench-trt-$size.json"
    step "bench-trt-int8-$size" "${trt[@]}" bench model-trt --backend trt --int8 "${common[@]}" --json "$out/bench-trt-int8-$size.json"
    step "bench-others-$size" "${torch[@]}" bench model --backend torch --backend torch-graphs --backend torch-compile \
        --backend ort-cuda --fp16 "${common[@]}" --json "$out/bench-others-$size.json"
done
common=(--scenario offline --batch 8,32,64 --size 320x480 --repeats 3 --no-cold-start)
step bench-offline-trt "${trt[@]}" bench model-trt --backend trt --fp16 "${common[@]}" --json "$out/bench-offline-trt.json"
step bench-offline-trt-int8 "${trt[@]}" bench model-trt --backend trt --int8 "${common[@]}" --json "$out/bench-offline-trt-int8.json"
step bench-offline-others "${torch[@]}" bench model --backend torch --backend torch-graphs --backend ort-cuda --fp16 \
    "${common[@]}" --json "$out/bench-offline-others.json"
# Our backends beside their peers: PyTorch compiled, with CUDA graphs, fcn_resnet50.
step peers "$torch_python" "$root/benchmarks/table.py" model --out "$out/peers.json" --batch 1,32

step rtx-build "$rtx_python" -m fcn_deploy build model --fp16 --product trt-rtx --out rtx-engines
for plan in rtx-engines/*.plan; do
    [ -e "$plan" ] && step rtx-load "$rtx_python" "$here/rtx_engine.py" "$plan" "$out/rtx-load.json"
done

cp engines/*.json rtx-engines/*.json "$out/" 2>/dev/null
echo "results in $out; steps in $out/steps.jsonl"
exit $failed
