"""Writes a checkpoint as a GGUF file, as llama.cpp's converter would:
gguf_from_checkpoint.py FOLDER OUT f32|bf16"""

import json
import os
import struct
import sys

folder, out, kind = sys.argv[1:4]
with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
    config = json.load(file)
with open(os.path.join(folder, "model.safetensors"), "rb") as file:
    data = file.read()
n_header = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8 : 8 + n_header])
F32, BF16 = 0, 30


def load(name):
    """Shape, dtype and bytes."""
    entry = header["model." + name]
    begin, end = (8 + n_header + at for at in entry["data_offsets"])
    return entry["shape"], entry["dtype"], data[begin:end]


def stack(parts):
    return [len(parts)] + parts[0][0], parts[0][1], b"".join(part[2] for part in parts)


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


pairs, infos, blobs, n_data = [], [], [], 0


def pair(key, value):
    if isinstance(value, str):
        pairs.append(text(key) + struct.pack("<I", 8) + text(value))
    elif isinstance(value, float):
        pairs.append(text(key) + struct.pack("<If", 6, value))
    else:
        pairs.append(text(key) + struct.pack("<II", 4, value))


def tensor(name, source):
    global n_data
    shape, dtype, raw = source
    exact = len(shape) == 1 or "ffn_gate_inp" in name
    if dtype == "BF16" and (exact or kind == "f32"):
        wide = bytearray(2 * len(raw))
        wide[2::4], wide[3::4] = raw[0::2], raw[1::2]
        dtype, raw = "F32", bytes(wide)
    infos.append(
        text(name)
        + struct.pack("<I", len(shape))
        + b"".join(struct.pack("<Q", dim) for dim in reversed(shape))
        + struct.pack("<IQ", F32 if dtype == "F32" else BF16, n_data)
    )
    raw += bytes(-len(raw) % 32)
    blobs.append(raw)
    n_data += len(raw)


def ffn(layer, end, load_part):
    for part in ("gate", "up", "down"):
        tensor(f"blk.{layer}.ffn_{part}{end}.weight", load_part(f"{part}_proj.weight"))


arch = "ernie4_5-moe"
pair("general.architecture", arch)
pair("general.name", "micro")
for key, value in {
    "block_count": config["num_hidden_layers"],
    "context_length": config["max_position_embeddings"],
    "embedding_length": config["hidden_size"],
    "feed_forward_length": config["intermediate_size"],
    "attention.head_count": config["num_attention_heads"],
    "attention.head_count_kv": config["num_key_value_heads"],
    "attention.key_length": config["head_dim"],
    "attention.value_length": config["head_dim"],
    "rope.freq_base": config["rope_theta"],
    "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
    "expert_count": config["moe_num_experts"],
    "expert_used_count": config["moe_k"],
    "expert_feed_forward_length": config["moe_intermediate_size"],
    "expert_shared_count": config["moe_num_shared_experts"],
    "interleave_moe_layer_step": config["moe_layer_interval"],
    "leading_dense_block_count": config["moe_layer_start_index"],
}.items():
    pair(f"{arch}.{key}", value)
for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("padding", "pad")):
    pair(f"tokenizer.ggml.{ours}_token_id", config[theirs + "_token_id"])

tensor("token_embd.weight", load("embed_tokens.weight"))
tensor("output_norm.weight", load("norm.weight"))
for i in range(config["num_hidden_layers"]):
    base = f"layers.{i}."
    tensor(f"blk.{i}.attn_norm.weight", load(base + "input_layernorm.weight"))
    tensor(f"blk.{i}.ffn_norm.weight", load(base + "post_attention_layernorm.weight"))
    for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("output", "o")):
        tensor(f"blk.{i}.attn_{ours}.weight", load(f"{base}self_attn.{theirs}_proj.weight"))
    mlp = base + "mlp."
    if i < config["moe_layer_start_index"]:
        ffn(i, "", lambda end: load(mlp + end))
        continue
    tensor(f"blk.{i}.ffn_gate_inp.weight", load(mlp + "gate.weight"))
    shape, dtype, raw = load(mlp + "moe_statics.e_score_correction_bias")
    tensor(f"blk.{i}.exp_probs_b.bias", (shape[-1:], dtype, raw))
    experts = range(config["moe_num_experts"])
    ffn(i, "_exps", lambda end: stack([load(f"{mlp}experts.{e}.{end}") for e in experts]))
    ffn(i, "_shexp", lambda end: load(f"{mlp}shared_experts.{end}"))

head = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) + b"".join(pairs + infos)
with open(out, "wb") as file:
    file.write(head + bytes(-len(head) % 32) + b"".join(blobs))
