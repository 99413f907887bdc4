#!/usr/bin/env bash
# What comes to a borrowed machine: the project, archives, pieces and their lists of checksums.  queue.sh
# reads this file; it uses queue.sh's variables (work, pieces, out, root) and functions.

unxz_to_stdout() {
    if command -v xz > /dev/null; then xz -dc "$1"; else
        python3 -c 'import lzma, shutil, sys
shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer, 1 << 20)' "$1"
    fi
}
take_source() { # the project as it came with this call; a step that runs keeps the one it began with
    local new former old
    former=$(readlink "$work/src")
    new=$(mktemp -d "$work/src.XXXXXX") || return
    if ! tar -C "$root" --exclude=__pycache__ --exclude='.*_cache' --exclude=benchmarks/results -cf - \
        fcn_deploy tests benchmarks pyproject.toml 2> /dev/null | tar -C "$new" -xf - 2> /dev/null; then
        rm -rf "$new"; echo "the project was not taken; make room and send it again"; code=2
        return
    fi
    ln -sfn "$new" "$work/.src" && mv -T "$work/.src" "$work/src"
    for old in "$work"/src.*; do # all but this one, the one before, and that of the step that runs
        case $old in "$new" | "$former" | "$(cat "$work/step.src" 2> /dev/null)") ;; *) rm -rf "$old" ;; esac
    done
}
take() { # whole under its name
    if cp "$1" "$pieces/.coming" && mv "$pieces/.coming" "$pieces/${1##*/}"; then return; fi
    rm -f "$pieces/.coming"; code=2
    echo "not taken: ${1##*/}; make room and send it again"
}
take_archive() { # into the folders that are there already: a step may be working in them
    local name=${1##*/} sum entry coming
    sum=$(sha256sum < "$1")
    if grep -qsxF "$sum" "$pieces/received"; then echo "here already: $name"; return; fi
    coming=$(mktemp -d "$work/.coming.XXXXXX") || return
    if ! unxz_to_stdout "$1" | tar -C "$coming" -xf -; then
        echo "damaged, or no room for it: $name; send it again"
    else
        for entry in done out pieces src deadline queue.lock; do
            [ ! -e "$coming/$entry" ] || echo "left out, the queue's own: $entry of $name"
            rm -rf "${coming:?}/$entry"
        done
        if cp -rl --remove-destination "$coming/." "$work/"; then echo "$sum" >> "$pieces/received"
        else echo "not taken whole: $name; send it again"; fi
    fi
    rm -rf "$coming"
}
receive() { # receive FILE…: a piece is taken only whole
    local file name expected
    for file; do
        name=${file##*/}
        if [ ! -f "$file" ]; then echo "queue.sh: no such file: $file" >&2; code=2; continue; fi
        case $name in
            *.tar.xz) take_archive "$file" ;;
            *.sums | *.layout | unpack.sh) take "$file" ;;
            *)
                # A line is the checksum, two characters, and the name.
                expected=$(cat /dev/null "$pieces"/*.sums |
                    awk -v name="$name" 'substr($0, 67) == name {print $1; exit}')
                if [ -z "$expected" ]; then
                    echo "no list names $name: send its .sums first"
                elif [ "$(sha256sum < "$file" | cut -d' ' -f1)" != "$expected" ]; then
                    echo "damaged: $name; send it again"
                else take "$file"; fi
                ;;
        esac
    done
}
missing() { # missing [LIST…]: the pieces that the lists name and that are not here
    local _ name
    cat /dev/null "${@:-$pieces/none}" 2> /dev/null | while read -r _ name; do
        name=${name#\*} # before the name of a file that was read in binary mode
        [ -e "$pieces/$name" ] || echo "$name"
    done
}
unpack_in_background() { # each archive while its pieces come
    local list name
    [ -e "$pieces/unpack.sh" ] || return 0
    for list in "$pieces"/*.sums; do
        name=${list##*/} name=${name%.sums}
        if [ -e "$work/$name/.unpacked" ] || is_unpacking "$pieces/$name.pid"; then continue; fi
        setsid bash "$pieces/unpack.sh" "$pieces" "$work/$name" "$name" \
            > "$out/unpack-$name.log" 2>&1 < /dev/null &
        echo $! > "$pieces/$name.pid"
    done
}
settle() { # say by files what is here: TensorRT, and all that will come
    local list name now awaited= silent
    if [ "$trt_python" != "$work/kit/bin/python3.10" ] || [ -e kit/.unpacked ]; then : > trt-here; fi
    printf -v now '%(%s)T' -1
    for list in "$pieces"/*.sums; do
        name=${list##*/} name=${name%.sums}
        if [ -e "$name/.unpacked" ]; then continue; fi
        if [ -z "$(missing "$list")" ]; then
            if is_unpacking "$pieces/$name.pid"; then awaited=1; fi
        else
            silent=$((now - $(stat -c %Y heard 2> /dev/null || echo 0)))
            ((silent >= patience || silent >= left / 4)) || awaited=1
        fi
    done
    if [ -e all-sent ] && [ -z "$awaited" ]; then : > all-there; else rm -f all-there; fi
    # Which backends work is asked anew when ONNX Runtime comes after all.
    if [ -e done/backends ] && [ ort/.unpacked -nt done/backends ]; then
        rm -f done/backends done/backends.ok
    fi
}
