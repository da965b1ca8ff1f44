#!/bin/bash
# The ranks of this host, one a GPU, where something else starts one container a host (kubernetes.yaml):
#
#     HOST_INDEX=0 NUM_HOSTS=2 RANKS_PER_HOST=8 MASTER_ADDR=node1 MASTER_PORT=29500 launch/recipes/host.sh --config ...
#
# SIGTERM goes to all of them. Leaves with the code that says most: that of a rank that failed by itself, else 76 (others
# are lost; ranks given up by NCCL, 134, say the same), else 75 (stopped with a checkpoint), else 0.
: "${HOST_INDEX:?which host this is, from 0}" "${NUM_HOSTS:?how many there are}" "${RANKS_PER_HOST:?one a GPU}"
trap 'kill -TERM "${ranks[@]}" 2> /dev/null' TERM INT
export WORLD_SIZE=$((NUM_HOSTS * RANKS_PER_HOST)) RANK LOCAL_RANK
for ((LOCAL_RANK = 0; LOCAL_RANK < RANKS_PER_HOST; LOCAL_RANK++)); do
    RANK=$((HOST_INDEX * RANKS_PER_HOST + LOCAL_RANK))
    python launch/gd.py "$@" &
    ranks+=($!)
done
codes=" "
for rank in "${ranks[@]}"; do
    # A signal ends a wait with 143 and leaves the rank where it is.
    while wait "$rank"; code=$?; [ $code -eq 143 ]; do :; done
    case $code in 0 | 75 | 76) ;; 134) code=76 ;; *) exit_code=$code ;; esac
    codes+="$code "
done
case $codes in *" 76 "*) lost=76 ;; *" 75 "*) lost=75 ;; *) lost=0 ;; esac
exit "${exit_code:-$lost}"
