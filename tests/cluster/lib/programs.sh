# Starting, stopping and awaiting the programs. Each NAME has NAME.log, NAME.pid and NAME.cmd in the run folder.

start() { # NAME COMMAND...: runs it in the background and remembers how
    local name=$1
    shift
    printf '%q ' "$@" >"$run/$name.cmd"
    setsid "$@" >>"$run/$name.log" 2>&1 </dev/null &
    echo $! >"$run/$name.pid"
}

restart() { # NAME: runs it again as it was started; does nothing while it runs
    if [ -e "$run/$1.pid" ] && kill -0 "$(cat "$run/$1.pid")" 2>/dev/null; then return; fi
    # The pid must be the program's own, not that of a shell around it.
    (cd "$run" && inside bash -c "setsid $(cat "$run/$1.cmd") >>$1.log 2>&1 </dev/null & echo \$! >$1.pid")
}

stop() { # NAME...: ends them and waits, at most 10 s each before they are killed
    local name pid
    for name in "$@"; do
        [ -e "$run/$name.pid" ] || continue
        pid=$(cat "$run/$name.pid")
        if kill "$pid" 2>/dev/null; then
            for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
            kill -9 "$pid" 2>/dev/null || true
        fi
        rm -f "$run/$name.pid"
    done
}

inside() { # COMMAND...: in the cluster's network, where it has one of its own
    if [ -e "/run/netns/$ns" ]; then nsenter --net="/run/netns/$ns" "$@"; else "$@"; fi
}

wait_for() { # SECONDS WHAT COMMAND...
    local seconds=$1 what=$2
    shift 2
    for ((i = 0; i < seconds * 5; i++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "cluster: $what not ready after ${seconds}s; see $run/*.log" >&2
    return 1
}
