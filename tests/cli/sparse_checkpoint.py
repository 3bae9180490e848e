"""Writes a checkpoint of zeros that takes long to convert and no room on the disk:
sparse_checkpoint.py FOLDER LAYERS (100 MB each)."""

import json
import os
import struct
import sys

folder, n_layers = sys.argv[1], int(sys.argv[2])
HIDDEN, WIDTH, VOCAB = 2048, 8192, 512
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, "config.json"), "w", encoding="ascii") as file:
    json.dump(
        {
            "architectures": ["Ernie4_5ForCausalLM"],
            "model_type": "ernie4_5",
            "hidden_size": HIDDEN,
            "intermediate_size": WIDTH,
            "num_hidden_layers": n_layers,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "vocab_size": VOCAB,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "use_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
        },
        file,
    )
shapes = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN]}
for i in range(n_layers):
    layer = f"model.layers.{i}."
    shapes[layer + "input_layernorm.weight"] = [HIDDEN]
    shapes[layer + "post_attention_layernorm.weight"] = [HIDDEN]
    shapes[layer + "self_attn.q_proj.weight"] = [2048, HIDDEN]
    shapes[layer + "self_attn.k_proj.weight"] = [256, HIDDEN]
    shapes[layer + "self_attn.v_proj.weight"] = [256, HIDDEN]
    shapes[layer + "self_attn.o_proj.weight"] = [HIDDEN, 2048]
    shapes[layer + "mlp.gate_proj.weight"] = [WIDTH, HIDDEN]
    shapes[layer + "mlp.up_proj.weight"] = [WIDTH, HIDDEN]
    shapes[layer + "mlp.down_proj.weight"] = [HIDDEN, WIDTH]
header, at = {}, 0
for name, shape in shapes.items():
    n_bytes = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + n_bytes]}
    at += n_bytes
text = json.dumps(header).encode()
text += b" " * (-len(text) % 8)
with open(os.path.join(folder, "model.safetensors"), "wb") as file:
    file.write(struct.pack("<Q", len(text)) + text)
    file.truncate(8 + len(text) + at)
