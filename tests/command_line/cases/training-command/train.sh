# sh train.sh SCHEDULE RESULT [GRADIENTS]: stands for somebody's training. The scores follow from the ranks alone.
echo "trained with $1"
echo "$1" >> trained.txt
ranks='/^ *"model\.layers\.[^"]*": [0-9]+,?$/'
if [ -n "$3" ]; then
    printf '{"hydra_grads":1,"model":"llama","norm":"l2","clip":"pre","lora":{"r":4,"alpha":8}}\n' > "$3"
    for step in 1 2 3 4; do
        awk -F'[":, ]+' -v step=$step 'BEGIN { printf "{\"step\":%d,\"loss\":1,\"grads\":{", step }
            '"$ranks"' {
                split($2, part, ".")
                printf "%s\"%s\":{\"A\":%g,\"B\":%g}", comma, $2, 0.1 * (1 + part[3]), length($2) / 100
                comma = ","
            }
            END { print "}}" }' "$1" >> "$3"
    done
fi
awk -F'[":, ]+' ''"$ranks"' {
        split($2, part, ".")
        gain = 1 - 1 / ($3 + 1)
        deep += (1 + part[3]) * gain
        wide += gain
    }
    END { printf "{\"scores\": {\"wide\": %.6f, \"deep\": %.6f}}\n", wide, deep }' "$1" > "$2"
