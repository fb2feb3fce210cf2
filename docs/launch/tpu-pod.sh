#!/bin/bash
# TPU=name ZONE=zone docs/launch/tpu-pod.sh: the same command on each host of a TPU pod, which find
# each other by `--coordinator auto`. Run again, it goes on from the newest checkpoint.
set -euo pipefail

# All hosts have mounted the same disk there, such as Filestore, with a checkout in jaxgpt/.
SHARED=${SHARED:-/mnt/shared}

gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "
  cd $SHARED/jaxgpt && .venv/bin/jaxgpt train gpt2 --coordinator auto --platform tpu \
    --data $SHARED/data/fineweb-edu --out $SHARED/runs/gpt2 \
    --batch-size 512 --compute-dtype bfloat16 --start-timeout 600"
