#!/usr/bin/env bash
# Everything that only a GPU can show, in one go; see docs/gpu-checks.md.
#
#   benchmarks/gpu/run.sh OUT [--run RUN] [--data DIR] [--torch-python P] [--trt-python P]
#                             [--rtx-python P] [--opset 17|20] [--limit N]
#
# RUN is a trained run (default runs/fcn), DATA its labelled images (default: the built-in scenes).
# The Pythons may be one or three: TensorRT 8.6 lives in a 3.10 without torch (give --opset 17 then).
# The one of TensorRT needs numpy, pillow, click, rich, onnx, onnxruntime-gpu, cuda-bindings, pytest.
# Each step writes OUT/STEP.log and a line of OUT/steps.jsonl as it ends, and its results as JSON
# into OUT; a step that fails does not stop the others.  Exit code 1 if any failed.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${1:?usage: run.sh OUT [--run RUN] [--data DIR] [--torch-python P] [--trt-python P] …}
shift
run=runs/fcn data=synthetic torch_python=${TORCH_PYTHON:-python3} opset=20 limit=
trt_python=${TRT_PYTHON:-} rtx_python=${RTX_PYTHON:-}
while (($#)); do
    case $1 in
        --run) run=$2 ;; --data) data=$2 ;; --opset) opset=$2 ;; --limit) limit=$2 ;;
        --torch-python) torch_python=$2 ;; --trt-python) trt_python=$2 ;;
        --rtx-python) rtx_python=$2 ;;
        *) echo "run.sh: unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
trt_python=${trt_python:-$torch_python} rtx_python=${rtx_python:-$torch_python}
mkdir -p "$out"; out=$(cd "$out" && pwd)
[ "$data" = synthetic ] || data=$(cd "$data" && pwd)
run=$(cd "$run" && pwd)
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
few=(${limit:+--limit "$limit"})
failed=0
: > "$out/steps.jsonl"

step() { # step NAME COMMAND…: run it, log it, go on
    local name=$1 started code
    shift
    started=$(date +%s)
    echo "── $name: $*"
    "$@" > "$out/$name.log" 2>&1
    code=$?
    ((code)) && failed=1
    printf '{"step": "%s", "exit_code": %d, "seconds": %d, "log": "%s.log"}\n' \
        "$name" "$code" "$(($(date +%s) - started))" "$name" >> "$out/steps.jsonl"
    echo "   exit code $code"; tail -n 2 "$out/$name.log" | sed 's/^/   /'
    return 0
}
torch() { "$torch_python" -m fcn_deploy "$@"; }
trt() { "$trt_python" -m fcn_deploy "$@"; }

# Engines and exports go beside the results, so that nothing of the run is overwritten.
mkdir -p "$out/work/model" "$out/work/model-trt"
cd "$out/work"
cp "$run/model.safetensors" model/ && cp "$run/model.safetensors" model-trt/

step machine bash -c "nvidia-smi -q -x > '$out/nvidia-smi.xml'; nvidia-smi; '$torch_python' -m fcn_deploy doctor"
for precision in "" --fp16; do
    step "export${precision#-}" torch export model $precision
    step "export-trt${precision#-}" torch export model-trt $precision --opset "$opset"
done
# The scales of the 8-bit file are measured on training pictures.
step export-trt-int8 torch export model-trt --int8 --calibration "$data" --opset "$opset"
# What `bench` holds the others against; the Python of TensorRT cannot make it.
for model in model model-trt; do
    step "baseline-$model" "$torch_python" -c "
from fcn_deploy.artifacts import Run
from fcn_deploy.export import ensure_baseline
print(ensure_baseline(Run.from_argument('$model')))"
done

profiles=(--profile 1x1x1:1x320x480:8x1024x2048 --profile 8x320x480:32x320x480:64x320x480)
step build-fp32 trt build model-trt --product trt "${profiles[@]}"
step build-fp16 trt build model-trt --product trt --fp16 "${profiles[@]}"
step build-int8 trt build model-trt --product trt --int8 "${profiles[@]}"
step gpu-tests env GPU_RUN="$out/work/model-trt" \
    "$trt_python" -m pytest --noconftest -m gpu -rs "$root/tests/test_gpu.py" "$root/tests/runners/test_trt.py"
step gpu-tests-torch "$torch_python" -m pytest -m gpu -rs "$root/tests/runners/test_pytorch.py"

step parity-record "$torch_python" "$here/parity_apart.py" record model "$data" "$out/reference" "${few[@]}"
for precision in fp32 fp16 int8; do
    step "parity-trt-$precision" "$trt_python" "$here/parity_apart.py" compare model-trt trt $precision \
        "$data" "$out/reference" "$out/parity-trt-$precision.json" "${few[@]}"
done
for precision in fp32 fp16; do
    step "parity-ort-cuda-$precision" "$torch_python" "$here/parity_apart.py" compare model ort-cuda $precision \
        "$data" "$out/reference" "$out/parity-ort-cuda-$precision.json" "${few[@]}"
done
for backend in torch-compile torch-graphs; do
    step "parity-$backend-fp16" "$torch_python" "$here/parity_apart.py" compare model $backend fp16 \
        "$data" "$out/reference" "$out/parity-$backend-fp16.json" "${few[@]}"
done
rm -rf "$out/reference"  # gigabytes of logits; the results are in OUT

step device-tier-fp16 "$trt_python" "$here/device_tier.py" model-trt fp16 "$out/device-tier-fp16.json" --contexts 1,2
for precision in fp32 int8; do
    step "device-tier-$precision" "$trt_python" "$here/device_tier.py" model-trt $precision "$out/device-tier-$precision.json"
done
for shape in 1,8,32,64:320x480 1:1024x2048; do
    tag=${shape#*:}
    common=(--fp16 --batch "${shape%%:*}" --size "$tag")
    step "bench-trt-$tag" trt bench model-trt --backend trt "${common[@]}" --json "$out/bench-trt-$tag.json"
    step "bench-trt-int8-$tag" trt bench model-trt --backend trt --int8 --batch "${shape%%:*}" --size "$tag" \
        --json "$out/bench-trt-int8-$tag.json"
    for backend in torch torch-compile torch-graphs ort-cuda; do
        step "bench-$backend-$tag" torch bench model --backend $backend "${common[@]}" --json "$out/bench-$backend-$tag.json"
    done
done

step bench-offline-trt trt bench model-trt --backend trt --fp16 --scenario offline --batch 8,32 --json "$out/bench-offline-trt.json"
# Our backends beside their peers: PyTorch compiled, with CUDA graphs, fcn_resnet50.
step peers "$torch_python" "$root/benchmarks/table.py" model --out "$out/peers.json" --batch 1,32

step rtx-build "$rtx_python" -m fcn_deploy build model --fp16 --product trt-rtx --out rtx-engines
for plan in rtx-engines/*.plan; do
    [ -e "$plan" ] && step rtx-load "$rtx_python" "$here/rtx_engine.py" "$plan" "$out/rtx-load.json"
done

cp engines/*.json rtx-engines/*.json "$out/" 2>/dev/null
echo "results in $out; steps in $out/steps.jsonl"
exit $failed
