#!/bin/bash
# The main job on several hosts, started over ssh from the first of them; pdsh and ssh without a password are needed:
#
#     HOSTFILE=hosts INTERFACE=eth0 launch/recipes/hosts.sh --config configs/4l312d.json --run /shared/runs/4l312d
#
# A line of the hostfile: node1 slots=8. This folder and its environment lie at the same path on every host; the run
# folder and the corpus where all see them. INTERFACE joins the hosts; MORE_VARIABLES="A=1 B=2" go to
# every rank as well, LAUNCHER_FLAGS to deepspeed: "--master_addr node1" where a host's first address is another network's.
# Stop it with SIGTERM, SIGINT or Ctrl-C.
: "${HOSTFILE:?a file with a line a host}" "${INTERFACE:?the network interface that joins the hosts}"
# deepspeed itself would only warn of a missing file, and train on this host alone; of a bad line it shows a traceback.
[ -f "$HOSTFILE" ] && [ -r "$HOSTFILE" ] || { echo "error: HOSTFILE=$HOSTFILE: cannot be read" >&2; exit 2; }
LC_ALL=C awk -v file="$HOSTFILE" '
    function refuse(reason) { print "error: " file ":" FNR ": " reason ": " $0 > "/dev/stderr"; bad = 1; exit 2 }
    { sub(/\r$/, "") }
    /^[ \t]*(#|$)/ { next }
    /^\357\273\277/ { refuse("begins with a byte order mark; save it as plain UTF-8") }
    !/^[ \t]*[^ \t]+[ \t]+slots=[1-9][0-9]*([ \t]|$)/ { refuse("wanted a host and its GPUs, such as node1 slots=8") }
    hosts[$1]++ { refuse("this host is listed before; give it one line with all of its slots") }
    { num_hosts++ }
    END { if (!bad && !num_hosts) { print "error: " file ": lists no host" > "/dev/stderr"; exit 2 } }
' < "$HOSTFILE" || exit 2
exports=$(mktemp)
printf '%s\n' "GLOO_SOCKET_IFNAME=$INTERFACE" "NCCL_SOCKET_IFNAME=$INTERFACE" $MORE_VARIABLES > "$exports"
exec 9< "$exports"
rm "$exports"
export DS_ENV_FILE=/dev/fd/9
# Without this pdsh goes on waiting for a host that was cut off.
export PDSH_SSH_ARGS_APPEND="-o ServerAliveInterval=5 -o ServerAliveCountMax=3"
# deepspeed quotes for the hosts' shells only what has a blank, and JSON takes one at its end.
for argument; do
    case $argument in *[[{\"]*) argument+=" " ;; esac
    arguments+=("$argument")
done
exec deepspeed $LAUNCHER_FLAGS --hostfile "$HOSTFILE" launch/gd.py "${arguments[@]}"
