"""A made-up gradient log of MobileVLM-1.7B's modules, for the benchmarks that read one."""

import random

SIZES = (125_000_000, 250_000_000, 500_000_000)
# Layers and steps of a table, as many as the page has to read in two seconds.
TABLE = (200, 10_000)
PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
               "mlp.up_proj", "mlp.down_proj")


def generate(path, size, layers=24):
    """A log of MobileVLM-1.7B's modules, as scripts/hydra_grad_logger.py writes it."""
    names = [f"model.layers.{layer}.{part}" for layer in range(layers) for part in PROJECTIONS]
    template = '{"step":%d,"loss":%r,"grads":{' + ",".join('"%s":{"A":%%r,"B":%%r}' % name for name in names) + "}}\n"
    draw = random.Random(1).random
    with open(path, "w") as log:
        log.write('{"hydra_grads":1,"model":"made-up","norm":"l2","clip":"pre","unit":"optimizer_step",'
                  '"lora":{"r":128,"alpha":256.0}}\n')
        step = 0
        while log.tell() < size:
            step += 1
            log.write(template % (step, draw(), *(draw() for _ in range(2 * len(names)))))


def generate_table(path, steps, layers):
    """A table of one norm a module and step, as Lightning's and W&B's are: step, then a column a module, six digits each."""
    names = [f"grad_2.0_norm/model.layers.{layer}.{part}.weight" for layer in range(layers) for part in PROJECTIONS]
    draw = random.Random(1).random
    with open(path, "w") as log:
        log.write(",".join(["step", *names]) + "\n")
        for step in range(1, steps + 1):
            log.write(f"{step}," + ",".join("%.6g" % draw() for _ in names) + "\n")
