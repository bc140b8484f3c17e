#!/bin/sh
# The training behind bundle/models/model.pt and the table in bundle/docs/README.md: 3,000 steps on 160 phantoms with real lesion
# shapes, measured on 24 unseen ones. Usage: train_reference.sh LESIONS.npz DIR (about 45 minutes on two cores)
set -eu
lesions=$1; dir=$2
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python}
mkdir -p "$dir"; dir=$(cd "$dir" && pwd)
grid="--shape 128,128,24 --spacing_mm 1.8,1.8,6 --contrast adc,dwi,t2,flair"
"$python" "$here/scripts/make_phantoms.py" --output_dir "$dir/train" --num_cases 172 $grid --lesions "$lesions" --lesion_ids 0:800 --seed 0
"$python" "$here/scripts/make_phantoms.py" --output_dir "$dir/test" --num_cases 24 $grid --lesions "$lesions" --lesion_ids 800:900 --seed 1000
"$python" - "$dir/train/splits.json" <<'PY'
import json, sys
names = [f"phantom_{n:04d}" for n in range(172)]
json.dump({"train": names[:160], "val": names[160:], "test": names[160:]}, open(sys.argv[1], "w"))
PY
cd "$here/bundle"
common="--config_file configs/train.json --dataset_dir $dir/train --batch_size 2 --preset stroke --precision bf16"
# The first 2,400 steps of a learning rate's plan for 2,960, then 560 with a heavier brain term, which wins back the voxels beside
# the skull.
plan='$roi_fusion.training.plan_learning_rate(@optimizer, 2960, @warmup_steps, @final_learning_rate)'
"$python" -m monai.bundle run training $common --output_dir "$dir/first" \
    --max_epochs 30 --learning_rate_plan "$plan" --learning_rate 1e-3 --warmup_steps 100 --val_interval 6
"$python" -m monai.bundle run training $common --output_dir "$dir/run" --initial_weights "$dir/first/model.pt" \
    --max_epochs 7 --learning_rate 5e-4 --warmup_steps 20 --val_interval 7 --alpha 8
"$python" -m monai.bundle run --config_file configs/inference.json --dataset_dir "$dir/test" --output_dir "$dir/results" \
    --checkpoint "$dir/run/model.pt" --num_inference_steps 5 --guidance off
