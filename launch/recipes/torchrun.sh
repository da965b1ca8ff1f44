#!/bin/bash
# The main job under torchrun, whose agent starts all ranks again when one of them is lost; the same line on every host:
#
#     NUM_HOSTS=2 FIRST_HOST=node1 launch/recipes/torchrun.sh --config configs/4l312d.json
#
# RANKS_PER_HOST is a number, or gpu for one rank a GPU.
# A store of its own for every start: in the agent's, ranks that are started again find addresses of those before them.
# (Without the --, torchrun takes --run for an option of its own.)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun \
    --nnodes "${NUM_HOSTS:-1}" --nproc-per-node "${RANKS_PER_HOST:-gpu}" \
    --rdzv-backend c10d --rdzv-endpoint "${FIRST_HOST:-localhost}:${PORT:-29400}" --rdzv-id gd \
    --max-restarts 20 \
    -- launch/gd.py "$@"
