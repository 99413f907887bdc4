#!/usr/bin/env bash
# A queue of GPU checks for a borrowed machine, to which everything comes in pieces; see README.md.
#
#   queue.sh WORK VERB…          as many of these as wanted, in this order or another:
#     --receive FILE…            take files that have come: archives, pieces, their lists of checksums
#     --start SECONDS            run the queue in the background; it ends SECONDS from now
#     --again STEP…              let these steps run again
#     --all-sent                 nothing more will come
#     --report OUT [SECONDS]     wait so long for the queue's end, then copy the results into OUT
#   queue.sh WORK                the queue itself, here and now: what --start and run.sh call
#
# Of steps.txt (or the file that STEPS names) always the first step runs whose needs are there and that
# still fits.  After each, all results are packed into WORK/results.tgz.  A step that fails stops no
# other; one that hangs ends at its limit.  WORK/done/STEP says that a step has had its turn,
# WORK/done/STEP.ok that it ended well.
set -uo pipefail
shopt -s nullglob

usage="usage: queue.sh WORK [--receive FILE…] [--start SECONDS] [--again STEP…] [--all-sent]
                     [--report OUT [SECONDS]]"
#: Seconds before the deadline at which the last step ends: for the last archive.
spare=${SPARE:-10}
#: What may come back at once, in MiB: of one file, and of all together.
piece_mib=15 most_mib=60
#: Of a longer log the last MiB comes back.
log_mib=1
#: Seconds after the last transfer for which pieces that are missing are still awaited: they are sent again.
patience=${PATIENCE:-120}

look_at_clock() { # set left: the seconds until the deadline
    printf -v left '%(%s)T' -1
    if [ ! -e "$work/deadline" ]; then left=999999
    elif [[ $(< "$work/deadline") =~ ^[0-9]+$ ]]; then left=$((BASH_REMATCH[0] - left))
    else left=0; fi
}
is_running() { # a shared lock: two that ask do not see each other; other errors are none of a queue
    flock -E 9 -s -n "$work/queue.lock" true 2> /dev/null
    (($? == 9))
}
refuse() { echo "queue.sh: $1" >&2; exit 2; }
is_unpacking() { [ -e "$1" ] && grep -qs unpack.sh "/proc/$(cat "$1")/cmdline"; }

# What steps.txt calls: a Python with PyTorch, one with TensorRT, one with TensorRT for RTX.
# shellcheck disable=SC2329,SC2046,SC2086
{
torch() {
    local ort=
    [ ! -e "$work/ort/.unpacked" ] || ort=:$work/ort # half of it would hide the machine's own
    PYTHONPATH=$src:$work/site312$ort${PYTHONPATH:+:$PYTHONPATH} "$torch_python" "$@"
}
trt() { PYTHONPATH=$src${trt_path:+:$trt_path} "$trt_python" "$@"; }
rtx() { PYTHONPATH=$src${PYTHONPATH:+:$PYTHONPATH} "$rtx_python" "$@"; }
engine() { # MODEL [PRECISION]
    trt -m fcn_deploy build "$@" --product trt --profile 1x1x1:1x320x480:8x1024x2048 \
        --profile 8x320x480:32x320x480:64x320x480 --timing-cache timings.cache $workspace
}
bench_trt() { trt -m fcn_deploy bench model --backend trt --repeats 3 "$@"; }
bench_others() { torch -m fcn_deploy bench model $(cat gpu-backends) --fp16 --repeats 3 "$@"; }
train() { torch -m fcn_deploy train --crop-size 320x480 --half-size 0 --overwrite "$@"; }
}

settings() { # what steps.txt leaves open; run.sh sets it otherwise
    export work out src gpu torch_python trt_python rtx_python trt_path data opset few workspace shapes \
        contexts batches cold_start
    torch_python=${torch_python:-python3} rtx_python=${rtx_python:-python3} trt_path=${trt_path:-}
    trt_python=${trt_python:-$work/kit/bin/python3.10}
    opset=${opset:-17} workspace=${workspace---workspace 8192} few=${few:-}
    shapes=${shapes---shape 1x320x480 --shape 32x320x480} contexts=${contexts:-1} batches=${batches:-32}
    cold_start=${cold_start---no-cold-start}
    data=${named_data:=${data:-none}}
    if [ "$data" = none ]; then
        data=synthetic
        [ ! -d "$work/camvid" ] || data=camvid
    fi
    export -f torch trt rtx engine bench_trt bench_others train
    export PYTHONUNBUFFERED=1 CUDA_MODULE_LOADING=LAZY
}

# shellcheck source=benchmarks/gpu/pieces.sh
. "$(dirname "${BASH_SOURCE[0]}")/pieces.sh"

# ── the queue ──

start() { # start SECONDS
    if ! { echo $(($(date +%s) + $1)) > "$work/.deadline" && mv "$work/.deadline" "$work/deadline"; }; then
        refuse "no deadline could be written in $work: make room"
    fi
    launch
}
go_on() { # with what has come, if there is still time
    [ -e "$work/deadline" ] || return 0
    look_at_clock
    if ((left > spare)); then launch; fi
}
launch() {
    local pid
    : > "$work/wake" # before the look: a queue that is about to end reads it after it let go of the lock
    if is_running; then return; fi
    rm -f "$work/finished"
    setsid bash "$here/queue.sh" "$work" > "$work/queue.log" 2>&1 < /dev/null &
    pid=$!
    echo $pid > "$work/queue.pid"
    until is_running || [ -e "$work/finished" ] || ! kill -0 $pid 2> /dev/null; do sleep 0.05; done
}
again() { # again STEP…
    local step steps=${STEPS:-$work/src/benchmarks/gpu/steps.txt}
    [ -e "$work/deadline" ] || refuse "no queue was started: --start SECONDS first"
    for step; do
        [[ $step =~ ^[a-z0-9-]+$ ]] && grep -qE "^ *$step *\|" "$steps" ||
            refuse "$steps has no step $step"
    done
    for step; do rm -f "$work/done/$step" "$work/done/$step.ok"; done
    launch
}
next_step() { # set name, limit and command of the step to run; 1 if there is none
    local needs need least room
    look_at_clock
    # shellcheck disable=SC2162 # a backslash at the end of a line goes on with the next one
    while IFS='|' read name needs least limit command; do
        name=${name//[[:space:]]/}
        case $name in '' | '#'* | +*) continue ;; esac # +: on a machine that one owns, see run.sh
        [ ! -e "done/$name" ] || continue
        for need in $needs; do [ -e "$need" ] || continue 2; done
        room=$((left - spare)) limit=$((${STEP_SECONDS:-limit}))
        ((room > 0 && room >= least)) || continue
        ((limit < room)) || limit=$room
        return 0
    done < "$steps"
    return 1
}
end_group() { # `timeout` leads a group of its own, in which is all that a step began
    [ -z "$1" ] || kill -KILL -- "-$1" 2> /dev/null
}
mend_a_kill() { # of the queue, which left a step half done: end what remains of it; it has its turn again
    local pid name
    [ -e running ] || return 0
    pid=$(cat step.pid 2> /dev/null)
    if [ "$(cat "/proc/$pid/comm" 2> /dev/null)" = timeout ]; then end_group "$pid"; fi
    name=$(cat running)
    rm -f "done/$name" running; look_at_clock
    printf '{"step": "%s", "exit_code": 137, "interrupted": true, "left": %d, "log": "%s.log"}\n' \
        "$name" "$left" "$name" >> "$out/steps.jsonl"
}
run_step() {
    local started=$SECONDS code
    : > "done/$name"; rm -f "done/$name.ok" "$out/$name.json" # a former result is none of this run
    echo "$src" > step.src
    echo "$name" > running; echo "── $name: $command"
    { # the shell itself would say on stderr that a step was killed
        timeout -k "${GRACE:-5}" "$limit" bash -eo pipefail -c "$command" \
            > "$out/$name.log" 2>&1 < /dev/null 9>&- &
        group=$!; echo "$group" > step.pid
        wait "$group"
        code=$?
        end_group "$group" # what it began and left behind would share the GPU with the next step
    } 2> /dev/null
    group=
    rm -f running; look_at_clock
    if ((code)); then failed=1; else : > "done/$name.ok"; fi
    printf '{"step": "%s", "exit_code": %d, "seconds": %d, "limit": %d, "left": %d, "log": "%s.log"}\n' \
        "$name" "$code" $((SECONDS - started)) "$limit" "$left" "$name" >> "$out/steps.jsonl"
    echo "   exit code $code, $((SECONDS - started)) s"; tail -c 600 "$out/$name.log" | tail -n 3 | sed 's/^/   /'
    pack
}
not_run() { # the steps that had no turn, and why
    local name needs least limit command need why
    # shellcheck disable=SC2162
    while IFS='|' read name needs least limit command; do
        name=${name//[[:space:]]/} why=
        case $name in '' | '#'* | +*) continue ;; esac
        [ ! -e "done/$name" ] || continue
        for need in $needs; do [ -e "$need" ] || why+=" $need"; done
        if [ -n "$why" ]; then echo "$name: needs$why"; else echo "$name: too little time"; fi
    done < "${steps:-/dev/null}"
}
look_around() { # set what may have changed since the last step
    src=$root
    [ ! -e src ] || src=$(readlink -f src)
    gpu=$src/benchmarks/gpu steps=${STEPS:-$src/benchmarks/gpu/steps.txt}
    settings; look_at_clock; settle
}
run_queue() {
    failed=0 group=
    exec 9> queue.lock
    flock -w 2 9 || { echo "queue.sh: a queue runs in $work already" >&2; exit 2; }
    trap 'end_group "$group"' EXIT
    mend_a_kill
    while :; do
        rm -f finished wake trt-here
        look_around
        while ((left > spare)); do
            if next_step; then run_step; elif [ -e all-there ]; then break; else sleep 0.2; fi
            look_around
        done
        not_run > "$out/not-run.txt"
        pack
        : > finished
        exec 9>&-
        # Whoever found the lock held meanwhile started no queue.
        [ -e wake ] || break
        exec 9> queue.lock; flock -w 2 9 || break
    done
    return "$failed"
}

# ── what comes back ──

pack() { # all results as one archive, which is there whole or as it was before
    local archive=${RESULTS:-$work/results.tgz} made log ends without=() code_of_tar
    made=${archive%/*}/.$$.${archive##*/}
    cp -u "$work"/engines/*.json "$out/" 2> /dev/null
    ends=$(mktemp -d "$work/.ends.XXXXXX") || return
    while read -r log; do
        without+=("--exclude=./$log")
        tail -c "${log_mib}M" "$out/$log" > "$ends/${log%.log}.end.log"
    done < <(find "$out" -maxdepth 1 -name '*.log' -size "+$((log_mib << 10))k" -printf '%f\n')
    # Exit code 1: a step is writing into a file that was read.
    tar "${without[@]}" --exclude=./work --exclude="./*${archive##*/}" -czf "$made" \
        -C "$out" . -C "$ends" . 2> /dev/null
    code_of_tar=$?
    rm -rf "$ends"
    if ((code_of_tar > 1)) || ! mv "$made" "$archive"; then
        rm -f "$made"; echo "$archive is as it was: no room for the results"
    fi
}
engines_that_fit() { # engines_that_fit MIB: the names of what is brought back, the most important first
    local room=$(($1 << 20)) file size files whole whole_too hex
    # Timing cache, engines with their sidecars, those with logits; then what the build left half done.
    mapfile -t files < <(
        printf '%s\n' timings.cache engines/*.plan | grep -v '\.logits\.'
        printf '%s\n' engines/*.logits.*.plan
        stat -c '%s %n' engines/*.unverified* 2> /dev/null | sort -n | cut -d' ' -f2-
    )
    for file in "${files[@]}"; do
        [ -s "$file" ] || continue
        # NAME.HEX.plan.unverified is a build's own, NAME.plan.unverified what was refused.
        whole=${file%%.unverified*} hex='[0-9a-f][0-9a-f][0-9a-f][0-9a-f]'
        # shellcheck disable=SC2295 # a pattern
        whole_too=${whole%.$hex$hex.plan}.plan
        if [[ $file = *.unverified* && (-e $whole || -e $whole_too) ]]; then continue; fi
        size=$(stat -c %s "$file")
        if ((size > room)); then echo "left there, too large: $file" >&2; continue; fi
        room=$((room - size - 65536)); echo "$file"
        [[ $file != *.plan || ! -e $file.json ]] || echo "$file.json"
    done
}
bring_less() { # where all results are more than may come back: the small files, as far as they go
    (($(stat -c %s results.tgz 2> /dev/null || echo 0) > most_mib << 20)) || return 0
    echo "more than $most_mib MiB of results: the largest files stay in $out"
    find "$out" -type f -printf '%s %P\n' | sort -n |
        awk -v room=$((most_mib << 20)) '{room -= $1; if (room > 0) {sub(/^[0-9]+ /, ""); print}}' |
        tar -C "$out" -czf results.tgz -T -
}
report() { # report OUT SECONDS
    local to wait_until=$((SECONDS + $2)) engines size
    mkdir -p "$1"; to=$(cd "$1" && pwd)
    cd "$work" || exit
    while is_running && ((SECONDS < wait_until)); do sleep 0.2; done
    rm -f "$to"/results.tgz* "$to"/engines.tar.* # of a former report
    pack
    bring_less
    size=$(stat -c %s results.tgz 2> /dev/null || echo 0)
    if ((size > piece_mib << 20)); then
        split -b ${piece_mib}m -d -a 1 results.tgz "$to/results.tgz."
    elif ((size)); then cp results.tgz "$to/"; fi
    if [ -e finished ] || (($2)); then
        engines=$(engines_that_fit $((most_mib - (size >> 20) - 1)))
        [ -z "$engines" ] || tar -cf - -T - <<< "$engines" | split -b ${piece_mib}m -d -a 1 - "$to/engines.tar."
    fi
    say_state
    (cd "$to" && sha256sum ./*)
    cd - > /dev/null || exit
}
say_state() {
    local log lacking name
    if [ -e "$out/steps.jsonl" ]; then
        cat "$out/steps.jsonl"
        # shellcheck disable=SC2012 # the names are ours
        ls -t "$out"/*.log | head -n 2 | while read -r log; do echo "== ${log##*/}"; tail -c 1000 "$log" | tail -n 5; done
    fi
    lacking=$(missing "$pieces"/*.sums | tr '\n' ' ')
    [ -z "$lacking" ] || echo "not here: ${lacking% }; send again what was sent"
    for name in "$pieces"/*.sums; do
        name=${name##*/} name=${name%.sums}
        if [ ! -e "$work/$name/.unpacked" ] && [ -e "$pieces/$name.pid" ] &&
            ! is_unpacking "$pieces/$name.pid"; then
            echo "$name was not unpacked: $(tail -c 300 "$out/unpack-$name.log" | tail -n 1)"
        fi
    done
    if [ -e finished ]; then
        echo "the queue has ended"; cat "$out/not-run.txt"
    elif is_running; then
        echo "running: $(cat running 2> /dev/null || echo 'nothing, waiting')"
    else echo "the queue does not run: --start SECONDS"; fi
    look_at_clock; echo "left: $left s"
}

require_seconds() { [[ $1 =~ ^(0|[1-9][0-9]*)$ ]] || { echo "$usage" >&2; exit 2; }; }
main() {
    local verb words code=0
    (($#)) || { echo "$usage" >&2; exit 2; }
    work=$(realpath -m "$1"); shift
    here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd); root=$(cd "$here/../.." && pwd)
    case $work$root${out:-} in
        *[[:space:]]*) refuse "the steps are words: give folders without spaces instead of $work" ;;
    esac
    pieces=$work/pieces; out=${out:-$work/out}
    mkdir -p "$work/done" "$pieces" "$out" && [ -w "$work" ] || refuse "cannot write in $work"
    if ((!$#)); then cd "$work" && run_queue; exit; fi
    case " $* " in *" --receive "* | *" --start "* | *" --again "*) take_source ;; esac
    while (($#)); do
        verb=$1 words=(); shift
        while (($#)) && [[ $1 != --* ]]; do words+=("$1"); shift; done
        case $verb in
            --receive)
                : > "$work/heard"
                receive "${words[@]}"; unpack_in_background; go_on
                ;;
            --start) require_seconds "${words[0]:-}"; start "${words[0]}" ;;
            --again) again "${words[@]}" ;;
            --all-sent) : > "$work/heard"; : > "$work/all-sent" ;;
            --report)
                ((${#words[@]})) || { echo "$usage" >&2; exit 2; }
                require_seconds "${words[1]:-0}"; report "${words[0]}" "${words[1]:-0}"
                ;;
            *) echo "$usage" >&2; exit 2 ;;
        esac
    done
    exit "$code"
}
main "$@"; exit
