#!/usr/bin/env bash
# A small Ray cluster of several nodes on one machine, on loopback, to try jobs and failures on.
#
#   eval "$(cluster/local.sh start)"       a head without CPUs for work and two nodes (NODES=2 CPUS=3)
#   ray job submit --working-dir . -- python jobs/synthesize.py --recipe … --run /absolute/path
#   cluster/local.sh kill 1                node 1 is gone, with all its processes; as a spot node goes
#   cluster/local.sh add                   one node more
#   cluster/local.sh stop
#
# Every node is a process group of its own. `start` prints the variables that `ray`, `ray job` and `ultraif` need. The
# cluster's folder is its own, and nobody else's: whoever has the token in it runs code as you, and `stop` deletes it.
set -euo pipefail

HOME_OF_CLUSTER=${ULTRAIF_LOCAL_CLUSTER:-${TMPDIR:-/tmp}/ultraif-local-$(id -u)}
NODES=${NODES:-2}        # nodes beside the head
CPUS=${CPUS:-3}          # logical CPUs of each
PORT=${PORT:-6379}
DASHBOARD_PORT=${DASHBOARD_PORT:-8265}

export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME_OF_CLUSTER/auth_token

MARK=$HOME_OF_CLUSTER/folder-of-local.sh

own_folder() {           # the folder is this user's, and was made here; another user may have made it first in /tmp
    if [ -L "$HOME_OF_CLUSTER" ] || [ ! -d "$HOME_OF_CLUSTER" ] || [ ! -O "$HOME_OF_CLUSTER" ] || [ ! -e "$MARK" ] ||
        [ -n "$(find "$HOME_OF_CLUSTER" -maxdepth 0 -perm /022)" ]; then
        echo "$HOME_OF_CLUSTER is no folder that this script made for you alone: set ULTRAIF_LOCAL_CLUSTER to another" >&2
        exit 1
    fi
}

make_folder() {          # new, or empty and this user's
    mkdir -p "$(dirname "$HOME_OF_CLUSTER")"
    mkdir -m 700 "$HOME_OF_CLUSTER" 2>/dev/null || true
    if [ ! -L "$HOME_OF_CLUSTER" ] && [ -O "$HOME_OF_CLUSTER" ] && [ -z "$(ls -A "$HOME_OF_CLUSTER")" ]; then
        chmod 700 "$HOME_OF_CLUSTER"
        touch "$MARK"
    fi
    own_folder
}

start_node() {           # NAME RAY-START-ARGUMENTS…
    local name=$1
    shift
    # A folder for each node: those that share one number their sockets in it, and two that start at once clash.
    setsid ray start --block --disable-usage-stats --node-ip-address=127.0.0.1 --temp-dir="$HOME_OF_CLUSTER/$name" \
        --dashboard-agent-listen-port=0 --min-worker-port=0 --max-worker-port=0 "$@" >"$HOME_OF_CLUSTER/$name.log" 2>&1 </dev/null &
    echo $! >"$HOME_OF_CLUSTER/$name.pid"
}

start_worker() {         # NUMBER
    start_node "node-$1" --address="127.0.0.1:$PORT" --num-cpus="$CPUS" --resources="{\"node_$1\": 1}"
}

alive_nodes() {
    RAY_ADDRESS=127.0.0.1:$PORT timeout 30 python -c \
        'import ray; ray.init(log_to_driver=False, logging_level="ERROR"); print(sum(n["Alive"] for n in ray.nodes()))' \
        2>/dev/null || echo 0
}

kill_group() {           # NAME
    local pid
    pid=$(cat "$HOME_OF_CLUSTER/$1.pid")
    kill -9 -- "-$pid" 2>/dev/null || true
    rm -f "$HOME_OF_CLUSTER/$1.pid"
}

case ${1:-} in
start)
    make_folder
    if compgen -G "$HOME_OF_CLUSTER/*.pid" >/dev/null; then
        echo "a cluster is running already: $0 stop" >&2
        exit 1
    fi
    rm -f "$RAY_AUTH_TOKEN_PATH"
    (umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH")
    start_node head --head --port="$PORT" --num-cpus=0 \
        --dashboard-host=127.0.0.1 --dashboard-port="$DASHBOARD_PORT"
    for _ in $(seq 120); do
        if ray health-check --address "127.0.0.1:$PORT" >/dev/null 2>&1; then break; fi
        sleep 0.5
    done
    for number in $(seq "$NODES"); do start_worker "$number"; done
    for _ in $(seq 30); do
        if [ "$(alive_nodes)" -gt "$NODES" ]; then break; fi
        sleep 1
    done
    if [ "$(alive_nodes)" -le "$NODES" ]; then
        echo "the cluster did not come up; see $HOME_OF_CLUSTER/*.log" >&2
        exit 1
    fi
    deadline=$((SECONDS + 60))   # the part that takes jobs comes up last
    until timeout 30 ray job submit --address "http://127.0.0.1:$DASHBOARD_PORT" -- true >/dev/null 2>&1; do
        if [ "$SECONDS" -gt "$deadline" ]; then
            echo "the cluster takes no jobs; see $HOME_OF_CLUSTER/head/session_latest/logs" >&2
            exit 1
        fi
        sleep 1
    done
    echo "export RAY_ADDRESS=127.0.0.1:$PORT RAY_API_SERVER_ADDRESS=http://127.0.0.1:$DASHBOARD_PORT"
    echo "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH"
    ;;
add)
    own_folder
    number=1
    while [ -e "$HOME_OF_CLUSTER/node-$number.pid" ]; do number=$((number + 1)); done
    start_worker "$number"
    echo "node $number is starting"
    ;;
kill)
    own_folder
    kill_group "node-${2:?which node, such as 1}"
    ;;
stop)
    if [ ! -e "$HOME_OF_CLUSTER" ]; then exit 0; fi
    own_folder
    for file in "$HOME_OF_CLUSTER"/*.pid; do
        [ -e "$file" ] && kill_group "$(basename "$file" .pid)"
    done
    rm -rf "$HOME_OF_CLUSTER"
    ;;
*)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
