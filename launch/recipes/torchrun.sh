#!/bin/bash
# The main job under torchrun, whose agent starts all ranks again when one of them is lost; the same line on every host:
#
#     NUM_HOSTS=2 FIRST_HOST=node1 launch/recipes/torchrun.sh --config configs/4l312d.json
#
# RANKS_PER_HOST is a number, or gpu for one rank a GPU. One host needs neither NUM_HOSTS nor FIRST_HOST. To stop it, send
# SIGTERM to torchrun: a rank that is stopped alone is started again, as is one that was refused, 20 times.
# Hosts of several networks want GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME=eth0; projecting a large teacher's layers, which
# is rank 0's, more than the one core that torchrun leaves a rank: OMP_NUM_THREADS=8.
# A store of its own for every start: in the agent's, ranks that are started again find addresses of those before them.
# (Without the --, torchrun takes --run for an option of its own.)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
if [ "${NUM_HOSTS:-1}" -gt 1 ]; then
    meeting=(--nnodes "$NUM_HOSTS" --rdzv-backend c10d --rdzv-id gd
             --rdzv-endpoint "${FIRST_HOST:?the host where all meet}:${PORT:-29400}")
else
    meeting=(--standalone)  # a port of its own: two jobs of one host would meet, and one wait for the other to end
fi
exec torchrun "${meeting[@]}" --nproc-per-node "${RANKS_PER_HOST:-gpu}" --max-restarts 20 -- launch/gd.py "$@"
