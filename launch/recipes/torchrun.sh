#!/bin/bash
# The main job under torchrun, whose agent starts all ranks again when one of them is lost; the same line on every host:
#
#     NUM_HOSTS=2 FIRST_HOST=node1 launch/recipes/torchrun.sh --config configs/4l312d.json
#
# RANKS_PER_HOST is a number, or gpu for one rank a GPU.
# (Without the --, torchrun takes --run for an option of its own.)
exec torchrun \
    --nnodes "${NUM_HOSTS:-1}" --nproc-per-node "${RANKS_PER_HOST:-gpu}" \
    --rdzv-backend c10d --rdzv-endpoint "${FIRST_HOST:-localhost}:${PORT:-29400}" --rdzv-id gd \
    --max-restarts 20 \
    -- launch/gd.py "$@"
