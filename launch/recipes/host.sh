#!/bin/bash
# The ranks of this host, one a GPU, where something else starts one container a host (kubernetes.yaml):
#
#     HOST_INDEX=0 NUM_HOSTS=2 RANKS_PER_HOST=8 MASTER_ADDR=node1 MASTER_PORT=29500 launch/recipes/host.sh --config ...
#
# SIGTERM goes to all of them. Leaves with the code that says most: that of a rank that failed by itself, else 76 (others
# are lost; ranks given up by NCCL, 134, say the same), else 75 (stopped with a checkpoint, or by SIGTERM, 143, before
# there was anything to save), else 0.
: "${HOST_INDEX:?which host this is, from 0}" "${NUM_HOSTS:?how many there are}" "${RANKS_PER_HOST:?one a GPU}"
trap stopping=1 TERM INT # until all are there: a rank that is not noted yet would never hear of it
export WORLD_SIZE=$((NUM_HOSTS * RANKS_PER_HOST)) RANK LOCAL_RANK
for ((LOCAL_RANK = 0; LOCAL_RANK < RANKS_PER_HOST; LOCAL_RANK++)); do
    RANK=$((HOST_INDEX * RANKS_PER_HOST + LOCAL_RANK))
    python launch/gd.py "$@" &
    ranks+=($!)
done
trap 'kill -TERM "${ranks[@]}" 2> /dev/null' TERM INT
[ -z "$stopping" ] || kill -TERM "${ranks[@]}" 2> /dev/null
codes=" "
for rank in "${ranks[@]}"; do
    # A signal ends a wait and leaves the rank where it is.
    while wait "$rank"; code=$?; kill -0 "$rank" 2> /dev/null; do :; done
    case $code in 0 | 75 | 76) ;; 134) code=76 ;; 143) code=75 ;; *) exit_code=$code ;; esac
    codes+="$code "
done
case $codes in *" 76 "*) lost=76 ;; *" 75 "*) lost=75 ;; *) lost=0 ;; esac
exit "${exit_code:-$lost}"
