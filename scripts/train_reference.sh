#!/bin/sh
# The training behind bundle/models/model.pt and the table in bundle/docs/README.md: 3,000 steps on 160 phantoms with real lesion
# shapes, measured on 24 unseen ones. Usage: train_reference.sh LESIONS.npz DIR (about 90 minutes on two cores)
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
"$python" -m monai.bundle run training --config_file configs/train.json --dataset_dir "$dir/train" --output_dir "$dir/run" \
    --max_epochs 75 --batch_size 4 --learning_rate 1e-3 --warmup_steps 100 --val_interval 15 --preset stroke --precision bf16
"$python" -m monai.bundle run --config_file configs/inference.json --dataset_dir "$dir/test" --output_dir "$dir/results" \
    --checkpoint "$dir/run/model.pt" --num_inference_steps 5
