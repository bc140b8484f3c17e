#!/bin/sh
# The whole product on small phantoms: data, training, evaluation, inference, report. Usage: demo.sh DIR CASES EPOCHS
set -eu
dir=$1; cases=$2; epochs=$3
here=$(cd "$(dirname "$0")/.." && pwd)
python=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")
rm -rf "$dir"; mkdir -p "$dir"; dir=$(cd "$dir" && pwd)
"$python" "$here/scripts/make_phantoms.py" --output_dir "$dir/data" --num_cases "$cases" --shape 96,96,16 --spacing_mm 2.4,2.4,9
cd "$here/bundle"
"$python" -m monai.bundle run training --config_file configs/train.json --dataset_dir "$dir/data" --output_dir "$dir/training" \
    --max_epochs "$epochs" --val_interval 4 --learning_rate 1e-3 --warmup_steps 10 --patch_size "[80,80,12]" --samples_per_case 2
"$python" -m monai.bundle run --config_file "['configs/train.json','configs/evaluate.json']" --dataset_dir "$dir/data" \
    --output_dir "$dir/training" --evaluation_dir "$dir/evaluation"
"$python" -m monai.bundle run --config_file configs/inference.json --dataset_dir "$dir/data" --split test --output_dir "$dir/results"
cp "$dir/evaluation/report.html" "$dir/report.html"
"$python" "$here/scripts/show_metrics.py" --results_dir "$dir/evaluation"
echo "report: $dir/report.html"
